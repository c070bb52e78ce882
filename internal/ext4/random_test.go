package ext4

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/rootfs/treetest"
)

// maxNames keeps each run of FuzzWrite short: the fuzzer takes what lasts ten seconds for a hang.
const maxNames = 600

// FuzzWrite writes random trees to disks that are just large enough for them. The reader and e2fsck judge.
func FuzzWrite(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed, uint16(80))
	}
	f.Add(uint64(1), uint16(maxNames-1))
	f.Fuzz(func(t *testing.T, seed uint64, names uint16) {
		tree := treetest.Random(rand.New(rand.NewPCG(seed, 0)), int(names)%maxNames)
		image, _ := written(t, tree, Options{Size: SizeFor(tree.Usage(), 0, 0), Label: "random"})
		mustRead(t, image, tree)
		mustBeClean(t, image)
		keepIfFailed(t, image)
	})
}

// mustRead fails the test if package volume does not read the tree from the image.
func mustRead(t testing.TB, image string, tree *rootfs.Tree) {
	t.Helper()
	got, err := readBack(t, image).Tree()
	if err != nil {
		t.Errorf("reading the file system back: %v", err)
		return
	}
	if tree.Root.Children["lost+found"] == nil {
		delete(got.Root.Children, "lost+found")
	}
	if d := treetest.Difference(describe(t, got), describe(t, tree)); d != "" {
		t.Errorf("the file system differs from the tree:\n%s", d)
	}
}

// readBack opens an image.
func readBack(t testing.TB, image string) *volume.Volume {
	t.Helper()
	in, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(in, info.Size())
	if err != nil {
		t.Fatalf("opening the file system: %v", err)
	}
	return v
}

func describe(t testing.TB, tree *rootfs.Tree) treetest.Lines {
	t.Helper()
	lines, err := treetest.Describe(tree)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// keepIfFailed keeps the image of a failed test, if BANGER_TEST_KEEP names a directory for it.
func keepIfFailed(t testing.TB, image string) {
	t.Helper()
	if dir := os.Getenv("BANGER_TEST_KEEP"); dir != "" && t.Failed() {
		_ = os.Rename(image, filepath.Join(dir, filepath.Base(t.Name())+".ext4"))
	}
}
