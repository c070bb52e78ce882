package imagepull

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// fullTree has one of everything that can go wrong.
func fullTree() *rootfs.Tree {
	tree := newTree()
	tree.Root.UID, tree.Root.GID, tree.Root.Mode = 3, 4, 0o1751
	tree.Root.MTime = time.Unix(1_600_000_000, 123456789)
	tree.Root.Xattrs = []layer.Xattr{{Name: "trusted.root", Value: "\x00\xff"}}
	put(tree, "/usr", newDir())
	put(tree, "/usr/bin", newDir())
	su := put(tree, "/usr/bin/su", file("setuid"))
	su.Mode = 0o4755
	ping := put(tree, "/usr/bin/ping", file("with a capability"))
	ping.Xattrs = []layer.Xattr{capability(1 << 13)}
	put(tree, "/usr/bin/ping6", ping)
	link := put(tree, "/usr/bin/link", symlink("su"))
	put(tree, "/usr/bin/same link", link)
	put(tree, "/usr/long", symlink(strings.Repeat("l", 900)))
	put(tree, "/dev", newDir())
	null := put(tree, "/dev/null", special(rootfs.CharDevice, 1, 3))
	null.Mode = 0o666
	put(tree, "/null again", null)
	put(tree, "/dev/<8>", special(rootfs.BlockDevice, 259, 1<<20-1))
	put(tree, "/pipe", special(rootfs.FIFO, 0, 0))
	put(tree, "/empty", file(""))
	big := put(tree, "/big owner", file("x"))
	big.UID, big.GID = 4_000_000_000, 65_536
	put(tree, "/odd", newDir())
	for _, name := range oddNames() {
		put(tree, "/odd/"+name, file(name))
		if !strings.Contains(name, "\r") {
			put(tree, "/dev/"+name, special(rootfs.CharDevice, 5, 1))
		}
	}
	return tree
}

func TestApplyOwnershipIsWhatTheKernelSees(t *testing.T) {
	tree := fullTree()
	mustMatch(t, tree, build(t, tree, MinExt4Size))
}

// With blocks of 4 KiB, attributes have more room, and directories are longer.
func TestApplyOwnershipOnALargeDisk(t *testing.T) {
	tree := fullTree()
	value := strings.Repeat("\x00value", 500)
	tree.Root.Children["empty"].Xattrs = []layer.Xattr{{Name: "user.large", Value: value}}
	put(tree, "/many", newDir())
	for i := range 2000 {
		put(tree, fmt.Sprintf("/many/%d-%s", i, strings.Repeat("n", i%200)), file(""))
	}
	mustMatch(t, tree, build(t, tree, 1<<30))
}

// mkfs.ext4 makes a lost+found, which the image may have as well.
func TestLostAndFoundOfTheImage(t *testing.T) {
	tree := newTree()
	put(tree, "/lost+found", newDir()).Mode = 0o711
	put(tree, "/lost+found/#12", file("found"))
	mustMatch(t, tree, build(t, tree, MinExt4Size))
}

func TestRandomTrees(t *testing.T) {
	needMount(t)
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			tree := randomTree(rand.New(rand.NewPCG(seed, 1)))
			mustMatch(t, tree, build(t, tree, MinExt4Size))
		})
	}
}

