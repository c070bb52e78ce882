package volume

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// longName is the ith name in a directory that is large enough for an index.
func longName(i int) string { return fmt.Sprintf("a name of middle length, which is number %05d", i) }

// makeSource makes a directory of the host with all that an ordinary user can make.
func makeSource(t testing.TB, many int) string {
	t.Helper()
	dir := t.TempDir()
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, content []byte) { t.Helper(); do(os.WriteFile(in(name), content, 0o640)) }
	do(os.MkdirAll(in("deep/er/and/deeper"), 0o751), os.Mkdir(in("empty"), 0o1777), os.Mkdir(in("many"), 0o755))
	write("empty-file", nil)
	random := make([]byte, 700<<10)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, size := range []int{1, 59, 60, 61, 100, 130, 1023, 1024, 4096, 4097, 12 << 10, 13 << 10, 70 << 10, 700 << 10} {
		write(fmt.Sprintf("bytes-%d", size), random[:size])
	}
	for i := range many {
		write(filepath.Join("many", longName(i)), nil)
	}
	write("deep/er/odd \xff\n\"name", []byte("odd"))
	write("deep/"+strings.Repeat("n", 255), []byte("long"))
	do(os.Link(in("bytes-100"), in("deep/er/link")), os.Link(in("bytes-100"), in("another-link")))
	for _, length := range []int{1, 58, 59, 60, 61, 130, 200, 1000} {
		do(os.Symlink(strings.Repeat("t", length), in(fmt.Sprintf("symlink-%d", length))))
	}
	writeHoles(t, in("holes"), random)
	do(os.Chmod(in("bytes-60"), 0o4755|fs.ModeSetuid), os.Chtimes(in("bytes-61"), time.Time{}, time.Unix(1, 0)))
	return dir
}

// writeHoles writes a file that has some data in every second run of 64 KiB, and a byte at the end: with inline_data
// mke2fs 1.47.0 cuts off a hole there.
func writeHoles(t testing.TB, file string, content []byte) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range int64(10) {
		if _, err := f.WriteAt(content[:4096], i<<17+1<<16); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt([]byte{1}, 2<<20); err != nil {
		t.Fatal(err)
	}
}

