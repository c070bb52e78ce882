package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/rootfs"
)

// mounted mounts an image until the test ends and returns where, and how to end it sooner.
func mounted(t *testing.T, image, options string) (dir string, unmount func()) {
	t.Helper()
	needMount(t)
	dir = t.TempDir()
	runTool(t, "mount", "-o", options, image, dir)
	done := false
	unmount = func() {
		if !done {
			done = true
			runTool(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// TestKernel reads what the kernel has written, and compares it with what the kernel says of it.
func TestKernel(t *testing.T) {
	needMount(t)
	for _, f := range []struct {
		name, args string
		many       int  // names in one directory
		deep       bool // the test wants a level of its index below the root
	}{
		{name: "ext4", args: "-t ext4 -b 4096 -N 100000", many: 70000, deep: true},
		{name: "ext4 with 1024", args: "-t ext4 -b 1024", many: 6000, deep: true},
		{name: "ext3", args: "-t ext3 -b 1024", many: 2000},
		{name: "ext2", args: "-t ext2 -b 4096", many: 2000},
		{name: "inline_data", args: "-t ext4 -b 4096 -O inline_data", many: 2000},
		{name: "ea_inode", args: "-t ext4 -b 4096 -O ea_inode", many: 2000},
		{name: "no checksums", args: "-t ext4 -b 4096 -O ^metadata_csum,^64bit", many: 2000},
		{name: "small inodes", args: "-t ext4 -b 4096 -I 128", many: 2000},
	} {
		t.Run(f.name, func(t *testing.T) {
			image := makeImage(t, "", 384<<20, strings.Fields(f.args)...)
			dir, unmount := mounted(t, image, "loop")
			fill(t, dir, f.many, strings.Contains(f.args, "ea_inode"))
			want := hostFacts(t, dir, time.Nanosecond)
			unmount()
			mustBeClean(t, image)
			v := openImage(t, image)
			mustAgree(t, treeFacts(t, readTree(t, v), time.Nanosecond), want)
			mustAgree(t, walkFacts(t, v, "/", time.Nanosecond), want)
			mustHaveIndex(t, v, "/many")
			if f.deep {
				mustBeDeep(t, v, "/many")
			}
			mustMatchBitmaps(t, v)
		})
	}
}

// fill makes all that the kernel can have in a file system.
func fill(t *testing.T, dir string, many int, largeAttrs bool) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	fillNames(t, in, many)
	fillContent(t, in)
	fillAttrs(t, in, largeAttrs)
	must(t, os.Mkdir(in("times"), 0o755))
	for i, at := range []time.Time{
		time.Unix(0, 0), time.Unix(-1, 1), time.Unix(-1<<31, 999999999), time.Unix(1<<31-1, 5), time.Unix(1<<31, 6),
		time.Unix(1<<32, 7), time.Unix(15032385535, 0),
	} {
		file := in(fmt.Sprintf("times/%d", i))
		must(t, os.WriteFile(file, nil, 0o600), os.Chtimes(file, at, at))
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// fillNames makes files of every kind, links, owners, and a large directory in which half of the names are gone.
func fillNames(t *testing.T, in func(string) string, many int) {
	t.Helper()
	must(t, os.MkdirAll(in("a/b/c/d"), 0o755), os.Mkdir(in("many"), 0o755), os.Mkdir(in("sub"), 0o2770|os.ModeSetgid))
	for i := range many {
		must(t, os.WriteFile(in("many/"+longName(i)), nil, 0o644))
	}
	for i := 0; i < many; i += 7 {
		must(t, os.Remove(in("many/"+longName(i))))
	}
	for i := range 300 {
		must(t, os.Mkdir(in(fmt.Sprintf("sub/%d", i)), 0o700))
	}
	for _, length := range []int{1, 58, 59, 60, 61, 200, 1000, 4095} {
		err := os.Symlink(strings.Repeat("t", length), in(fmt.Sprintf("a/symlink-%d", length)))
		if !errors.Is(err, unix.ENAMETOOLONG) {
			must(t, err)
		}
	}
	must(t, os.WriteFile(in("a/file"), []byte("file"), 0o640), os.Link(in("a/file"), in("a/b/link")),
		os.Link(in("a/symlink-61"), in("a/b/symlink-link")), os.Chown(in("a/file"), 4000000000, 70000),
		os.Chmod(in("a/file"), 0o4751|os.ModeSetuid), os.Lchown(in("a/symlink-1"), 65536, 65535))
	for i, device := range [][3]uint32{
		{unix.S_IFCHR, 1, 3}, {unix.S_IFCHR, 255, 255}, {unix.S_IFBLK, 256, 1}, {unix.S_IFBLK, 8, 256},
		{unix.S_IFCHR, 4095, 1048575}, {unix.S_IFCHR, 0, 0}, {unix.S_IFIFO, 0, 0},
	} {
		must(t, unix.Mknod(in(fmt.Sprintf("a/device-%d", i)), device[0]|0o620, int(unix.Mkdev(device[1], device[2]))))
	}
	listener, err := net.Listen("unix", in("a/socket"))
	must(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, listener.Close())
}

// fillContent makes files with many extents, with holes at every place, and with blocks that were never written.
func fillContent(t *testing.T, in func(string) string) {
	t.Helper()
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, size := range []int{1, 59, 60, 61, 100, 150, 160, 1024, 4096, 5000, 1 << 20} {
		must(t, os.WriteFile(in(fmt.Sprintf("bytes-%d", size)), random[:size], 0o644))
	}
	f, err := os.Create(in("extents"))
	must(t, err)
	for i := range int64(3000) {
		_, err := f.WriteAt(random[i:i+4096], i<<13+1<<12)
		must(t, err)
	}
	must(t, f.Truncate(30<<20), f.Close())
	f, err = os.Create(in("large-hole"))
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 200<<20)
	must(t, err, f.Close(), os.WriteFile(in("punched"), random, 0o644))
	f, err = os.OpenFile(in("punched"), os.O_RDWR, 0)
	must(t, err)
	for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 0, unix.FALLOC_FL_KEEP_SIZE} {
		offset := map[uint32]int64{0: 1 << 20}[mode]
		if mode == unix.FALLOC_FL_KEEP_SIZE {
			offset = 4 << 20
		}
		err := unix.Fallocate(int(f.Fd()), mode, offset+8192, 512<<10)
		if !errors.Is(err, unix.ENOTSUP) { // ext2 and ext3 files have no blocks that are not written
			must(t, err)
		}
	}
	_, err = f.WriteAt(random[:10], 1<<20+100<<10)
	must(t, err, f.Close())
}

// fillAttrs gives files attributes in the inode, in a block, in a shared block, and in other inodes.
func fillAttrs(t *testing.T, in func(string) string, large bool) {
	t.Helper()
	set := func(file, name, value string) {
		t.Helper()
		must(t, unix.Setxattr(in(file), name, []byte(value), 0))
	}
	must(t, os.Mkdir(in("attrs"), 0o755))
	for i := range 20 {
		file := fmt.Sprintf("attrs/%d", i)
		must(t, os.WriteFile(in(file), nil, 0o755))
		set(file, "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
		set(file, "user.shared", strings.Repeat("shared by all", 40))
		if i%3 == 0 {
			set(file, "user.own", fmt.Sprint("own ", i))
			set(file, "trusted.\xff", "unsigned")
		}
		if i == 4 {
			set(file, "user.empty", "")
			set(file, "user.b", "1")
			set(file, "user.aa", "2")
			set(file, "security.banger", "3")
		}
	}
	set("attrs", "system.posix_acl_default", acl(7, 5, 1000, 7, 0))
	set("attrs/1", "system.posix_acl_access", acl(6, 4, 4000000000, 7, 4))
	must(t, os.WriteFile(in("attrs/inherits"), nil, 0o666), os.Mkdir(in("attrs/inherits-too"), 0o777))
	if large {
		set("attrs/2", "user.large", strings.Repeat("large value", 5000))
		set("attrs/5", "user.large", strings.Repeat("large value", 5000))
		set("attrs/7", "user.other", strings.Repeat("another", 900))
	}
}

// acl returns an ACL in the form of the system call, with an entry for one user.
func acl(owner, group uint16, user uint32, permissions, other uint16) string {
	const nobody = 1<<32 - 1
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, permissions uint16
		id               uint32
	}{{1, owner, nobody}, {2, permissions, user}, {4, group, nobody}, {0x10, 7, nobody}, {0x20, other, nobody}} {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.permissions)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return string(out)
}

// mustBeDeep fails the test if the index of a directory has no level below its root.
func mustBeDeep(t *testing.T, v *Volume, path string) {
	t.Helper()
	dir, err := v.Lookup(path)
	must(t, err)
	m, err := v.BlockMap(dir)
	must(t, err)
	x, _, err := v.readRoot(&dir, &m)
	must(t, err)
	if x.levels == 0 {
		t.Errorf("the index of %q has no level below the root, which the test is about", path)
	}
}

// TestKernelExtents: the depth of the tree, and that debugfs, which judges, finds the same extents.
func TestKernelExtents(t *testing.T) {
	needMount(t)
	image := makeImage(t, "", 128<<20, "-t", "ext4", "-b", "4096")
	dir, unmount := mounted(t, image, "loop")
	fillContent(t, func(name string) string { return filepath.Join(dir, name) })
	must(t, os.WriteFile(filepath.Join(dir, "huge"), nil, 0o644), os.Truncate(filepath.Join(dir, "huge"), 5<<40))
	unmount()
	v := openImage(t, image)
	if n := readTree(t, v).Root.Children["huge"]; n.Size != 5<<40 || n.Extents != nil {
		t.Errorf("the file of 5 TiB has %d bytes and %d extents; want none", n.Size, len(n.Extents))
	}
	for path, least := range map[string]struct{ depth, extents int }{"/extents": {2, 3000}, "/punched": {0, 3}} {
		in, err := v.Lookup(path)
		must(t, err)
		m, err := v.BlockMap(in)
		must(t, err)
		if m.Depth < least.depth || len(m.Extents) < least.extents {
			t.Errorf("%s has %d levels and %d extents; the test wants %+v", path, m.Depth, len(m.Extents), least)
		}
		if got, want := extentLines(m), debugfsExtents(t, image, path); got != want {
			t.Errorf("the extents of %s are\n%s; debugfs says\n%s", path, got, want)
		}
	}
}

// extentLines lists extents as debugfsExtents does.
func extentLines(m BlockMap) string {
	var b strings.Builder
	for _, e := range m.Extents {
		fmt.Fprintf(&b, "%d-%d at %d unwritten %v\n", e.Logical, e.Logical+e.Length-1, e.Physical, e.Unwritten)
	}
	return b.String()
}

// debugfsExtents lists the extents in the leaves, of which debugfs prints a line each: level, entry, first and last
// logical block, first and last physical block, length, flags.
func debugfsExtents(t *testing.T, image, path string) string {
	t.Helper()
	var b strings.Builder
	replace := strings.NewReplacer("/", " ", "-", " ")
	for line := range strings.Lines(runTool(t, "debugfs", "-R", "dump_extents -l "+path, image)) {
		var level, levels, entry, entries, from, to, physical, last, length uint64
		var flags string
		n, _ := fmt.Sscan(replace.Replace(line), &level, &levels, &entry, &entries, &from, &to, &physical, &last, &length,
			&flags)
		if n >= 9 {
			fmt.Fprintf(&b, "%d-%d at %d unwritten %v\n", from, to, physical, flags == "Uninit")
		}
	}
	return b.String()
}

// TestNeedsRecovery: what is mounted, or was torn out, is refused with words that say so.
func TestNeedsRecovery(t *testing.T) {
	needMount(t)
	for _, kind := range []string{"ext4", "ext2"} {
		image := makeImage(t, "", 64<<20, "-t", kind)
		dir, unmount := mounted(t, image, "loop")
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644))
		runTool(t, "sync", "-f", dir)
		_, err := tryOpen(t, image)
		mustFault(t, err, conflict, "unmounted")
		unmount()
		if tree := readTree(t, openImage(t, image)); tree.Root.Children["file"].Kind != rootfs.Regular {
			t.Errorf("%s: the file is not there after the file system was unmounted", kind)
		}
	}
}
