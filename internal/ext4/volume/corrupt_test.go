package volume

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

const (
	conflict    = fault.Conflict
	unsupported = fault.Unsupported
)

// mustFault fails the test if err is not a fault of a kind whose text has some words.
func mustFault(t testing.TB, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("the error is %v, of the kind %d; want one of the kind %d", err, fault.KindOf(err), kind)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error is %q; want that it says %q", err, word)
		}
	}
}

// TestFlippedBits: one bit that is wrong in any kind of metadata is found, because it has a checksum.
func TestFlippedBits(t *testing.T) {
	d := openDisk(t, smallImage(t, "-t ext4 -O ^has_journal"))
	if err := d.read(); err != nil {
		t.Fatalf("before a bit is flipped: %v", err)
	}
	g := d.v.groups[0]
	many, _ := d.blocks("/many")
	_, tree := d.blocks("/extents")
	_, inode := d.inode("/one")
	for _, c := range []struct {
		what     string
		at, size int // the bytes that a checksum covers
		word     string
	}{
		{"superblock", 1024 + 0x68, 1024 - 0x68, "superblock"}, // from s_uuid on, behind the features
		{"group descriptor", 2048, 64, "group descriptor 0"},
		{"block bitmap", int(g.BlockBitmap) << 10, 128, "bitmap of blocks of group 0"},
		{"inode bitmap", int(g.InodeBitmap) << 10, int(d.v.super.InodesPerGroup) / 8, "bitmap of inodes of group 0"},
		{"inode", inode, 256, "inode"},
		{"extent block", tree[0], 1020, "extent tree"},
		{"index root", many[0], 32 + 8*2, "directory with inode"},
		{"directory leaf", many[1], 1024, "directory with inode"},
		{"attributes", d.attrBlock("/one"), 1024, "attributes"},
	} {
		t.Run(c.what, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			for range 200 {
				at, bit := c.at+random.IntN(c.size), byte(1)<<random.IntN(8)
				d.bytes[at] ^= bit
				err := d.read()
				d.bytes[at] ^= bit
				if mustFault(t, err, fault.Corrupt, c.word); t.Failed() {
					t.Fatalf("the flipped bit is %#x at %d", bit, at)
				}
			}
		})
	}
}

