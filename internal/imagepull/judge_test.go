package imagepull

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/rootfs/treetest"
	"github.com/banger-vm/banger/internal/system"
)

// testRunner finds programs on the PATH of the test.
func testRunner() *system.CommandRunner { return system.NewCommandRunner(os.Getenv("PATH")) }

// excused says whether BANGER_TEST_EXCUSE lists the reason for which a test may be skipped.
func excused(reason string) bool {
	return slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), reason)
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

// fact describes an inode in a line, but for its number of names if it is a directory.
func fact(n *rootfs.Node, content string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind %d mode %04o owner %d:%d time %d.%09d", n.Kind, n.Mode, n.UID, n.GID,
		n.MTime.Unix(), n.MTime.Nanosecond())
	switch n.Kind {
	case rootfs.Directory:
	case rootfs.Regular:
		fmt.Fprintf(&b, " size %d content %s links %d", n.Size, content, n.Links)
	case rootfs.Symlink:
		fmt.Fprintf(&b, " target %q links %d", n.Target, n.Links)
	default:
		fmt.Fprintf(&b, " device %d,%d links %d", n.Major, n.Minor, n.Links)
	}
	for _, x := range n.Xattrs {
		fmt.Fprintf(&b, " [%s=%.80x…%d]", x.Name, x.Value, len(x.Value))
	}
	return b.String()
}

// clamped returns the time that is in a file system for one of a tree: those that ext4 does not have are the nearest that
// it has, as in Linux (fs/inode.c: timestamp_truncate).
func clamped(t time.Time) time.Time {
	const first, last = -1 << 31, 1<<34 - 1<<31 - 1
	if s := t.Unix(); s < first || s > last {
		return time.Unix(min(max(s, first), last), 0)
	}
	return t
}

// treeFact is what a node of a tree has to be in a file system.
func treeFact(n *rootfs.Node) (string, error) {
	alone := *n
	alone.MTime = clamped(n.MTime)
	if n.Kind != rootfs.Regular {
		return fact(&alone, ""), nil
	}
	content, err := treeContent(n)
	return fact(&alone, content), err
}

// chunk is the unit, in bytes, in which contents are compared.
const chunk = 4096

// fingerprint hashes contents by what is not zero in them, so that holes cost nothing and are equal to zeros.
type fingerprint struct{ hash.Hash }

func newFingerprint() fingerprint { return fingerprint{sha256.New()} }

// add takes the next chunk, which begins at an offset.
func (f fingerprint) add(offset int64, data []byte) {
	data = bytes.TrimRight(data, "\x00")
	if len(data) > 0 {
		_, _ = f.Write(binary.LittleEndian.AppendUint64(nil, uint64(offset)))
		_, _ = f.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(data))))
		_, _ = f.Write(data)
	}
}

func (f fingerprint) String() string { return fmt.Sprintf("%x", f.Sum(nil)[:6]) }

// treeContent returns the fingerprint of a regular file of a tree.
func treeContent(n *rootfs.Node) (string, error) {
	f := newFingerprint()
	buf := make([]byte, chunk)
	at := int64(-1) // the chunk in buf
	flush := func() {
		if at >= 0 {
			f.add(at, buf)
		}
		clear(buf)
	}
	for _, e := range n.Extents {
		for done := int64(0); done < e.Length; {
			offset := e.Logical + done
			if offset/chunk*chunk != at {
				flush()
				at = offset / chunk * chunk
			}
			part := buf[offset-at : min(chunk, offset-at+e.Length-done)]
			if _, err := n.Source.ReadAt(part, e.Offset+done); err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			done += int64(len(part))
		}
	}
	flush()
	return f.String(), nil
}

