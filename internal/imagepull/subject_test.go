package imagepull

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/rootfs"
)

// subject is a Builder under test.
type subject struct {
	Builder
	cannot map[string]string // case of the contract to the reason why the builder does not do it
}

// subjects are all builders. What one cannot do is part of what it promises: the reasons are those of its documentation.
func subjects() []subject {
	const (
		quadratic = "mkfs.ext4 -d needs time that grows with the square of a directory's length"
		script    = "a line of a debugfs script has no line feed"
		crash     = "mkfs.ext4 -d crashes on a path of some thousand bytes"
	)
	return []subject{
		{Builder: Native{}},
		{Builder: Mkfs{Runner: testRunner()}, cannot: map[string]string{
			"names with line feeds":      script,
			"3000 long names":            quadratic,
			"full indexes":               quadratic,
			"100000 names":               quadratic,
			"a million names":            quadratic,
			"66000 directories":          quadratic,
			"64997 to 64999 directories": quadratic,

			"2000 levels": crash,
			"equal trees": "mkfs.ext4 takes the times and the UUID from the clock and from chance",
		}},
	}
}

// eachBuilder runs a test of what the package promises for every builder.
func eachBuilder(t *testing.T, test func(t *testing.T, b subject)) {
	t.Helper()
	for _, b := range subjects() {
		t.Run(b.Name(), func(t *testing.T) { test(t, b) })
	}
}

// need skips a case that the builder does not do.
func (b subject) need(t *testing.T, name string) {
	t.Helper()
	if why := b.cannot[name]; why != "" {
		t.Skipf("builder %s: %s", b.Name(), why)
	}
}

// needPatience skips a case that takes minutes, unless BANGER_TEST_LONG is set.
func needPatience(t *testing.T) {
	t.Helper()
	if os.Getenv("BANGER_TEST_LONG") == "" {
		t.Skip("it takes minutes: run it by `make long`")
	}
}

// work is a Work for a tree without the agent, on a disk of a size in bytes.
func work(t *testing.T, tree *rootfs.Tree, size int64) Work {
	t.Helper()
	return Work{
		Tree: tree, Usage: tree.Usage(), Dir: t.TempDir(), OutFile: filepath.Join(t.TempDir(), "rootfs.ext4"),
		Size: func(rootfs.Usage) (int64, error) { return size, nil },
	}
}

// silent are steps that nobody is told of.
func silent() Steps { return Steps{Now: time.Now, Report: func(Step) {}} }

// build makes an image that e2fsck finds clean.
func (b subject) build(t *testing.T, tree *rootfs.Tree, size int64) (image string) {
	t.Helper()
	w := work(t, tree, size)
	got, err := b.Build(context.Background(), w, silent())
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(w.OutFile); err != nil || got != size || info.Size() != size || info.Mode() != 0o600 {
		t.Fatalf("Build returned the size %d and made %v (%v); want %d bytes with the mode 0600", got, info, err, size)
	}
	keepIfFailed(t, w.OutFile)
	mustBeClean(t, w.OutFile)
	mustLeaveOnly(t, w.OutFile)
	return w.OutFile
}

// holds builds the tree and has the kernel compare the image with it.
func (b subject) holds(t *testing.T, tree *rootfs.Tree, size int64) (image string) {
	t.Helper()
	image = b.build(t, tree, size)
	mustMatch(t, tree, image)
	return image
}

// keepIfFailed keeps an image of a test that fails, if BANGER_TEST_KEEP names a directory for it.
func keepIfFailed(t *testing.T, image string) {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_KEEP")
	if dir == "" {
		return
	}
	t.Cleanup(func() {
		if t.Failed() {
			kept := filepath.Join(dir, strings.NewReplacer("/", "-", " ", "_").Replace(t.Name())+".ext4")
			run(t, "cp", "--sparse=always", image, kept)
			t.Logf("the image is kept: %s", kept)
		}
	})
}

// copyOf returns a copy of an image, to be changed.
func copyOf(t *testing.T, image string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy.ext4")
	run(t, "cp", image, out)
	return out
}

// withAssets is a Work with what the guest gets.
func withAssets(w Work, assets []guest.Asset) Work {
	w.Assets, w.Guest = assets, "agent"
	return w
}
