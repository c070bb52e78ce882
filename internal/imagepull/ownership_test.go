package imagepull

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/ext4"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

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
	seconds, extra := ext4.EncodeTime(n.MTime)
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