// fileContent returns the fingerprint of a file of the host.
func fileContent(file *os.File, size int64) (string, error) {
	f := newFingerprint()
	buf := make([]byte, min(size, 256*chunk))
	for at := int64(0); at < size; {
		if size > int64(len(buf)) { // worth looking for holes
			next, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			if err != nil {
				return "", err
			}
			at = next / chunk * chunk
		}
		n, err := file.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		for part := buf[:n]; len(part) > 0; {
			length := min(chunk, len(part))
			f.add(at, part[:length])
			part, at = part[length:], at+int64(length)
		}
	}
	return f.String(), nil
}

// mountedNode is what the kernel says of one name.
type mountedNode struct {
	*rootfs.Node
	inode   uint64
	blocks  int64  // of 512 bytes
	names   uint64 // links, of directories too
	content string // fingerprint of a regular file
}

// nodeAt returns what the kernel says of a name in an open directory. No path is longer than the name, however deep the
// directory is.
func nodeAt(dir int, name string) (*mountedNode, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	n := &mountedNode{inode: st.Ino, blocks: st.Blocks, names: st.Nlink, Node: &rootfs.Node{
		Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid, MTime: time.Unix(st.Mtim.Unix()), Links: uint32(st.Nlink),
	}}
	var err error
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		n.Kind = rootfs.Directory
	case syscall.S_IFREG:
		n.Kind, n.Size = rootfs.Regular, st.Size
		n.content, err = contentAt(dir, name, st.Size)
	case syscall.S_IFLNK:
		n.Kind = rootfs.Symlink
		target := make([]byte, 8192)
		var length int
		length, err = unix.Readlinkat(dir, name, target)
		n.Target = string(target[:max(length, 0)])
		if err == nil && st.Size != int64(length) {
			err = fmt.Errorf("a size of %d for a target of %d bytes", st.Size, length)
		}
	case syscall.S_IFIFO:
		n.Kind = rootfs.FIFO
	case syscall.S_IFCHR:
		n.Kind, n.Major, n.Minor = rootfs.CharDevice, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case syscall.S_IFBLK:
		n.Kind, n.Major, n.Minor = rootfs.BlockDevice, unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	var errXattr error
	file := name // "/…" is where the image is mounted
	if !path.IsAbs(name) {
		file = fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	}
	n.Xattrs, errXattr = xattrsOf(file)
	return n, errors.Join(err, errXattr)
}

func contentAt(dir int, name string, size int64) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { _ = file.Close() }()
	return fileContent(file, size)
}

// xattrsOf reads the attributes of a file as the kernel shows them, sorted by name.
func xattrsOf(file string) ([]layer.Xattr, error) {
	size, err := unix.Llistxattr(file, nil)
	if err != nil || size == 0 {
		return nil, err
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(file, list); err != nil {
		return nil, err
	}
	var out []layer.Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:size], []byte{0}), []byte{0}) {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, layer.Xattr{Name: string(name), Value: string(value[:n])})
	}
	slices.SortFunc(out, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// comparison holds what the kernel says of a mounted file system against a tree.
type comparison struct {
	ignore map[string]bool // paths that the tree need not have, with all below them
	found  []string        // differences, of which the first are kept
	nodes  map[uint64]*rootfs.Node
	inodes map[*rootfs.Node]uint64
}

// mostDifferences are enough to see what is wrong.
const mostDifferences = 40

func (c *comparison) differ(path, format string, args ...any) {
	if len(c.found) < mostDifferences {
		c.found = append(c.found, fmt.Sprintf("%q%s", shortened(path), fmt.Sprintf(format, args...)))
	}
}

func shortened(path string) string {
	if len(path) > 600 {
		return path[:300] + "…" + path[len(path)-300:]
	}
	return path
}

// name compares one name, and what is below it.
func (c *comparison) name(dir int, base, path string, want *rootfs.Node) {
	got, err := nodeAt(dir, base)
	if err != nil {
		c.differ(path, ": %v", err)
		return
	}
	c.same(path, got.inode, want)
	said := fact(got.Node, got.content)
	expected, err := treeFact(want)
	if err != nil {
		c.differ(path, ": reading the tree: %v", err)
	}
	if said != expected || !slices.Equal(got.Xattrs, want.Xattrs) {
		c.differ(path, "\n    got  %s\n    want %s", said, expected)
	}
	if got.Kind == rootfs.Directory && want.Kind == rootfs.Directory {
		c.below(dir, base, path, want)
	}
}

// same compares which names are of one inode.
func (c *comparison) same(path string, inode uint64, want *rootfs.Node) {
	node, seen := c.nodes[inode]
	number, known := c.inodes[want]
	if seen && node != want || known && number != inode {
		c.differ(path, " has the inode %d, which should be another file's", inode)
	}
	if want.Kind == rootfs.Directory || want.Links > 1 {
		c.nodes[inode], c.inodes[want] = want, inode
	}
}

// below compares the names of a directory.
func (c *comparison) below(dir int, base, at string, want *rootfs.Node) {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		c.differ(at, ": %v", err)
		return
	}
	file := os.NewFile(uintptr(fd), base)
	defer func() { _ = file.Close() }()
	listed, err := file.Readdirnames(-1)
	if err != nil {
		c.differ(at, ": %v", err)
	}
	slices.Sort(listed)
	for i, name := range listed {
		if want.Children[name] == nil && !c.ignore[path.Join(at, name)] || i > 0 && listed[i-1] == name {
			c.differ(path.Join(at, name), " is listed, but not in the tree, or listed twice")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Children)) {
		if _, found := slices.BinarySearch(listed, name); !found {
			c.differ(path.Join(at, name), " is not listed")
		}
		c.name(fd, name, path.Join(at, name), want.Children[name])
	}
}