// TestStructures plants what no checksum finds, or what somebody has given the right checksum.
func TestStructures(t *testing.T) {
	type plant struct {
		what string
		do   func(*disk)
		word string
	}
	for image, plants := range map[string][]plant{
		"-t ext4 -O ^metadata_csum,^has_journal": {
			{"block count", func(d *disk) { d.put32(1024+4, 1<<30) }, "the image"},
			{"block count 0", func(d *disk) { d.put32(1024+4, 0) }, "blocks"},
			{"inode count", func(d *disk) { d.put32(1024, 1<<30) }, "inodes"},
			{"block size", func(d *disk) { d.put32(1024+0x18, 1<<31) }, "size of a block"},
			{"cluster size", func(d *disk) { d.put32(1024+0x1C, 4) }, "size of a block"},
			{"first data block", func(d *disk) { d.put32(1024+0x14, 0) }, "first data block"},
			{"blocks per group", func(d *disk) { d.put32(1024+0x20, 0) }, "blocks in a group"},
			{"blocks per group too many", func(d *disk) { d.put32(1024+0x20, 1<<31) }, "blocks in a group"},
			{"inodes per group", func(d *disk) { d.put32(1024+0x28, 0) }, "inodes in a group"},
			{"inode size", func(d *disk) { d.put16(1024+0x58, 100) }, "inodes of 100 bytes"},
			{"inode size too large", func(d *disk) { d.put16(1024+0x58, 2048) }, "inodes of 2048 bytes"},
			{"first inode", func(d *disk) { d.put32(1024+0x54, 2) }, "first that is not reserved"},
			{"descriptor size", func(d *disk) { d.put16(1024+0xFE, 48) }, "group descriptors of 48"},
			{"descriptor size too small", func(d *disk) { d.put16(1024+0xFE, 32) }, "group descriptors of 32"},
			{"errors", func(d *disk) { d.put16(1024+0x3A, 3) }, "kernel has found errors"},

			{"inode table", func(d *disk) { d.put32(2048+8, 1<<20) }, "group 0"},
			{"inode table over the bitmap", func(d *disk) { d.put32(2048+8, uint32(d.v.groups[0].BlockBitmap)) }, "inode"},
			{"block bitmap", func(d *disk) { d.put32(2048+0x20, 1) }, "group 0"},
			{"bitmap of the superblock", func(d *disk) { d.put32(2048, 1) }, "group 0"},

			{"links", func(d *disk) { _, at := d.inode("/one"); d.put16(at+0x1A, 3) }, "names"},
			{"links of a directory", func(d *disk) { _, at := d.inode("/dir"); d.put16(at+0x1A, 2) }, "names"},
			{"deleted", func(d *disk) { _, at := d.inode("/one"); d.put16(at+0x1A, 0) }, "not in use"},
			{"mode", func(d *disk) { _, at := d.inode("/one"); d.put16(at, 0o70644) }, "mode"},
			{"extra size", func(d *disk) { _, at := d.inode("/one"); d.put16(at+0x80, 132) }, "additional fields"},
			{"extra size odd", func(d *disk) { _, at := d.inode("/one"); d.put16(at+0x80, 30) }, "additional fields"},
			{"negative size", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x6C, 1<<31) }, "size"},
			{"too large", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x6C, 1<<30) }, "size"},
			{"inline data", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x20, 0x10080000) }, "inline data"},
			{"value of an attribute", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x20, 0x00280000) }, "attribute"},

			{"extent magic", func(d *disk) { _, at := d.inode("/one"); d.put16(at+iBlockAt, 0) }, "block map of inode"},
			{"extent entries", func(d *disk) { _, at := d.inode("/one"); d.put16(at+iBlockAt+2, 5) }, "block map of inode"},
			{"extent room", func(d *disk) { _, at := d.inode("/one"); d.put16(at+iBlockAt+4, 400) }, "block map of inode"},
			{"extent depth", func(d *disk) { _, at := d.inode("/extents"); d.put16(at+iBlockAt+6, 6) }, "6 levels"},
			{"extent depth of the child", func(d *disk) { _, at := d.inode("/extents"); d.put16(at+iBlockAt+6, 2) }, "depth 1"},
			{"extent outside", func(d *disk) { _, at := d.inode("/one"); d.put32(at+iBlockAt+20, 1<<20) }, "outside"},
			{"extent at the end", func(d *disk) {
				_, at := d.inode("/one")
				d.put16(at+iBlockAt+16, 3)
				d.put32(at+iBlockAt+20, 1022)
			}, "outside"},
			{"extent of the superblock", func(d *disk) { _, at := d.inode("/one"); d.put32(at+iBlockAt+20, 0) }, "outside"},
			{"extent empty", func(d *disk) { _, at := d.inode("/one"); d.put16(at+iBlockAt+16, 0) }, "0 blocks"},
			{"extent order", func(d *disk) { _, tree := d.blocks("/extents"); d.put32(tree[0]+12+12*5, 1) }, "out of order"},
			{"extent first", func(d *disk) { _, tree := d.blocks("/extents"); d.put32(tree[1]+12, 199) }, "begins with"},
			{"extent node empty", func(d *disk) { _, tree := d.blocks("/extents"); d.put16(tree[0]+2, 0) }, "no entries"},
			{"extent nodes shared", func(d *disk) {
				_, tree := d.blocks("/extents")
				_, at := d.inode("/extents")
				d.put32(at+iBlockAt+12+12+4, uint32(tree[0]>>10))
			}, "twice"},
			{"extent tree shared", func(d *disk) {
				_, from := d.inode("/extents")
				_, to := d.inode("/one")
				copy(d.bytes[to+iBlockAt:to+iBlockAt+60], d.bytes[from+iBlockAt:])
			}, "belongs to inode"},
			{"data shared", func(d *disk) {
				_, from := d.inode("/two")
				_, to := d.inode("/one")
				copy(d.bytes[to+iBlockAt:to+iBlockAt+60], d.bytes[from+iBlockAt:])
			}, "belongs to inode"},
			{"data in an inode table", func(d *disk) {
				_, at := d.inode("/one")
				d.put32(at+iBlockAt+20, uint32(d.v.groups[0].InodeTable)+3)
			}, "file system itself"},

			{"entry of no bytes", func(d *disk) { d.put16(d.entry("/dir", "sub")+4, 0) }, "an entry of 0 bytes"},
			{"entry odd", func(d *disk) { d.put16(d.entry("/dir", "sub")+4, 13) }, "an entry of 13 bytes"},
			{"entry beyond", func(d *disk) { d.put16(d.entry("/dir", "link")+4, 2048) }, "an entry of 2048 bytes"},
			{"entry near the end", func(d *disk) { d.put16(d.entry("/dir", "sub")+4, 1024-24-4) }, "an entry of 996"},
			{"name beyond", func(d *disk) { d.bytes[d.entry("/dir", ".")+6] = 200 }, "with a name of 200"},
			{"name empty", func(d *disk) { d.bytes[d.entry("/dir", "sub")+6] = 0 }, `the name ""`},
			{"name with a slash", func(d *disk) { d.bytes[d.entry("/dir", "sub")+9] = '/' }, `the name "s/b"`},
			{"name with a NUL", func(d *disk) { d.bytes[d.entry("/dir", "sub")+9] = 0 }, `the name "s\x00b"`},
			{"name dot dot", func(d *disk) { copy(d.bytes[d.entry("/", "two")+6:], "\x02\x01..") }, `the name ".."`},
			{"name twice", func(d *disk) { copy(d.bytes[d.entry("/", "two")+8:], "one") }, "twice"},
			{"inode beyond", func(d *disk) { d.put32(d.entry("/dir", "sub"), 4000) }, "inode 4000 does not exist"},
			{"inode of the journal", func(d *disk) { d.put32(d.entry("/dir", "sub"), 8) }, "inode 8 is the file system's own"},
			{"inode of the root", func(d *disk) { d.put32(d.entry("/dir", "sub"), 2) }, "inode 2 is the file system's own"},
			{"directory with two names", func(d *disk) {
				in, _ := d.inode("/dir")
				at := d.entry("/", "one")
				d.put32(at, in.Number)
				d.bytes[at+7] = 2
			}, "second name"},
			{"directory in itself", func(d *disk) {
				in, _ := d.inode("/dir")
				d.put32(d.entry("/dir", "sub"), in.Number)
			}, "second name"},
			{"type in the directory", func(d *disk) { d.bytes[d.entry("/dir", "sub")+7] = 1 }, "type"},
			{"dot", func(d *disk) { d.put32(d.entry("/dir", "."), 2) }, `"."`},
			{"dot dot", func(d *disk) { d.put32(d.entry("/dir/sub", ".."), 2) }, "as its parent"},
			{"no dot", func(d *disk) { d.bytes[d.entry("/dir", ".")+8] = 'x' }, `"." has to be`},
			{"directory size", func(d *disk) { _, at := d.inode("/dir"); d.put32(at+4, 1000) }, "directory of 1000 bytes"},
			{"directory empty", func(d *disk) { _, at := d.inode("/dir"); d.put32(at+4, 0) }, "directory of 0 bytes"},
			{"directory with a hole", func(d *disk) { _, at := d.inode("/dir"); d.put32(at+4, 1<<30) }, "hole"},
			{"root", func(d *disk) { _, at := d.inode("/"); d.put16(at, 0o100755) }, "root is not a directory"},

			{"index hash", func(d *disk) { data, _ := d.blocks("/many"); d.put32(data[0]+40, 0xFFFFFFF0) }, "with inode"},
			{"index limit", func(d *disk) { data, _ := d.blocks("/many"); d.put16(data[0]+32, 200) }, "in the room of 200"},
			{"index count", func(d *disk) { data, _ := d.blocks("/many"); d.put16(data[0]+34, 0) }, "0 entries"},
			{"index count short", func(d *disk) { data, _ := d.blocks("/many"); d.put16(data[0]+34, 2) }, "the index has"},
			{"index levels", func(d *disk) { data, _ := d.blocks("/many"); d.bytes[data[0]+30] = 2 }, "2 levels"},
			{"index level", func(d *disk) { data, _ := d.blocks("/many"); d.bytes[data[0]+30] = 1 }, "not of the index"},
			{"index length", func(d *disk) { data, _ := d.blocks("/many"); d.bytes[data[0]+29] = 16 }, "16 bytes"},
			{"index block twice", func(d *disk) { data, _ := d.blocks("/many"); d.put32(data[0]+36, 2) }, "twice"},
			{"index block beyond", func(d *disk) { data, _ := d.blocks("/many"); d.put32(data[0]+36, 77) }, "does not exist"},
			{"index of another hash", func(d *disk) { data, _ := d.blocks("/many"); d.bytes[data[0]+28] = 2 }, "has the hash"},
			{"index of a signed hash", func(d *disk) { d.put32(1024+0xEC, 1) }, "has the hash"},

			{"symlink empty", func(d *disk) { _, at := d.inode("/short"); d.put32(at+4, 0) }, "symlink of 0 bytes"},
			{"symlink long", func(d *disk) { _, at := d.inode("/long"); d.put32(at+4, 5000) }, "symlink of 5000 bytes"},
			{"symlink longer", func(d *disk) { _, at := d.inode("/short"); d.put32(at+4, 7) }, "NUL"},

			{"attributes' magic", func(d *disk) { d.put32(d.attrBlock("/one"), 0) }, "header"},
			{"attributes' references", func(d *disk) { d.put32(d.attrBlock("/one")+4, 2) }, "and says 2"},
			{"attributes elsewhere", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x68, 1<<30) }, "outside"},
			{"attributes in data", func(d *disk) {
				data, _ := d.blocks("/two")
				_, at := d.inode("/one")
				copy(d.bytes[data[0]:data[0]+1024], d.bytes[d.attrBlock("/one"):])
				d.put32(at+0x68, uint32(data[0]>>10))
			}, "belongs to"},
			{"attribute's value", func(d *disk) { d.put16(d.attrBlock("/one")+32+2, 1020) }, "beyond the end"},
			{"attribute's value over entries", func(d *disk) { d.put16(d.attrBlock("/one")+32+2, 32) }, "over the entries"},
			{"attribute's size", func(d *disk) { d.put32(d.attrBlock("/one")+32+8, 1<<31) }, "bytes"},
			{"attribute's inode", func(d *disk) { d.put32(d.attrBlock("/one")+32+4, 12) }, "inode 12"},
			{"attribute's hash", func(d *disk) { d.put32(d.attrBlock("/one")+32+12, 5) }, "hash"},
			{"attributes out of order", func(d *disk) {
				// Names and hashes of two entries are exchanged; the values are of one byte, and so is the difference.
				at := d.attrBlock("/one") + 32
				first, second := bytes.Clone(d.bytes[at:at+20]), bytes.Clone(d.bytes[at+20:at+40])
				copy(d.bytes[at:], second)
				copy(d.bytes[at+20:], first)
			}, "out of order"},
			{"attribute twice", func(d *disk) {
				at := d.attrBlock("/one") + 32
				copy(d.bytes[at+20:at+40], d.bytes[at:])
			}, "twice"},
			{"attribute's name", func(d *disk) {
				at := d.attrBlock("/one") + 32
				d.bytes[at+16] = 0
				d.put32(at+12, 0)
			}, "an attribute with the name"},
			{"ACL's name", func(d *disk) { d.bytes[d.attrBlock("/one")+32+20+1] = indexACLAccess }, "attribute with the name"},
			{"attributes without an end", func(d *disk) {
				at := d.attrBlock("/one") + 32
				for i := range 62 { // entries of 16 bytes to the end of the block
					d.put32(at+16*i, 0x0100+uint32(i)<<24)
				}
			}, "attributes"},
		},
		"-t ext2 -O ^dir_index": {
			{"pointer outside", func(d *disk) { _, at := d.inode("/one"); d.put32(at+iBlockAt, 1<<30) }, "outside"},
			{"indirect block in itself", func(d *disk) {
				_, tree := d.blocks("/extents")
				for i := range 256 {
					d.put32(tree[0]+4*i, uint32(tree[0]>>10))
				}
			}, "belongs to"},
			{"indirect blocks in a loop", func(d *disk) {
				_, at := d.inode("/extents")
				_, tree := d.blocks("/extents")
				d.put32(at+iBlockAt+4*14, uint32(tree[0]>>10))
			}, "twice"},
			{"indirect block that is shared", func(d *disk) {
				_, to := d.inode("/one")
				_, tree := d.blocks("/extents")
				d.put32(to+iBlockAt+4*12, uint32(tree[0]>>10))
			}, "belongs to inode"},
		},
		"-t ext4 -O ^metadata_csum,^has_journal,ea_inode": {
			{"value's inode", func(d *disk) { d.put32(d.attrEntryWithInode("/two")+4, 12) }, "not the value"},
			{"value's flag", func(d *disk) {
				in, err := d.v.Inode(d.valueInode("/two"))
				if err != nil {
					panic(err)
				}
				d.put32(int(in.offset)+0x20, FlagExtents)
			}, "not the value"},
			{"value", func(d *disk) {
				in, err := d.v.Inode(d.valueInode("/two"))
				if err != nil {
					panic(err)
				}
				m, err := d.v.BlockMap(in)
				if err != nil {
					panic(err)
				}
				d.bytes[m.Extents[0].Physical<<10] ^= 1
			}, "hash"},
		},
		"-t ext4 -O ^metadata_csum,^has_journal,inline_data": {
			{"size", func(d *disk) { _, at := d.inode("/tiny"); d.put32(at+4, 1000) }, "inline data"},
			{"no attribute", func(d *disk) { _, at := d.inode("/tiny"); d.put32(at+160, 0) }, "without an attribute"},
			{"parent", func(d *disk) { _, at := d.inode("/dir/sub"); d.put32(at+iBlockAt, 2) }, "as its parent"},
			{"entry", func(d *disk) { _, at := d.inode("/dir"); d.put16(at+iBlockAt+4+4, 0) }, "an entry of 0 bytes"},
		},
	} {
		data := smallImage(t, image)
		for _, p := range plants {
			t.Run(image+": "+p.what, func(t *testing.T) {
				d := openDisk(t, data)
				if err := d.read(); err != nil {
					t.Fatalf("before anything is planted: %v", err)
				}
				p.do(d)
				mustFault(t, d.read(), fault.Corrupt, p.word)
			})
		}
	}
}

