package imagepull

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/rootfs"
)

// usedTree has directories of every form: without a name, with one, with a full block, with an index of one level whose
// blocks are full, and with one of two levels.
func usedTree() *rootfs.Tree {
	tree := fullTree()
	for path, c := range map[string]struct{ count, length int }{
		"/none": {0, 12}, "/one": {1, 12}, "/full block": {203, 12}, "/two blocks": {204, 12},
		"/indexed": {5000, 12}, "/long names": {1000, 255},
	} {
		put(tree, path, newDir())
		fill(tree, path, c.count, c.length)
	}
	put(tree, "/large", pieces(10<<20, 4096, 0, 1<<20, 5<<20, 9<<20))
	return tree
}

// directoriesOf returns the paths of a tree's directories.
func directoriesOf(t *testing.T, tree *rootfs.Tree) []string {
	t.Helper()
	var dirs []string
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		if n.Kind == rootfs.Directory {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// newNames are what a test makes in each directory.
func newNames() []string {
	names := []string{"new", "new dir", strings.Repeat("n", 254)}
	for i := range 300 {
		names = append(names, fmt.Sprintf("added %d", i))
	}
	return names
}

// useDirectories makes names in every directory of a mounted tree, looks them up and removes them, and gives the directories
// their times back.
func useDirectories(t *testing.T, dir string, tree *rootfs.Tree) {
	t.Helper()
	for _, path := range directoriesOf(t, tree) {
		fd, err := openAt(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := useDirectory(fd); err != nil {
			t.Errorf("in %q: %v", path, err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	restoreTimes(t, dir, tree)
}

func useDirectory(fd int) error {
	for i, name := range newNames() {
		if name == "new dir" {
			if err := unix.Mkdirat(fd, name, 0o755); err != nil {
				return fmt.Errorf("making the directory %q: %w", name, err)
			}
			continue
		}
		file, err := unix.Openat(fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
		if err != nil {
			return fmt.Errorf("making %q: %w", name, err)
		}
		_, err = unix.Write(file, []byte(strings.Repeat(name, 1+i%50*100)))
		_ = unix.Close(file)
		if err != nil {
			return fmt.Errorf("writing %q: %w", name, err)
		}
	}
	for _, name := range newNames() {
		flags := 0
		if name == "new dir" {
			flags = unix.AT_REMOVEDIR
		}
		if err := unix.Unlinkat(fd, name, flags); err != nil {
			return fmt.Errorf("removing %q: %w", name, err)
		}
	}
	return nil
}

// restoreTimes gives the directories of a mounted tree the times that the tree says.
func restoreTimes(t *testing.T, dir string, tree *rootfs.Tree) {
	t.Helper()
	dirs := directoriesOf(t, tree)
	for _, path := range dirs {
		fd, err := openAt(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		n := tree.Root
		if path != "/" {
			n = at(tree, path)
		}
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: n.MTime.Unix(), Nsec: int64(n.MTime.Nanosecond())}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
	}
}

// The kernel works with an image as with one of its own: files come and go in directories of every form, contents and
// attributes change, and nothing is wrong afterwards.
func TestImagesCanBeUsed(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := usedTree()
		if b.cannot["full indexes"] == "" {
			maps.Copy(tree.Root.Children, fullIndexesTree().Root.Children)
		}
		image := b.build(t, tree, 600<<20)
		dir, unmount := mounted(t, image, "loop")
		useDirectories(t, dir, tree)
		unmount()
		mustBeClean(t, image)
		mustMatch(t, tree, image)

		dir, unmount = mounted(t, image, "loop")
		removeAll(t, dir)
		unmount()
		mustBeClean(t, image)
	})
}

// removeAll empties a mounted image, and fills it to the last block.
func removeAll(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Errorf("removing %q: %v", e.Name(), err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "filling"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-8<<20); err != nil {
		t.Errorf("taking the %d blocks that are free: %v", st.Bavail, err)
	}
}

// Contents and attributes of what the builder made can be changed: files grow, shrink and lose pieces; attributes move from
// the inode to a block and back.
func TestFilesCanBeChanged(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := newTree()
		put(tree, "/pieces", at(extentsTree(400), "/400"))
		put(tree, "/hole", pieces(10<<20, 4096, 0, 9<<20))
		put(tree, "/attributes", at(xattrsTree(), "/one of 88"))
		put(tree, "/block", at(xattrsTree(), "/one of 4060 and a full inode"))
		put(tree, "/equal0", at(xattrsTree(), "/equal0"))
		put(tree, "/equal1", at(xattrsTree(), "/equal1"))
		for _, n := range tree.Root.Children {
			n.Links = 1
		}
		image := b.build(t, tree, 600<<20)
		dir, unmount := mounted(t, image, "loop")
		changeFiles(t, dir)
		unmount()
		mustBeClean(t, image)
		dir, unmount = mounted(t, image, "loop,ro")
		checkChanges(t, dir)
		unmount()
	})
}

func changeFiles(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	hole, pieces := open("hole"), open("pieces")
	_, err := hole.WriteAt([]byte("in the hole"), 5<<20)
	must(err)
	must(hole.Truncate(6 << 20))
	for i := range int64(200) {
		must(unix.Fallocate(int(pieces.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, i*16384, 4096))
		_, err := pieces.WriteAt([]byte("filled"), i*16384+4096)
		must(err)
	}
	must(errorsOf(hole.Close(), pieces.Close()))
	set := func(name, attribute string, length int) {
		must(unix.Lsetxattr(filepath.Join(dir, name), attribute, []byte(strings.Repeat("w", length)), 0))
	}
	set("attributes", "user.a", 1000)
	set("attributes", "user.second", 10)
	set("equal0", "user.large", 10)
	must(unix.Lremovexattr(filepath.Join(dir, "block"), "user.a"))
	set("block", "trusted.new", 2000)
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkChanges(t *testing.T, dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "hole"))
	if err != nil || len(content) != 6<<20 || string(content[5<<20:5<<20+11]) != "in the hole" {
		t.Errorf("the changed file has %d bytes (%v)", len(content), err)
	}
	for name, want := range map[string]map[string]int{
		"attributes": {"user.a": 1000, "user.second": 10}, "equal0": {"user.large": 10}, "equal1": {"user.large": 3000 - 0},
		"block": {"user.b": xattrsOfInode - 20, "trusted.new": 2000},
	} {
		got, err := xattrsOf(filepath.Join(dir, name))
		lengths := map[string]int{}
		for _, x := range got {
			lengths[x.Name] = len(x.Value)
		}
		if err != nil || !maps.Equal(lengths, want) {
			t.Errorf("%q has attributes of the lengths %v (%v), want %v", name, lengths, err, want)
		}
	}
}

// The journal that the builder made is one: what was written before a machine dies is there after the next mount.
func TestJournalIsReplayed(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := usedTree()
		image := b.build(t, tree, 600<<20)
		dir, unmount := mounted(t, image, "loop")
		for i := range 200 {
			path := filepath.Join(dir, "indexed", fmt.Sprint("written ", i))
			if err := os.WriteFile(path, []byte("before the end"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run(t, "sync", "-f", dir)
		dead := copyOf(t, image)
		unmount()
		if s, err := readSuperblock(dead); err != nil || !s.unclean {
			t.Fatalf("the copied file system has nothing to replay: %+v (%v)", s, err)
		}
		dir, unmount = mounted(t, dead, "loop")
		content, err := os.ReadFile(filepath.Join(dir, "indexed", "written 199"))
		if err != nil || string(content) != "before the end" {
			t.Errorf("what was written before the end is %q (%v)", content, err)
		}
		for i := range 200 {
			_ = os.Remove(filepath.Join(dir, "indexed", fmt.Sprint("written ", i)))
		}
		restoreTimes(t, dir, tree)
		unmount()
		mustBeClean(t, dead)
		mustMatch(t, tree, dead)
	})
}

// resize2fs grows an image to many times its size, and shrinks it again.
func TestImagesCanBeResized(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := usedTree()
		image := b.build(t, tree, 600<<20)
		resize := func(args ...string) {
			t.Helper()
			run(t, "resize2fs", append([]string{"-f", image}, args...)...)
			mustBeClean(t, image)
			mustMatch(t, tree, image)
		}
		for _, size := range []string{"601M", "3G", "40G"} {
			run(t, "truncate", "-s", size, image)
			resize()
		}
		resize("10G")
		resize("700M")
		resize("-M")
	})
}

// What dumpe2fs says of an image: the features that a root disk needs, its name, and that no inode table has to be
// initialized by the guest.
func TestFeatures(t *testing.T) {
	want := strings.Fields("has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super " +
		"large_file huge_file dir_nlink extra_isize metadata_csum")
	slices.Sort(want)
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, size := range []int64{MinExt4Size, 1 << 30, 20 << 30} {
			said := run(t, "dumpe2fs", b.build(t, fullTree(), size))
			got := strings.Fields(field(said, "Filesystem features"))
			slices.Sort(got)
			// orphan_file is of e2fsprogs 1.47 and later, and metadata_csum_seed is too.
			got = slices.DeleteFunc(got, func(f string) bool {
				return b.Name() == "mkfs" && (f == "orphan_file" || f == "metadata_csum_seed")
			})
			if !slices.Equal(got, want) {
				t.Errorf("the features are %q; want %q", got, want)
			}
			for name, value := range map[string]string{
				"Filesystem volume name": "banger-rootfs", "Filesystem state": "clean", "Errors behavior": "Continue",
				"Inode size": "256", "Filesystem magic number": "0xEF53", "Filesystem revision #": "1 (dynamic)", "First inode": "11",
				"Journal inode": "8", "Default directory hash": "half_md4", "Required extra isize": "32", "Checksum type": "crc32c",
			} {
				if got := field(said, name); got != value {
					t.Errorf("%s is %q, want %q", name, got, value)
				}
			}
			groups, zeroed := len(regexp.MustCompile(`(?m)^Group \d+:`).FindAllString(said, -1)), strings.Count(said, "ITABLE_ZEROED")
			if groups == 0 || groups != zeroed {
				t.Errorf("%d of %d groups have an inode table that is known to be zero; the guest would write the others", zeroed, groups)
			}
		}
	})
}

// field returns a field of what dumpe2fs prints.
func field(said, name string) string {
	for _, line := range strings.Split(said, "\n") {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// The kernel finds a directory's names in any order, one by one: the index is what it expects.
func TestNamesAreFound(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := usedTree()
		dir, unmount := mounted(t, b.build(t, tree, 600<<20), "loop,ro")
		defer unmount()
		for _, in := range []string{"/full block", "/two blocks", "/indexed", "/long names"} {
			fd, err := openAt(dir, in)
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			for name := range at(tree, in).Children {
				if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					t.Errorf("%q: %v", path.Join(in, name), err)
				}
				if err := unix.Fstatat(fd, name[1:]+"_", &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
					t.Errorf("%q, which is not there: %v", path.Join(in, name[1:]+"_"), err)
				}
			}
			_ = unix.Close(fd)
		}
	})
}
