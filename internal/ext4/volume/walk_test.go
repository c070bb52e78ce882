package volume

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
)

// walkFacts are what Walk and Node say of all that is below a path.
func walkFacts(t testing.TB, v *Volume, path string, resolution time.Duration) facts {
	t.Helper()
	from, err := v.Resolve(context.Background(), path, true)
	must(t, err)
	out := facts{}
	first := map[uint32]string{}
	last := ""
	for place, err := range v.Walk(from, -1) {
		must(t, err)
		if last != "" && (!Before(last, place.Path) || Before(place.Path, last)) {
			t.Fatalf("%q comes before %q, which is not the order that Before says", last, place.Path)
		}
		last = place.Path
		n, err := v.Node(place.Inode)
		must(t, err)
		if n.Kind == 0 {
			continue // as in a tree
		}
		first[place.Inode.Number] = cmp.Or(first[place.Inode.Number], place.Path)
		out[place.Path] = fact(n, hashNode(t, n), first[place.Inode.Number], resolution)
	}
	return out
}

// TestWalkIsTree: on every kind of file system that mke2fs makes, Walk and Node say what Tree says.
func TestWalkIsTree(t *testing.T) {
	for _, i := range fuzzImages {
		v := openDisk(t, readFuzzImage(t, i.name)).v
		want := treeFacts(t, readTree(t, v), time.Nanosecond)
		if len(want) < 60 {
			t.Fatalf("%s: the tree has only %d names", i.name, len(want))
		}
		mustAgree(t, walkFacts(t, v, "/", time.Nanosecond), want)
	}
}

// TestWalkDepth: a depth bounds the levels, and what is no directory is alone.
func TestWalkDepth(t *testing.T) {
	v := openDisk(t, readFuzzImage(t, "checksums")).v
	for _, c := range []struct {
		path  string
		depth int
		want  []string
	}{
		{"/", 0, []string{"/"}},
		{"/dir", 0, []string{"/dir"}},
		{"/dir", 1, []string{"/dir", "/dir/link", "/dir/sub"}},
		{"/one", -1, []string{"/one"}},
		{"/one", 1, []string{"/one"}},
		{"/", 1, []string{"/", "/device", "/dir", "/extents", "/long", "/lost+found", "/many", "/one", "/short", "/tiny", "/two"}},
	} {
		from, err := v.Resolve(context.Background(), c.path, true)
		must(t, err)
		var got []string
		for place, err := range v.Walk(from, c.depth) {
			must(t, err)
			got = append(got, place.Path)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("Walk(%q, %d) yields %q, want %q", c.path, c.depth, got, c.want)
		}
	}
}

// TestWalkStops: whoever has seen enough ends a walk, at every place.
func TestWalkStops(t *testing.T) {
	v := openDisk(t, readFuzzImage(t, "ext4")).v
	root, err := v.Resolve(context.Background(), "/", true)
	must(t, err)
	for enough := 1; enough < 20; enough++ {
		seen := 0
		for range v.Walk(root, -1) {
			if seen++; seen == enough {
				break
			}
		}
		if seen != enough {
			t.Fatalf("a walk that was left after %d places had %d", enough, seen)
		}
	}
}

// linkedImage is a file system with symlinks in all directions.
func linkedImage(t *testing.T, args string) *Volume {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(in("usr/lib/deep"), 0o755), os.WriteFile(in("usr/lib/file"), []byte("x"), 0o644),
		os.WriteFile(in("usr/lib/deep/down"), []byte("x"), 0o644), os.Mkdir(in("many"), 0o755))
	for link, target := range map[string]string{
		"lib": "usr/lib", "abs": "/usr/lib", "up": "../../../usr", "usr/lib/back": "..", "usr/lib/self": ".", "root": "/",
		"loop": "loop", "ping": "pong", "pong": "ping", "dangling": "usr/nothing", "usr/lib/chain": "/abs/deep/../file",
		"slash": "usr/lib/", "many/link": "../usr/lib/file", "onto": "usr/lib/file/",
	} {
		must(t, os.Symlink(target, in(link)))
	}
	must(t, os.Symlink("usr/lib/file", in("hop0")))
	for i := range 41 {
		must(t, os.Symlink(fmt.Sprintf("hop%d", i), in(fmt.Sprintf("hop%d", i+1))))
	}
	for i := range 300 {
		must(t, os.WriteFile(in("many/"+longName(i)), nil, 0o644))
	}
	image := makeImage(t, dir, 8<<20, strings.Fields(args)...)
	rebuildIndexes(t, image)
	return openImage(t, image)
}

// resolveImages are the file systems on which paths are resolved: with and without an index, and inline.
func resolveImages() []string {
	return []string{"-t ext4 -b 1024", "-t ext2 -O ^dir_index", "-t ext4 -O inline_data -I 256"}
}