// attrEntryWithInode returns where the entry of an attribute is whose value is in an inode: the first in the inode or
// in the block.
func (d *disk) attrEntryWithInode(path string) int {
	in, at := d.inode(path)
	if attrs, err := d.v.bodyAttrs(&in); err == nil && len(attrs) > 0 && attrs[0].inode != 0 {
		return at + oldInodeSize + in.ExtraSize + 4
	}
	return d.attrBlock(path) + attrHeader
}

func (d *disk) valueInode(path string) uint32 {
	return raw(d.bytes).u32(d.attrEntryWithInode(path) + 4)
}

// TestRefused: what cannot be read is refused with words that name it.
func TestRefused(t *testing.T) {
	data := smallImage(t, "-t ext4 -O ^metadata_csum,^has_journal")
	for _, c := range []struct {
		what string
		do   func(*disk)
		kind fault.Kind
		word string
	}{
		{"magic", func(d *disk) { d.put16(1024+0x38, 0) }, unsupported, "not an ext4"},
		{"compression", func(d *disk) { d.bytes[1024+0x60] |= 1 }, unsupported, `"compression"`},
		{"journal device", func(d *disk) { d.bytes[1024+0x60] |= 8 }, unsupported, `"journal_dev"`},
		{"encryption", func(d *disk) { d.bytes[1024+0x62] |= 1 }, unsupported, `"encrypt"`},
		{"casefold", func(d *disk) { d.bytes[1024+0x62] |= 2 }, unsupported, `"casefold"`},
		{"bigalloc", func(d *disk) { d.bytes[1024+0x65] |= 2 }, unsupported, `"bigalloc"`},
		{"an unknown feature", func(d *disk) { d.bytes[1024+0x63] |= 0x80 }, unsupported, `"incompat 0x80000000"`},
		{"revision", func(d *disk) { d.put32(1024+0x4C, 2) }, unsupported, "revision 2"},
		{"journal", func(d *disk) { d.bytes[1024+0x60] |= 4 }, conflict, "journal"},
		{"state", func(d *disk) { d.put16(1024+0x3A, 0) }, conflict, "not unmounted"},
		{"encrypted inode", func(d *disk) { _, at := d.inode("/one"); d.put32(at+0x20, 0x80800) }, unsupported, "encrypted"},
		{"unknown hash", func(d *disk) { data, _ := d.blocks("/many"); d.bytes[data[0]+28] = 6 }, unsupported, "version 6"},
		{"unknown prefix", func(d *disk) { d.bytes[d.attrBlock("/one")+32+20+1] = 9 }, unsupported, "prefix 9"},
	} {
		t.Run(c.what, func(t *testing.T) {
			d := openDisk(t, data)
			c.do(d)
			mustFault(t, d.read(), c.kind, c.word)
		})
	}
	mustFault(t, (&disk{bytes: nil}).read(), unsupported, "too few")
	d := openDisk(t, data)
	d.put32(1024+4, 1<<24)
	d.put32(1024+0x20, 8)
	_, err := Open(bytes.NewReader(d.bytes), 1<<34)
	mustFault(t, err, unsupported, "groups of blocks")
	d = openDisk(t, data)
	d.bytes[1024+0x67] |= 0x80 // features of this set do not keep anybody from reading
	if err := d.read(); err != nil {
		t.Errorf("with an unknown feature that only writers have to know: %v", err)
	}
}