// features are file systems that mke2fs makes. Each has all of makeSource and what addByDebugfs adds.
var features = []struct {
	name      string
	args      string
	blockSize int64
	many      int // names in the large directory; 0 is 600
}{
	{name: "ext2", args: "-t ext2 -b 1024", blockSize: 1024},
	{name: "ext2 with 4096", args: "-t ext2 -b 4096", blockSize: 4096},
	{name: "ext2 revision 0", args: "-t ext2 -r 0 -b 1024 -O none", blockSize: 1024},
	{name: "ext3", args: "-t ext3 -b 1024", blockSize: 1024},
	{name: "ext3 with 4096", args: "-t ext3 -b 4096", blockSize: 4096},
	{name: "ext4 with 1024", args: "-t ext4 -b 1024", blockSize: 1024},
	{name: "ext4 with 2048", args: "-t ext4 -b 2048", blockSize: 2048},
	{name: "ext4 with 4096", args: "-t ext4 -b 4096", blockSize: 4096},
	{name: "ext4 with 16384", args: "-t ext4 -b 16384", blockSize: 16384, many: 3000},
	{name: "ext4 with 65536", args: "-t ext4 -b 65536 -O ^resize_inode -N 16384", blockSize: 65536, many: 3000},
	{name: "small inodes", args: "-t ext4 -b 4096 -I 128", blockSize: 4096},
	{name: "large inodes", args: "-t ext4 -b 4096 -I 1024", blockSize: 4096},
	{name: "no 64bit", args: "-t ext4 -b 4096 -O ^64bit", blockSize: 4096},
	{name: "no metadata_csum", args: "-t ext4 -b 4096 -O ^metadata_csum", blockSize: 4096},
	{name: "uninit_bg", args: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", blockSize: 1024},
	{name: "uninit_bg no 64bit", args: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit", blockSize: 1024},
	{name: "no extents", args: "-t ext4 -b 1024 -O ^extents,^64bit", blockSize: 1024},
	{name: "no extents with checksums", args: "-t ext4 -b 4096 -O ^extents,^64bit,metadata_csum", blockSize: 4096},
	{name: "no filetype", args: "-t ext4 -b 4096 -O ^filetype", blockSize: 4096},
	{name: "no dir_index", args: "-t ext4 -b 4096 -O ^dir_index", blockSize: 4096},
	{name: "no journal", args: "-t ext4 -b 4096 -O ^has_journal", blockSize: 4096},
	{name: "no flex_bg", args: "-t ext4 -b 1024 -O ^flex_bg", blockSize: 1024},
	{name: "inline_data", args: "-t ext4 -b 4096 -O inline_data", blockSize: 4096},
	{name: "inline_data with 1024", args: "-t ext4 -b 1024 -I 1024 -O inline_data", blockSize: 1024},
	{name: "ea_inode", args: "-t ext4 -b 4096 -O ea_inode", blockSize: 4096},
	{name: "ea_inode without checksums", args: "-t ext4 -b 1024 -O ea_inode,^metadata_csum", blockSize: 1024},
	{name: "sparse_super2", args: "-t ext4 -b 1024 -O sparse_super2", blockSize: 1024},
	{name: "no sparse_super", args: "-t ext4 -b 1024 -O ^sparse_super,^resize_inode", blockSize: 1024},
	{name: "meta_bg", args: "-t ext4 -b 1024 -O meta_bg,^resize_inode", blockSize: 1024},
	{name: "meta_bg sparse_super2", args: "-t ext4 -b 1024 -O meta_bg,^resize_inode,sparse_super2", blockSize: 1024},
	{name: "metadata_csum_seed", args: "-t ext4 -b 4096 -O metadata_csum_seed", blockSize: 4096},
	{name: "large_dir", args: "-t ext4 -b 1024 -O large_dir", blockSize: 1024},
	{name: "quota", args: "-t ext4 -b 4096 -O quota,project", blockSize: 4096},
	{name: "orphan_file", args: "-t ext4 -b 4096 -O orphan_file", blockSize: 4096},
	{name: "small groups", args: "-t ext4 -b 1024 -g 1024", blockSize: 1024},
}

func TestFeatures(t *testing.T) {
	sources := map[int]string{}
	for _, f := range features {
		if sources[f.many] == "" {
			sources[f.many] = makeSource(t, cmp.Or(f.many, 600))
		}
		source := sources[f.many]
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			image := makeImage(t, source, 64<<20, strings.Fields(f.args)...)
			v := openImage(t, image)
			want := sourceFacts(t, source)
			mustAgree(t, withoutOwn(treeFacts(t, readTree(t, v), time.Second)), want)
			addByDebugfs(t, image, v, want)
			rebuildIndexes(t, image)
			mustBeClean(t, image)
			v = openImage(t, image)
			mustAgree(t, withoutOwn(treeFacts(t, readTree(t, v), time.Second)), want)
			mustHaveIndex(t, v, "/many")
			mustMatchBitmaps(t, v)
		})
	}
}

// sourceFacts are those of the directory that mke2fs copied. It runs as the user that makes the files, and does not
// copy the root's own attributes.
func sourceFacts(t testing.TB, source string) facts {
	return withoutOwn(hostFacts(t, source, time.Second))
}

// withoutOwn leaves out what mke2fs makes by itself.
func withoutOwn(f facts) facts {
	delete(f, "/")
	delete(f, "/lost+found")
	return f
}

