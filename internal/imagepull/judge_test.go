package imagepull

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// testRunner finds programs on the PATH of the test.
func testRunner() *system.CommandRunner { return system.NewCommandRunner(os.Getenv("PATH")) }

// excused says whether BANGER_TEST_EXCUSE lists the reason for which a test may be skipped.
func excused(reason string) bool {
	return slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), reason)
}

// needMount skips or fails a test that mounts, where it cannot.
func needMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if excused("mount") {
		t.Skip("mounting needs root; excused by BANGER_TEST_EXCUSE")
	}
	t.Fatal("mounting needs root; BANGER_TEST_EXCUSE=mount skips this test")
}

// run runs a program which has to succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := testRunner().Run(context.Background(), system.Command{Name: name, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return out.Output()
}

// fsck returns what e2fsck finds wrong with an image. It is given another name, because it takes what follows a "?"
// for options.
func fsck(t *testing.T, image string) error {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	_, err := testRunner().Run(context.Background(), system.Command{Name: "e2fsck", Args: []string{"-fn", link}})
	return err
}

// mustBeClean fails the test if e2fsck finds anything wrong.
func mustBeClean(t *testing.T, image string) {
	t.Helper()
	if err := fsck(t, image); err != nil {
		t.Fatalf("e2fsck after the step: %v", err)
	}
}

// mounted mounts an image, read-only unless options say otherwise, until the test ends, and returns where.
func mounted(t *testing.T, image string, options string) (dir string, unmount func()) {
	t.Helper()
	needMount(t)
	dir = t.TempDir()
	run(t, "mount", "-o", options, image, dir)
	done := false
	unmount = func() {
		if !done {
			done = true
			run(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// facts are what a judge says of each name: one line a name, so that a difference reads well.
type facts map[string]string

// fact describes one inode. names is the first of its names, in order, so that hard links are told apart from copies.
func fact(n *rootfs.Node, content [32]byte, names string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind %d mode %04o owner %d:%d time %d.%09d", n.Kind, n.Mode, n.UID, n.GID,
		n.MTime.Unix(), n.MTime.Nanosecond())
	switch n.Kind {
	case rootfs.Directory:
	case rootfs.Regular:
		fmt.Fprintf(&b, " size %d content %x links %d like %q", n.Size, content[:4], n.Links, names)
	case rootfs.Symlink:
		fmt.Fprintf(&b, " target %q links %d like %q", n.Target, n.Links, names)
	default:
		fmt.Fprintf(&b, " device %d,%d links %d like %q", n.Major, n.Minor, n.Links, names)
	}
	for _, x := range n.Xattrs {
		fmt.Fprintf(&b, " [%s=%x]", x.Name, x.Value)
	}
	return b.String()
}

// treeFacts are what the tree says.
func treeFacts(t *testing.T, tree *rootfs.Tree) facts {
	t.Helper()
	out := facts{}
	first := map[*rootfs.Node]string{}
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		if _, ok := first[n]; !ok {
			first[n] = path
		}
		out[path] = fact(n, sha256.Sum256(contentOf(t, n)), first[n])
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// contentOf returns the bytes of a regular file of a tree.
func contentOf(t *testing.T, n *rootfs.Node) []byte {
	t.Helper()
	out := make([]byte, n.Size)
	for _, e := range n.Extents {
		if _, err := n.Source.ReadAt(out[e.Logical:e.Logical+e.Length], e.Offset); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	return out
}

// mountFacts are what the kernel says of a mounted image.
func mountFacts(t *testing.T, dir string) facts {
	t.Helper()
	out := facts{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(file, dir), "/")
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); err != nil {
			return err
		}
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = path
		}
		n, content, err := nodeOf(file, &st)
		out[path] = fact(n, content, first[st.Ino])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nodeOf makes the node that a file of the host would be, and the hash of its content.
func nodeOf(file string, st *unix.Stat_t) (*rootfs.Node, [32]byte, error) {
	n := &rootfs.Node{
		Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, MTime: time.Unix(st.Mtim.Unix()), Links: uint32(st.Nlink),
	}
	var content []byte
	var err error
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.Kind = rootfs.Directory
	case syscall.S_IFREG:
		n.Kind, n.Size = rootfs.Regular, st.Size
		content, err = os.ReadFile(file)
	case syscall.S_IFLNK:
		n.Kind = rootfs.Symlink
		n.Target, err = os.Readlink(file)
	case syscall.S_IFIFO:
		n.Kind = rootfs.FIFO
	case syscall.S_IFCHR:
		n.Kind, n.Major, n.Minor = rootfs.CharDevice, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case syscall.S_IFBLK:
		n.Kind, n.Major, n.Minor = rootfs.BlockDevice, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	var errXattr error
	n.Xattrs, errXattr = xattrsOf(file)
	return n, sha256.Sum256(content), errors.Join(err, errXattr)
}

// xattrsOf reads the attributes of a file as the kernel shows them, sorted by name.
func xattrsOf(file string) ([]layer.Xattr, error) {
	list := make([]byte, 64<<10)
	size, err := unix.Llistxattr(file, list)
	if err != nil {
		return nil, err
	}
	var out []layer.Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:size], []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, name, err)
		}
		out = append(out, layer.Xattr{Name: string(name), Value: string(value[:n])})
	}
	slices.SortFunc(out, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// difference returns what two judges disagree on, a line each, or "".
func difference(got, want facts) string {
	var b strings.Builder
	names := maps.Clone(want)
	maps.Copy(names, got)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if got[name] != want[name] {
			fmt.Fprintf(&b, "%q\n    got  %s\n    want %s\n", name, got[name], want[name])
		}
	}
	return b.String()
}

// mountDifference returns what the kernel finds otherwise than the tree says, but for the lost+found that mkfs.ext4
// makes.
func mountDifference(t *testing.T, dir string, tree *rootfs.Tree) string {
	t.Helper()
	got, want := mountFacts(t, dir), treeFacts(t, tree)
	if want["/lost+found"] == "" {
		delete(got, "/lost+found")
	}
	return difference(got, want)
}

// mustMatch fails the test if the kernel does not find the tree in the image.
func mustMatch(t *testing.T, tree *rootfs.Tree, image string) {
	t.Helper()
	dir, unmount := mounted(t, image, "loop,ro")
	if d := mountDifference(t, dir, tree); d != "" {
		t.Fatalf("the mounted image differs from the tree:\n%s", d)
	}
	unmount()
}

// build stages a tree and makes an image of it, owners applied, with e2fsck after each step.
func build(t *testing.T, tree *rootfs.Tree, size int64) string {
	t.Helper()
	ctx := context.Background()
	image := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := BuildExt4(ctx, testRunner(), staged(t, tree), image, size); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	if err := ApplyOwnership(ctx, testRunner(), tree, image); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	mustLeaveOnly(t, image)
	return image
}

// mustLeaveOnly fails the test if there is anything beside the image.
func mustLeaveOnly(t *testing.T, image string) {
	t.Helper()
	beside, err := os.ReadDir(filepath.Dir(image))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range beside {
		if e.Name() != filepath.Base(image) {
			t.Errorf("left behind: %q", e.Name())
		}
	}
}