// TestAccepted: what looks wrong and is not.
func TestAccepted(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, smallImage(t, "-t ext4 -O ^has_journal"), 0o600))
	// A directory with too many subdirectories to count has 1 link; a very large file counts its blocks in another unit.
	debugfs(t, image, "sif dir links_count 1", "sif one flags 0xc0000", "sif one blocks 5")
	v := openImage(t, image)
	readTree(t, v)
	if in, err := v.Lookup("/one"); err != nil || in.Sectors != 10 {
		t.Errorf("a file of 5 blocks of 1024 bytes has %d sectors, %v; want 10", in.Sectors, err)
	}
}

// TestRefusedByMke2fs: features as mke2fs makes them.
func TestRefusedByMke2fs(t *testing.T) {
	for feature, args := range map[string]string{
		"bigalloc": "-O bigalloc", "encrypt": "-O encrypt", "casefold": "-O casefold", "journal_dev": "-O journal_dev",
	} {
		image := makeImage(t, "", 64<<20, append([]string{"-t", "ext4", "-b", "4096"}, strings.Fields(args)...)...)
		_, err := tryOpen(t, image)
		mustFault(t, err, unsupported, feature)
	}
}

// TestTruncated: an image that ends too early, whatever its caller says of its size.
func TestTruncated(t *testing.T) {
	data := smallImage(t, "-t ext4 -O ^has_journal")
	for _, size := range []int{1024, 2000, 2048, 2049, 100 << 10, 1<<20 - 1024} {
		_, err := Open(bytes.NewReader(data[:size]), int64(size))
		kind := fault.Corrupt
		if size < 2048 {
			kind = unsupported
		}
		mustFault(t, err, kind)
		v, err := Open(bytes.NewReader(data[:size]), 1<<20)
		if err == nil {
			_, err = v.Tree()
		}
		if size < 100<<10 {
			mustFault(t, err, fault.Corrupt, "the image ends at")
		}
	}
}

