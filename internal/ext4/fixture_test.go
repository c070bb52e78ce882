package ext4

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// newDirectory returns a directory without entries.
func newDirectory() *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: time.Unix(3, 7), Children: map[string]*rootfs.Node{}}
}

// newFile returns a regular file with this content and one name.
func newFile(content string) *rootfs.Node {
	n := &rootfs.Node{Kind: rootfs.Regular, Mode: 0o644, MTime: time.Unix(2, 5), Size: int64(len(content)), Links: 1}
	if content != "" {
		n.Source = strings.NewReader(content)
		n.Extents = []layer.Extent{{Length: int64(len(content))}}
	}
	return n
}

// newSymlink returns a symbolic link with one name.
func newSymlink(target string) *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Symlink, Mode: 0o777, MTime: time.Unix(4, 0), Target: target, Links: 1}
}

// emptyFile returns a new file, which is closed and removed after the test.
func emptyFile(t testing.TB) *os.File {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "rootfs.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return out
}

// written writes a tree to a file of the test's, and returns its name.
func written(t testing.TB, tree *rootfs.Tree, o Options) (image string, summary Summary) {
	t.Helper()
	out := emptyFile(t)
	summary, err := Write(t.Context(), tree, out, o)
	if err != nil {
		t.Fatal(err)
	}
	return out.Name(), summary
}

// mustBeClean fails the test if e2fsck finds anything wrong.
func mustBeClean(t testing.TB, image string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}