// mustHaveIndex looks up every name of a directory through its index, which it has wherever the feature is there.
func mustHaveIndex(t testing.TB, v *Volume, path string) {
	t.Helper()
	dir, err := v.Lookup(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := v.super.Has("dir_index"); dir.has(FlagIndexed) != want {
		t.Fatalf("%q has an index: %v, the feature dir_index is there: %v", path, !want, want)
	}
	if dir.has(FlagIndexed) {
		mustFindHashed(t, v, path)
	}
}

// addByDebugfs adds what only root can make, and attributes, to an image and to what is expected of it.
func addByDebugfs(t testing.TB, image string, v *Volume, want facts) {
	t.Helper()
	mtime := time.Unix(1700000000, 0).UTC()
	add := func(name string, n rootfs.Node) {
		n.MTime, n.Links = mtime, 1
		want["/"+name] = fact(&n, [32]byte{}, "/"+name, time.Second)
	}
	var script []string
	for _, d := range []struct {
		name, kind   string
		major, minor uint32
	}{{"null", "c", 1, 3}, {"wide", "c", 300, 5}, {"deep-minor", "b", 8, 60000}, {"disk", "b", 255, 255}} {
		kind := rootfs.CharDevice
		if d.kind == "b" {
			kind = rootfs.BlockDevice
		}
		script = append(script, fmt.Sprintf("mknod %s %s %d %d", d.name, d.kind, d.major, d.minor))
		n := rootfs.Node{Kind: kind, Major: d.major, Minor: d.minor}
		if d.name == "null" {
			n.Mode, n.UID, n.GID = 0o640, 123456, 0xFFFFFFFE
			script = append(script, "sif null mode 020640", "sif null uid 123456", "sif null gid 0xfffffffe")
			n.Xattrs = attrsByDebugfs(t, v, &script)
		}
		add(d.name, n)
	}
	script = append(script, "mknod fifo p")
	add("fifo", rootfs.Node{Kind: rootfs.FIFO})
	debugfs(t, image, script...)
}

// attrsByDebugfs appends commands that give the device null attributes of all kinds, and returns them.
func attrsByDebugfs(t testing.TB, v *Volume, script *[]string) []layer.Xattr {
	if v.super.revision == 0 {
		return nil
	}
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	attrs := []layer.Xattr{
		{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00" + strings.Repeat("\x00", 12)},
		{Name: "system.posix_acl_access", Value: acl},
		{Name: "trusted.\xe4", Value: "signed or not"},
		{Name: "user.empty", Value: ""},
		{Name: "user.large", Value: strings.Repeat("large ", 80)},
	}
	if v.super.Has("ea_inode") {
		// debugfs cuts a value off at the size of a block.
		value := strings.Repeat("larger ", 1000)[:v.super.BlockSize]
		attrs = append(attrs, layer.Xattr{Name: "user.larger", Value: value})
	}
	for _, x := range attrs {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(x.Value), 0o600); err != nil {
			t.Fatal(err)
		}
		*script = append(*script, fmt.Sprintf("ea_set -f %s null %s", file, x.Name))
	}
	return attrs
}

// mustMatchBitmaps compares the bitmaps with what the groups count and with the inodes that are in use.
func mustMatchBitmaps(t testing.TB, v *Volume) {
	t.Helper()
	for n := range v.Groups() {
		group := uint32(n)
		blocks, err := v.BlockBitmap(group)
		if err != nil {
			t.Fatal(err)
		}
		inodes, err := v.InodeBitmap(group)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := zeroBits(blocks), v.groups[n].FreeBlocks; got != want {
			t.Errorf("the bitmap of group %d has %d free blocks, its descriptor says %d", n, got, want)
		}
		if got, want := zeroBits(inodes), v.groups[n].FreeInodes; got != want {
			t.Errorf("the bitmap of group %d has %d free inodes, its descriptor says %d", n, got, want)
		}
	}
}

func zeroBits(bitmap []byte) uint32 {
	count := uint32(0)
	for i := range 8 * len(bitmap) {
		if bitmap[i/8]>>(i%8)&1 == 0 {
			count++
		}
	}
	return count
}

func TestSuperblock(t *testing.T) {
	image := makeImage(t, "", 64<<20, "-t", "ext4", "-b", "4096", "-L", "a label",
		"-U", "01234567-89ab-cdef-0123-456789abcdef", "-N", "4096")
	s := openImage(t, image).Superblock()
	uuid := [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}
	if s.Label != "a label" || s.UUID != uuid || s.BlockSize != 4096 || s.Blocks != 16384 || s.Inodes != 4096 {
		t.Errorf("Superblock() = %+v", s)
	}
	if !s.MakeTime.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("MakeTime = %v; want the time that mke2fs was told", s.MakeTime)
	}
	// dumpe2fs is the judge of the features and the counts.
	dump := runTool(t, "dumpe2fs", "-h", image)
	for _, field := range []struct{ name, got string }{
		{"Free blocks", fmt.Sprint(s.FreeBlocks)}, {"Free inodes", fmt.Sprint(s.FreeInodes)},
		{"Reserved block count", fmt.Sprint(s.ReservedBlocks)}, {"First inode", fmt.Sprint(s.FirstInode)},
		{"Inodes per group", fmt.Sprint(s.InodesPerGroup)}, {"Journal inode", fmt.Sprint(s.JournalInode)},
	} {
		if want := dumpField(dump, field.name); field.got != want {
			t.Errorf("%s is %s; dumpe2fs says %q", field.name, field.got, want)
		}
	}
	want := strings.Fields(dumpField(dump, "Filesystem features"))
	if !slices.Equal(slices.Sorted(slices.Values(s.Features)), slices.Sorted(slices.Values(want))) {
		t.Errorf("Features = %q; dumpe2fs says %q", s.Features, want)
	}
}