// TestReadError: what the image's reader says goes through, and is nobody's fault.
func TestReadError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "closed")
	must(t, os.WriteFile(file, make([]byte, 4096), 0o600))
	f, err := os.Open(file)
	must(t, err, f.Close())
	if _, err := Open(f, 4096); fault.KindOf(err) != fault.Failure || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Open on a closed file = %v", err)
	}
	if _, err := Open(onlyZeros{}, 1<<60); fault.KindOf(err) != unsupported {
		t.Errorf("Open on zeros = %v", err)
	}
}

type onlyZeros struct{}

func (onlyZeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), io.EOF
}

// TestPlantedByDebugfs: what is wrong and has the right checksum, because debugfs wrote it.
func TestPlantedByDebugfs(t *testing.T) {
	data := smallImage(t, "-t ext4 -O ^has_journal")
	for _, c := range []struct {
		what     string
		commands []string
		word     string
	}{
		{"unused inodes", []string{"set_bg 0 itable_unused 100", "set_bg 0 checksum calc"}, "calls unused"},
		{"too many unused inodes", []string{"set_bg 0 itable_unused 2000", "set_bg 0 checksum calc"}, "2000 unused"},
		{"no inodes", []string{"set_bg 0 flags 1", "set_bg 0 checksum calc"}, "says that it has none"},
		{"links", []string{"sif one links_count 7"}, "2 names, and says 7"},
		{"deleted", []string{"clri one"}, "not in use"},
		{"name of nothing", []string{"ln <100> nothing"}, "inode 100 is referred to and not in use"},
		{"directory loop", []string{"ln dir dir/sub/loop"}, "second name"},
		{"unlinked", []string{"unlink dir/link"}, "1 names, and says 2"},
		{"extent outside", []string{"sif one block[5] 5000"}, "outside"},
		{"attributes of another", []string{"sif two file_acl 5"}, "attributes"},
		{"ACL", []string{"ea_rm one system.posix_acl_access", "ea_set -r one system.posix_acl_access abcdefgh"}, "ACL"},
		{"generation", []string{"sif many generation 5"}, "directory with inode"},
	} {
		t.Run(c.what, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			must(t, os.WriteFile(image, data, 0o600))
			debugfs(t, image, c.commands...)
			changed, err := os.ReadFile(image)
			must(t, err)
			mustFault(t, (&disk{bytes: changed}).read(), fault.Corrupt, c.word)
		})
	}
}
