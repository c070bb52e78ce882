package imagepull

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/rootfs/treetest"
)

// TestRandomTrees: package volume and e2fsck judge an image of each tree, the newest e2fsck every eighth, and the kernel
// every tenth. A failing tree is that of its number: go test -run 'TestRandomTrees/native/^17$'.
func TestRandomTrees(t *testing.T) {
	count := map[string]uint64{"native": 2000, "mkfs": 24}
	if os.Getenv("BANGER_TEST_LONG") != "" {
		count = map[string]uint64{"native": 40_000, "mkfs": 500}
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		for seed := range count[b.Name()] {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				b.checkRandom(t, seed)
			})
		}
	})
}

func (b subject) checkRandom(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	names := 40
	if seed%50 == 0 {
		names = 300
	}
	tree := treetest.Random(r, names)
	least := b.MinSize(tree.Usage())
	if b.Name() == "mkfs" {
		makePlain(tree)
		least = max(least, smallLimit) // below it, files end at 4 TiB
	}
	size := least + r.Int64N(80<<20)/4096*4096
	w := work(t, tree, size)
	if _, err := b.Build(t.Context(), w, silent()); err != nil {
		t.Fatal(err)
	}
	keepIfFailed(t, w.OutFile)
	for i, checker := range checkers() {
		if i > 0 && seed%8 != 0 {
			continue
		}
		if err := fsckBy(t, checker, w.OutFile); err != nil {
			t.Fatalf("the image is not clean: %v", err)
		}
	}
	mustReadBack(t, tree, w.OutFile)
	if seed%10 == 0 || b.Name() == "mkfs" {
		mustMatch(t, tree, w.OutFile)
	}
}

// makePlain renames what a script of debugfs cannot carry.
func makePlain(tree *rootfs.Tree) {
	_ = tree.Walk(func(_ string, n *rootfs.Node) error {
		for _, name := range slices.Sorted(maps.Keys(n.Children)) {
			plain := strings.NewReplacer("\n", "_", "\r", "-").Replace(name)
			child := n.Children[name]
			delete(n.Children, name)
			if taken := n.Children[plain]; taken == nil {
				n.Children[plain] = child
			} else {
				forget(child)
			}
		}
		return nil
	})
}

// forget takes a name from a node, or from all that is below a directory.
func forget(n *rootfs.Node) {
	if n.Kind != rootfs.Directory {
		n.Links--
	}
	for _, child := range n.Children {
		forget(child)
	}
}