// mountDifference returns what the kernel finds otherwise than the tree says, or "". The tree need not have the
// lost+found that every ext4 file system has.
func mountDifference(dir string, tree *rootfs.Tree) string {
	c := &comparison{
		nodes: map[uint64]*rootfs.Node{}, inodes: map[*rootfs.Node]uint64{}, ignore: map[string]bool{"/lost+found": true},
	}
	c.name(unix.AT_FDCWD, dir, "/", tree.Root)
	return strings.Join(c.found, "\n")
}

// mustMatch fails the test if the kernel does not find the tree in the image, or complains of it. Where mounting is
// excused, package volume judges instead.
func mustMatch(t *testing.T, tree *rootfs.Tree, image string) {
	t.Helper()
	if os.Geteuid() != 0 && excused("mount") {
		mustReadBack(t, tree, image)
		return
	}
	dir, unmount := mounted(t, image, "loop,ro")
	if d := mountDifference(dir, tree); d != "" {
		t.Fatalf("the mounted image differs from the tree:\n%s", d)
	}
	unmount()
}

// mustLeaveOnly fails the test if there is anything beside the image.
func mustLeaveOnly(t *testing.T, image string) {
	t.Helper()
	beside, err := os.ReadDir(path.Dir(image))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range beside {
		if e.Name() != path.Base(image) {
			t.Errorf("left behind: %q", e.Name())
		}
	}
}

// mustReadBack fails the test if package volume does not read the tree from the image. It checks every checksum, index and
// link count on its way.
func mustReadBack(t *testing.T, tree *rootfs.Tree, image string) {
	t.Helper()
	if d, err := readDifference(image, tree); err != nil || d != "" {
		t.Fatalf("the image read back differs from the tree (%v):\n%s", err, d)
	}
}

// readDifference returns what package volume reads otherwise than the tree says.
func readDifference(image string, tree *rootfs.Tree) (string, error) {
	in, err := os.Open(image)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	v, err := volume.Open(in, info.Size())
	if err != nil {
		return "", err
	}
	got, err := v.Tree()
	if err != nil {
		return "", err
	}
	if tree.Root.Children["lost+found"] == nil {
		delete(got.Root.Children, "lost+found")
	}
	said, err := treetest.Describe(got)
	if err != nil {
		return "", err
	}
	want, err := treetest.Describe(copied(tree, func(n *rootfs.Node) { n.MTime = clamped(n.MTime) }))
	return treetest.Difference(said, want), err
}