// The second judge needs no root: what debugfs says of each inode.
func TestApplyOwnershipIsWhatDebugfsShows(t *testing.T) {
	tree := fullTree()
	image := build(t, tree, MinExt4Size)
	d, err := newDebugfs(testRunner(), image)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	s, err := d.script("stat")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	var want []map[string]string
	err = tree.Walk(func(path string, n *rootfs.Node) error {
		if !strings.Contains(path, "\r") {
			paths, want = append(paths, path), append(want, statOf(n))
			s.do("stat", s.quote(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	got := make([]string, len(paths)+1)
	err = d.run(context.Background(), s, false, func(a answer) error {
		got[a.number] += a.text + "\n"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range paths {
		for what, value := range want[i] {
			if !strings.Contains(got[i], value) {
				t.Errorf("%q has another %s than %q:\n%s", path, what, value, got[i])
			}
		}
	}
}

// statOf returns what debugfs's stat prints of a node. It shows owners as signed numbers.
func statOf(n *rootfs.Node) map[string]string {
	seconds, extra := encodeTime(n.MTime)
	out := map[string]string{
		"mode":  fmt.Sprintf("Mode:  0%03o", n.Mode),
		"owner": fmt.Sprintf("User: %5d   Group: %5d ", int32(n.UID), int32(n.GID)),
		"time":  fmt.Sprintf("mtime: 0x%08x:%08x ", seconds, extra),
	}
	if n.Kind != rootfs.Directory {
		out["link count"] = fmt.Sprintf("Links: %d ", n.Links)
	}
	if n.Kind == rootfs.CharDevice || n.Kind == rootfs.BlockDevice {
		out["device"] = fmt.Sprintf("Device major/minor number: %02d:%02d ", n.Major, n.Minor)
	}
	for _, x := range n.Xattrs {
		out[x.Name] = fmt.Sprintf("  %s (%d)", x.Name, len(x.Value))
	}
	return out
}

// Directories without room for another name: mknod and ln have to make them longer.
func TestSpecialFilesInFullDirectories(t *testing.T) {
	tree := newTree()
	null := special(rootfs.CharDevice, 1, 3)
	link := symlink("target")
	for d := range 12 {
		dir := fmt.Sprintf("/%d", d)
		put(tree, dir, newDir())
		for i := range 3 + d { // blocks of 1 KiB take four of these names
			put(tree, fmt.Sprintf("%s/%d%s", dir, i, strings.Repeat("f", 250-2*d)), file(""))
		}
		for i := range 5 {
			put(tree, fmt.Sprintf("%s/z%d%s", dir, i, strings.Repeat("d", 200)), null)
			put(tree, fmt.Sprintf("%s/l%d%s", dir, i, strings.Repeat("l", 180)), link)
		}
	}
	mustMatch(t, tree, build(t, tree, MinExt4Size))
}

// What mkfs.ext4 copies from the host's files must not be in the image.
func TestForeignAttributesAreRemoved(t *testing.T) {
	needMount(t)
	ctx := context.Background()
	tree := newTree()
	put(tree, "/dir", newDir())
	mine := put(tree, "/dir/file", file("x"))
	mine.Xattrs = []layer.Xattr{{Name: "user.mine", Value: "kept"}}
	source := staged(t, tree)
	for _, path := range []string{source, source + "/dir", source + "/dir/file"} {
		for name, value := range map[string]string{"trusted.label": "foreign", "trusted.large": strings.Repeat("f", 300)} {
			if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := BuildExt4(ctx, testRunner(), source, image, MinExt4Size); err != nil {
		t.Fatal(err)
	}
	if err := ApplyOwnership(ctx, testRunner(), tree, image); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	mustMatch(t, tree, image)
}

func TestNamesThatCannotBeGivenToDebugfs(t *testing.T) {
	tests := []struct {
		name string
		tree func() *rootfs.Tree
		want string
	}{
		{"line feed in a file", func() *rootfs.Tree { t := newTree(); put(t, "/a\nb", file("")); return t }, `"/a\nb"`},
		{"line feed in a directory", func() *rootfs.Tree { t := newTree(); put(t, "/a\nb", newDir()); return t }, `"/a\nb"`},
		{"carriage return in a directory", func() *rootfs.Tree { t := newTree(); put(t, "/a\rb", newDir()); return t }, `"/a\rb"`},
		{"carriage return in a device", func() *rootfs.Tree {
			t := newTree()
			put(t, "/a\rb", special(rootfs.CharDevice, 1, 1))
			return t
		}, `"a\rb"`},
		{"path that is longer than a line", func() *rootfs.Tree {
			t := newTree()
			dir := t.Root
			for range 40 {
				dir = put(&rootfs.Tree{Root: dir}, strings.Repeat("p", 250), newDir())
			}
			return t
		}, "pppp"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			empty := newTree()
			image := filepath.Join(t.TempDir(), "image")
			ctx := context.Background()
			// The tree is checked before the image: what is in the image plays no part.
			source := staged(t, empty)
			if tt.name == "carriage return in a device" {
				source = staged(t, tt.tree())
			}
			if err := BuildExt4(ctx, testRunner(), source, image, MinExt4Size); err != nil {
				t.Fatal(err)
			}
			before := mustRead(t, image)
			err := ApplyOwnership(ctx, testRunner(), tt.tree(), image)
			if fault.KindOf(err) != fault.Unsupported || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got error %v of kind %d, want one with %s of kind %d", err, fault.KindOf(err), tt.want, fault.Unsupported)
			}
			if mustRead(t, image) != before {
				t.Error("the image was changed")
			}
			mustLeaveOnly(t, image)
		})
	}
}

func mustRead(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestApplyOwnershipErrors(t *testing.T) {
	plain := func() *rootfs.Tree { t := newTree(); put(t, "/dir", newDir()); put(t, "/dir/f", file("abc")); return t }
	tests := []struct {
		name   string
		change func(*rootfs.Tree)
		want   string
	}{
		{"name that is not in the image", func(t *rootfs.Tree) { put(t, "/dir/absent", file("")) }, `"/dir/absent" is not in`},
		{"directory that is not in the image", func(t *rootfs.Tree) { put(t, "/absent", newDir()) }, `/absent`},
		{"name that is only in the image", func(t *rootfs.Tree) { delete(t.Root.Children["dir"].Children, "f") }, `"/dir/f" is in`},
		{"another kind", func(t *rootfs.Tree) { t.Root.Children["dir"].Children["f"].Kind = rootfs.Symlink }, `"/dir/f" has the mode`},
		{"another size", func(t *rootfs.Tree) { t.Root.Children["dir"].Children["f"].Size = 4 }, `"/dir/f" has 3 bytes`},
		{"attribute that does not fit", func(t *rootfs.Tree) {
			t.Root.Children["dir"].Xattrs = []layer.Xattr{{Name: "user.large", Value: strings.Repeat("v", 1010)}}
		}, `user.large`},
		{"attribute larger than a block", func(t *rootfs.Tree) {
			t.Root.Children["dir"].Xattrs = []layer.Xattr{{Name: "user.large", Value: strings.Repeat("v", 1025)}}
		}, `user.large`},
		{"attribute with a line feed", func(t *rootfs.Tree) {
			t.Root.Children["dir"].Xattrs = []layer.Xattr{{Name: "user.line\nfeed", Value: "v"}}
		}, `user.line\nfeed`},
		{"ACL that is none", func(t *rootfs.Tree) {
			t.Root.Children["dir"].Xattrs = []layer.Xattr{{Name: aclDefault, Value: "nonsense"}}
		}, aclDefault},
	}
	ctx := context.Background()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := BuildExt4(ctx, testRunner(), staged(t, plain()), image, MinExt4Size); err != nil {
				t.Fatal(err)
			}
			tree := plain()
			tt.change(tree)
			err := ApplyOwnership(ctx, testRunner(), tree, image)
			if !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("got error %v, want one with %s", err, tt.want)
			}
			mustLeaveOnly(t, image)
		})
	}
}

// Namespaces that Linux does not have are left out.
func TestUnknownAttributesAreLeftOut(t *testing.T) {
	tree := newTree()
	f := put(tree, "/f", file("x"))
	f.Xattrs = []layer.Xattr{{Name: "com.apple.provenance", Value: "1"}, {Name: "user.", Value: "1"}}
	image := build(t, tree, MinExt4Size)
	f.Xattrs = nil
	mustMatch(t, tree, image)
}

// Each judge has to catch what it is there for.
func TestTheJudgesCatchDamage(t *testing.T) {
	needMount(t)
	tree := fullTree()
	image := build(t, tree, MinExt4Size)
	for _, command := range []string{
		`sif /usr/bin/su uid 1`, `sif /usr/bin/su gid 70000`, `sif /usr/bin/su mode 0100755`, `sif / mtime_lo 7`,
		`sif /usr/bin mtime_extra 4`, `ea_rm /usr/bin/ping security.capability`, `ea_set / trusted.root x`,
		`sif /dev/null block[0] 0x0105`, `sif /usr/bin/ping links_count 3`, `ea_set /empty user.more x`, `sif /empty size 4`,
		`rm "/null again"`, `sif / mode 040755`,
	} {
		damaged := filepath.Join(t.TempDir(), "damaged")
		run(t, "cp", "--sparse=always", image, damaged)
		run(t, "debugfs", "-w", "-R", command, damaged)
		dir, unmount := mounted(t, damaged, "loop,ro")
		if mountDifference(t, dir, tree) == "" {
			t.Errorf("the comparison does not notice %s", command)
		}
		unmount()
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	run(t, "cp", "--sparse=always", image, damaged)
	run(t, "debugfs", "-w", "-R", "freei /empty", damaged)
	if fsck(t, damaged) == nil {
		t.Error("e2fsck does not notice a free inode that has a name")
	}
}

func TestEncodeTime(t *testing.T) {
	const ns = 5
	tests := []struct {
		seconds        int64
		wantLow, wantX uint32
	}{ // the table of Documentation/filesystems/ext4/inodes.rst, section "Inode Timestamps"
		{-1 << 31, 0x80000000, 0 | ns<<2},
		{-1, 0xffffffff, 0 | ns<<2},
		{0, 0, 0 | ns<<2},
		{1<<31 - 1, 0x7fffffff, 0 | ns<<2},
		{1 << 31, 0x80000000, 1 | ns<<2},
		{0x17fffffff, 0x7fffffff, 1 | ns<<2},
		{0x180000000, 0x80000000, 2 | ns<<2},
		{0x27fffffff, 0x7fffffff, 2 | ns<<2},
		{0x280000000, 0x80000000, 3 | ns<<2},
		{0x37fffffff, 0x7fffffff, 3 | ns<<2},
		{0x380000000, 0x7fffffff, 3},
		{-1<<31 - 1, 0x80000000, 0},
		{-62135596800, 0x80000000, 0},
	}
	for _, tt := range tests {
		low, extra := encodeTime(time.Unix(tt.seconds, ns))
		if low != tt.wantLow || extra != tt.wantX {
			t.Errorf("encodeTime(%d s + %d ns) = %#x, %#x; want %#x, %#x", tt.seconds, ns, low, extra, tt.wantLow, tt.wantX)
		}
	}
}

func FuzzParseListed(f *testing.F) {
	f.Add("/12/100644/0/0/name/5/")
	f.Add("/2/040755/-2/0/..//")
	f.Add("/2/040755/0/0/a b//")
	f.Add("/0/000000/0/0//0/")
	f.Add("/dir: File not found by ext2_lookup")
	f.Fuzz(func(t *testing.T, line string) {
		l, err := parseListed(line)
		if err != nil {
			return
		}
		if l.isEntry() && l.name == "" || strings.Contains(l.name, "/") {
			t.Errorf("parseListed(%q) has the name %q", line, l.name)
		}
		if !strings.Contains(line, "/"+l.name+"/") {
			t.Errorf("parseListed(%q) has the name %q, which is not in it", line, l.name)
		}
	})
}