// TestResolve: where paths lead.
func TestResolve(t *testing.T) {
	long := "/many/" + longName(77)
	cases := []struct {
		path   string
		follow bool
		want   string
		err    error
	}{
		{"", true, "/", nil},
		{"/", false, "/", nil},
		{"..", true, "/", nil},
		{"/usr/../..//./usr/lib/", true, "/usr/lib", nil},
		{"lib/file", true, "/usr/lib/file", nil},
		{"/abs/file", true, "/usr/lib/file", nil},
		{"/up/lib", true, "/usr/lib", nil},
		{"/lib/back/lib/self/self/deep/down", true, "/usr/lib/deep/down", nil},
		{"/root/root/lib/back/..", true, "/", nil},
		{"/lib", true, "/usr/lib", nil},
		{"/lib", false, "/lib", nil},
		{"/lib/", false, "/usr/lib", nil},
		{"/slash", true, "/usr/lib", nil},
		{"/lib/chain", true, "/usr/lib/file", nil},
		{"/dangling", false, "/dangling", nil},
		{long, true, long, nil},
		{"/many/link", true, "/usr/lib/file", nil},
		{"/hop40", false, "/hop40", nil},
		{"/hop39", true, "/usr/lib/file", nil},

		{"/hop40", true, "", syscall.ELOOP},
		{"/ping/x", true, "", syscall.ELOOP},
		{"/dangling", true, "", fs.ErrNotExist},
		{"/usr/nothing/../lib", true, "", fs.ErrNotExist},
		{long + "x", true, "", fs.ErrNotExist},
		{strings.Repeat("n", 300), true, "", fs.ErrNotExist},
		{"/usr/lib\x00", true, "", fs.ErrNotExist},
		{"/lib/file/..", true, "", syscall.ENOTDIR},
		{"/lib/file/x", true, "", syscall.ENOTDIR},
		{"/onto", true, "", syscall.ENOTDIR},
	}
	for _, args := range resolveImages() {
		v := linkedImage(t, args)
		for _, c := range cases {
			got, err := v.Resolve(context.Background(), c.path, c.follow)
			if got.Path != c.want || !errors.Is(err, c.err) {
				t.Errorf("%s: Resolve(%q, %v) = %q, %v; want %q, %v", args, c.path, c.follow, got.Path, err, c.want, c.err)
			}
		}
	}
}

// endingReader reads until it ends a context, and counts what is read afterwards.
type endingReader struct {
	*bytes.Reader
	left  int
	end   context.CancelFunc
	after int
}

func (r *endingReader) ReadAt(p []byte, off int64) (int, error) {
	if r.left--; r.left < 0 {
		r.end()
		r.after++
	}
	return r.Reader.ReadAt(p, off)
}