// dumpField returns a field of what dumpe2fs prints.
func dumpField(dump, name string) string {
	for line := range strings.Lines(dump) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func TestLookup(t *testing.T) {
	v := openImage(t, makeImage(t, makeSource(t, 3), 64<<20, "-t", "ext4"))
	in, err := v.Lookup("/deep//er/link")
	if err != nil || in.Links != 3 || in.Size != 100 || !in.is(modeRegular) || in.Mode&0o7777 != 0o640 {
		t.Errorf("Lookup of a file = %+v, %v", in, err)
	}
	if root, err := v.Lookup("/"); err != nil || root.Number != rootInode {
		t.Errorf("Lookup(\"/\") = %d, %v", root.Number, err)
	}
	for _, path := range []string{"/none", "/deep/none/er", "/bytes-100/x"} {
		if _, err := v.Lookup(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lookup(%q) = %v; want that it does not exist", path, err)
		}
	}
}

// TestTimes: debugfs, which judges here, prints the fields of an inode as they are.
func TestTimes(t *testing.T) {
	image := makeImage(t, "", 64<<20, "-t", "ext4")
	debugfs(t, image, "mkdir d", "sif d mtime @0x80000000", "sif d mtime_extra 0x3b9ac9fd", "sif d ctime @0x7fffffff",
		"sif d ctime_extra 0", "sif d atime @0xffffffff", "sif d atime_extra 4", "sif d crtime @0", "sif d crtime_extra 3")
	in, err := openImage(t, image).Lookup("/d")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		got, want time.Time
	}{
		{"mtime", in.MTime, time.Unix(-1<<31+1<<32, 250000000-1)},
		{"ctime", in.CTime, time.Unix(1<<31-1, 0)},
		{"atime", in.ATime, time.Unix(-1, 1)},
		{"crtime", in.CRTime, time.Unix(3<<32, 0)},
	} {
		if !c.got.Equal(c.want) {
			t.Errorf("%s is %v; want %v", c.name, c.got, c.want.UTC())
		}
	}
}

func TestExtentTree(t *testing.T) {
	source := t.TempDir()
	f, err := os.Create(filepath.Join(source, "file"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(500) {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i)}, 4096), i<<13); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	image := makeImage(t, source, 64<<20, "-t", "ext4", "-b", "1024")
	v := openImage(t, image)
	in, err := v.Lookup("/file")
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.BlockMap(in)
	if err != nil {
		t.Fatal(err)
	}
	// A block of 1024 bytes has 84 extents, and the inode 4.
	if m.Depth != 2 || len(m.Extents) < 500 || len(m.Tree) < 6 {
		t.Errorf("the file has the depth %d, %d extents and %d blocks for them; want 2, at least 500, at least 6", m.Depth,
			len(m.Extents), len(m.Tree))
	}
	blocks := uint64(len(m.Tree))
	for _, e := range m.Extents {
		blocks += e.Length
	}
	if in.Sectors != 2*blocks {
		t.Errorf("the inode has %d sectors, the map %d blocks of 2", in.Sectors, blocks)
	}
	mustAgree(t, withoutOwn(treeFacts(t, readTree(t, v), time.Second)), sourceFacts(t, source))
}
