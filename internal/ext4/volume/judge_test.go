package volume

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

// tryTool runs a program of e2fsprogs, whose clock stands still, and returns what it prints.
func tryTool(name string, args ...string) (string, error) {
	runner := system.NewCommandRunner(os.Getenv("PATH"))
	out, err := runner.Run(context.Background(), system.Command{
		Name: name, Args: args, Env: []string{"E2FSPROGS_FAKE_TIME=1700000000"},
	})
	return out.Output(), err
}

// runTool runs a program which has to succeed.
func runTool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := tryTool(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// makeImage has mke2fs make a file system of size bytes with what is in a directory of the host.
func makeImage(t testing.TB, source string, size int64, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	if source != "" {
		args = append(args, "-d", source)
	}
	runTool(t, "mke2fs", append(append([]string{"-q", "-F"}, args...), image)...)
	return image
}

// rebuildIndexes has e2fsck give an index to each directory that is large enough for one.
func rebuildIndexes(t testing.TB, image string) {
	t.Helper()
	out, err := tryTool("e2fsck", "-fyD", image)
	var exit *system.ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		err = nil // it has changed something
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		// debugfs counts neither the blocks of an attribute that is in an inode nor quotas.
		known := strings.Contains(line, "i_blocks is") || strings.HasPrefix(line, "Update quota info")
		if strings.Contains(line, "? yes") && !known {
			t.Fatalf("e2fsck found an error: %s", out)
		}
	}
}

// mustBeClean fails the test if e2fsck finds anything wrong.
func mustBeClean(t testing.TB, image string) {
	t.Helper()
	runTool(t, "e2fsck", "-fn", image)
}

// debugfs runs a script on an image that it may change. debugfs's own messages, which are none if all is well, fail the
// test.
func debugfs(t testing.TB, image string, commands ...string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := runTool(t, "debugfs", "-w", "-f", script, image)
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		said := func(words string) bool { return strings.HasPrefix(line, words) }
		if line != "" && !said("debugfs") && !said("Allocated inode") && !said("Checksum set to") {
			t.Fatalf("debugfs: %s", out)
		}
	}
}

// openImage opens the file system in a file, which is closed when the test ends.
func openImage(t testing.TB, image string) *Volume {
	t.Helper()
	v, err := tryOpen(t, image)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return v
}

func tryOpen(t testing.TB, image string) (*Volume, error) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return Open(f, st.Size())
}

// readTree reads the file system in a file.
func readTree(t testing.TB, v *Volume) *rootfs.Tree {
	t.Helper()
	tree, err := v.Tree()
	if err != nil {
		t.Fatalf("Tree: %v", err)
	}
	return tree
}

// facts are what is known of each name: one line a name, so that a difference reads well.
type facts map[string]string

// fact describes one inode. first is the first of its names, so that hard links are told apart from copies. Times are
// cut to a resolution, because mke2fs copies seconds.
func fact(n *rootfs.Node, content [32]byte, first string, resolution time.Duration) string {
	var b strings.Builder
	at := n.MTime.Truncate(resolution)
	fmt.Fprintf(&b, "kind %d mode %04o owner %d:%d time %d.%09d", n.Kind, n.Mode, n.UID, n.GID, at.Unix(), at.Nanosecond())
	switch n.Kind {
	case rootfs.Directory:
	case rootfs.Regular:
		fmt.Fprintf(&b, " size %d content %x links %d like %q", n.Size, content[:4], n.Links, first)
	case rootfs.Symlink:
		fmt.Fprintf(&b, " target %q links %d like %q", n.Target, n.Links, first)
	default:
		fmt.Fprintf(&b, " device %d,%d links %d like %q", n.Major, n.Minor, n.Links, first)
	}
	for _, x := range n.Xattrs {
		sum := sha256.Sum256([]byte(x.Value))
		fmt.Fprintf(&b, " [%s=%d bytes, %x]", x.Name, len(x.Value), sum[:4])
	}
	return b.String()
}

// treeFacts are what a tree says. The content of the files is read through the tree's own extents.
func treeFacts(t testing.TB, tree *rootfs.Tree, resolution time.Duration) facts {
	t.Helper()
	out := facts{}
	first := map[*rootfs.Node]string{}
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		if _, ok := first[n]; !ok {
			first[n] = path
		}
		out[path] = fact(n, hashNode(t, n), first[n], resolution)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// hashNode returns the hash of a node's content, or that of nothing.
func hashNode(t testing.TB, n *rootfs.Node) [32]byte {
	t.Helper()
	hash := sha256.New()
	if n.Kind == rootfs.Regular {
		_, err := io.Copy(hash, n.Open())
		must(t, err)
	}
	return [32]byte(hash.Sum(nil))
}

// hostFacts are what the host's kernel says of a directory. Sockets are left out, as a Tree leaves them out.
func hostFacts(t testing.TB, dir string, resolution time.Duration) facts {
	t.Helper()
	out := facts{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(file, dir), "/")
		if err != nil || e.Type() == fs.ModeSocket {
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
		out[path] = fact(n, content, first[st.Ino], resolution)
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
	content := sha256.Sum256(nil)
	var err error
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.Kind = rootfs.Directory
	case syscall.S_IFREG:
		n.Kind, n.Size = rootfs.Regular, st.Size
		content, err = hashOf(file)
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
	return n, content, errors.Join(err, errXattr)
}

func hashOf(file string) ([32]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return [32]byte{}, err
	}
	defer f.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return [32]byte(hash.Sum(nil)), err
}

// xattrsOf reads the attributes of a file as the kernel shows them, sorted by name.
func xattrsOf(file string) ([]layer.Xattr, error) {
	list := make([]byte, 64<<10)
	size, err := unix.Llistxattr(file, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
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

// mustAgree fails the test if two judges disagree on any name.
func mustAgree(t testing.TB, got, want facts) {
	t.Helper()
	var b strings.Builder
	names := maps.Clone(want)
	maps.Copy(names, got)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if got[name] != want[name] && b.Len() < 4000 {
			fmt.Fprintf(&b, "%q\n    got  %s\n    want %s\n", name, got[name], want[name])
		}
	}
	if b.Len() > 0 {
		t.Fatalf("the tree that was read differs from what is there:\n%s", b.String())
	}
}

// mustFindHashed fails the test if the index of a directory does not lead to its names, or leads to one that is not
// there. Of very many names it takes 3000, evenly: Tree has compared the hashes of all of them with the index.
func mustFindHashed(t testing.TB, v *Volume, path string) {
	t.Helper()
	dir, err := v.Lookup(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := v.readDirectory(&dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(d.entries); i += 1 + len(d.entries)/3000 {
		e := d.entries[i]
		if got, err := v.LookupHashed(dir.Number, e.name); err != nil || got != e.inode {
			t.Fatalf("LookupHashed(%q, %q) = %d, %v; want %d", path, e.name, got, err, e.inode)
		}
	}
	if got, err := v.LookupHashed(dir.Number, "no such name"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("LookupHashed of a name that does not exist = %d, %v; want that it does not exist", got, err)
	}
}