// TestResolveEnds: a path that symlinks make very long can be given up. Each of its names is looked for in a large directory.
func TestResolveEnds(t *testing.T) {
	source := t.TempDir()
	must(t, os.Mkdir(filepath.Join(source, "dir"), 0o755), os.Symlink(strings.Repeat("dir/../", 140), filepath.Join(source, "long")))
	for i := range 2000 {
		must(t, os.WriteFile(filepath.Join(source, longName(i)), nil, 0o644))
	}
	image, err := os.ReadFile(makeImage(t, source, 4<<20, "-t", "ext4", "-b", "1024", "-N", "2100", "-O", "^has_journal"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	reader := &endingReader{Reader: bytes.NewReader(image), left: 1000, end: cancel}
	v, err := Open(reader, int64(len(image)))
	must(t, err)
	if _, err := v.Resolve(ctx, "/long/long/long", true); !errors.Is(err, context.Canceled) {
		t.Errorf("resolving the path ended with %v, want %v", err, context.Canceled)
	}
	if blocks := len(image) / 1024; reader.after > blocks {
		t.Errorf("%d blocks of %d were read after the context had ended", reader.after, blocks)
	}
}

// TestMissingName: the error for what is not there says how far the path leads.
func TestMissingName(t *testing.T) {
	v := linkedImage(t, "-t ext4 -b 1024")
	_, err := v.Resolve(context.Background(), "/abs/dep/down", true)
	var missing *MissingError
	if !errors.As(err, &missing) || missing.Dir.Path != "/usr/lib" || missing.Name != "dep" {
		t.Fatalf("the error is %#v, want one that says that /usr/lib has no dep", err)
	}
	names, err := v.Names(missing.Dir.Inode)
	slices.Sort(names)
	if want := []string{"back", "chain", "deep", "file", "self"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the names in %s are %q (%v), want %q", missing.Dir.Path, names, err, want)
	}
	file, err := v.Resolve(context.Background(), "/lib/file", true)
	must(t, err)
	if _, err := v.Names(file.Inode); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("the names in a file: %v, want that it is no directory", err)
	}
}

// TestResolveIsKernels: random paths lead to the inode that the kernel finds, or to its error (openat2(2),
// RESOLVE_IN_ROOT, which is as after chroot(2)).
func TestResolveIsKernels(t *testing.T) {
	needMount(t)
	words := []string{
		"usr", "lib", "abs", "up", "back", "self", "root", "loop", "ping", "dangling", "chain", "slash", "onto", "file", "deep",
		"down", "hop3", "hop38", "hop39", "many", "link", longName(5), "none", "..", "..", ".", "",
	}
	for _, args := range resolveImages() {
		v := linkedImage(t, args)
		dir, _ := mounted(t, v.image.(*os.File).Name(), "loop,ro")
		root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		random := rand.New(rand.NewPCG(1, 2))
		ends := map[string]int{}
		for range 20000 {
			var path strings.Builder
			for range 1 + random.IntN(6) {
				path.WriteString("/" + words[random.IntN(len(words))])
			}
			follow := random.IntN(2) == 0
			want := kernelResolves(root, path.String(), follow)
			if got := resolves(v, path.String(), follow); got != want {
				t.Errorf("%s: %q (followed to the end: %v) leads to %s, and for the kernel to %s", args, &path, follow, got, want)
			}
			ends[strings.TrimRight(want, "0123456789")]++
		}
		must(t, unix.Close(root))
		if len(ends) != 4 {
			t.Errorf("the random paths had the ends %v, want an inode and three errors", ends)
		}
	}
}

func kernelResolves(root int, path string, follow bool) string {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	if !follow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(root, path, &how)
	for errors.Is(err, unix.EAGAIN) { // something was renamed somewhere, which it cannot tell from an attack (openat2(2))
		fd, err = unix.Openat2(root, path, &how)
	}
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("inode %d", st.Ino)
}

func resolves(v *Volume, path string, follow bool) string {
	place, err := v.Resolve(context.Background(), path, follow)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unix.ENOENT.Error()
	case errors.Is(err, unix.ENOTDIR):
		return unix.ENOTDIR.Error()
	case errors.Is(err, unix.ELOOP):
		return unix.ELOOP.Error()
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("inode %d", place.Inode.Number)
}

// TestBefore: the order of paths is that of a walk.
func TestBefore(t *testing.T) {
	ordered := []string{"/", "/a", "/a/b", "/a/b/c", "/a/b-c", "/a!", "/a-b", "/a-b/c", "/aa", "/b", "/\xff"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := Before(a, b); got != (i < j) {
				t.Errorf("Before(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// walkAll reads all that Walk and Node come to.
func walkAll(v *Volume) error {
	root, err := v.Resolve(context.Background(), "/", true)
	if err != nil {
		return err
	}
	for place, err := range v.Walk(root, -1) {
		if err != nil {
			return err
		}
		if _, err := v.Node(place.Inode); err != nil {
			return fmt.Errorf("%q: %w", place.Path, err)
		}
	}
	return nil
}

// TestWalkDamage: what would make a walk endless, or wrong, is an error that has the path.
func TestWalkDamage(t *testing.T) {
	type change func(d *disk)
	inodeOf := func(d *disk, path string) uint32 {
		in, _ := d.inode(path)
		return in.Number
	}
	rename := func(dir, name string, inode func(*disk) uint32) change {
		return func(d *disk) { d.put32(d.entry(dir, name), inode(d)) }
	}
	for name, c := range map[string]struct {
		damage change
		path   string
	}{
		"a directory in itself":   {rename("/dir", "sub", func(d *disk) uint32 { return inodeOf(d, "/dir") }), `"/dir/sub"`},
		"the root below the root": {rename("/dir", "sub", func(*disk) uint32 { return rootInode }), `"/dir/sub"`},
		"a second parent":         {rename("/dir", "sub", func(d *disk) uint32 { return inodeOf(d, "/many") }), `"/dir/sub"`},
		"the journal's inode":     {rename("/dir", "sub", func(*disk) uint32 { return 8 }), `"/dir/sub"`},
		"an inode out of range":   {rename("/dir", "sub", func(*disk) uint32 { return 1 << 30 }), `"/dir/sub"`},
		"the resize inode":        {rename("/", "one", func(*disk) uint32 { return 7 }), `"/one": inode 7 is the file system's own`},
		"a second name":           {rename("/", "many", func(d *disk) uint32 { return inodeOf(d, "/dir") }), `"/many": the directory with inode`},
		"an inode not in use":     {rename("/dir", "sub", func(*disk) uint32 { return 111 }), `"/dir/sub"`},
		"another type":            {rename("/dir", "sub", func(d *disk) uint32 { return inodeOf(d, "/one") }), `"/dir/sub"`},
		"a name twice": {func(d *disk) {
			at := d.entry("/", "two")
			copy(d.bytes[at+8:], "one")
		}, `"/"`},
		"blocks of another directory": {func(d *disk) {
			_, from := d.inode("/dir")
			_, to := d.inode("/dir/sub")
			copy(d.bytes[to+iBlockAt:to+iBlockAt+iBlockSize], d.bytes[from+iBlockAt:])
		}, `"/dir/sub"`},
		"a symlink without a target": {func(d *disk) {
			_, at := d.inode("/short")
			d.put32(at+4, 0)
		}, `"/short"`},
	} {
		d := openDisk(t, readFuzzImage(t, "ext4"))
		c.damage(d)
		v, err := Open(bytes.NewReader(d.bytes), int64(len(d.bytes)))
		must(t, err)
		err = walkAll(v)
		if fault.KindOf(err) != fault.Corrupt || !strings.Contains(fmt.Sprint(err), c.path) {
			t.Errorf("%s: the walk ends with %v, want that the image is corrupt at %s", name, err, c.path)
		}
	}
}

// TestDirectoryOfItself: a directory whose extents are all the same blocks would be any number of times as large as its
// image.
func TestDirectoryOfItself(t *testing.T) {
	d := openDisk(t, readFuzzImage(t, "ext4"))
	in, at := d.inode("/dir/sub")
	root := at + iBlockAt
	const times = 4 // as many extents as an inode has room for
	for i := range times {
		copy(d.bytes[root+extentSize*(1+i):], d.bytes[root+extentSize:root+2*extentSize])
		d.put32(root+extentSize*(1+i), uint32(i))
	}
	d.put16(root+2, times)
	d.put32(at+4, uint32(in.Size)*times)
	v, err := Open(bytes.NewReader(d.bytes), int64(len(d.bytes)))
	must(t, err)
	if err := walkAll(v); err == nil || !strings.Contains(err.Error(), "twice in the file") {
		t.Errorf("the walk ends with %v, want that a block is twice in a directory", err)
	}
}

// TestIndexOfItself: an index whose entries all lead to the same few blocks does not take any number of times as long to
// search as the directory is large. Each of its three levels has all the entries that it has room for.
func TestIndexOfItself(t *testing.T) {
	d := openDisk(t, readFuzzImage(t, "ext4"))
	names, _ := d.blocks("/many")
	const hash, none = 0x10000000, "not there"
	d.put32(1024+0x60, d.v.super.incompat|incompatLargeDir)
	d.bytes[names[0]+rootInfoAt+6] = 2
	fill := func(block, at int, next uint32) {
		limit := (1024 - at) / indexSize
		for i := range limit {
			d.put32(names[block]+at+indexSize*i, hash|1)
			d.put32(names[block]+at+indexSize*i+4, next)
		}
		d.put16(names[block]+at, uint16(limit))
		d.put16(names[block]+at+2, uint16(limit))
	}
	fill(0, rootCountAt, 1)
	for block := 1; block <= 2; block++ {
		d.put32(names[block], 0)
		d.put16(names[block]+4, 1024)
		fill(block, nodeCountAt, uint32(block+1))
	}
	v, err := Open(bytes.NewReader(d.bytes), int64(len(d.bytes)))
	must(t, err)
	in, _ := d.inode("/many")
	m, err := v.BlockMap(in)
	must(t, err)
	x, root, err := v.readRoot(&in, &m)
	must(t, err)
	w := indexWalk{v: v, in: &in, blocks: &m, hash: hash, read: map[uint32]bool{0: true}}
	_, err = w.find(none, root, x.levels)
	mustFault(t, err, fault.Corrupt, "twice")
}

// TestDirectoriesThatShare: a block of names belongs to one directory.
func TestDirectoriesThatShare(t *testing.T) {
	d := openDisk(t, readFuzzImage(t, "ext4"))
	in, at := d.inode("/dir")
	names, _ := d.blocks("/many")
	root := at + iBlockAt
	d.put16(root+2, 2)
	second := root + 2*extentSize
	d.put32(second, 1)
	d.put16(second+4, 1)
	d.put16(second+6, 0)
	d.put32(second+8, uint32(names[1]>>10))
	d.put32(at+4, uint32(in.Size)+1024)
	v, err := Open(bytes.NewReader(d.bytes), int64(len(d.bytes)))
	must(t, err)
	if err := walkAll(v); err == nil || !strings.Contains(err.Error(), `"/many": block`) {
		t.Errorf("the walk ends with %v, want that a block of /many belongs to another directory as well", err)
	}
}
