package volume

import (
	"fmt"
	"slices"

	"github.com/banger-vm/banger/internal/fault"
)

// Features by their sets (fs/ext4/ext4.h: EXT4_FEATURE_*). Those that the reader has to know have a name here.
const (
	compatSparseSuper2 = 0x0200
	compatResizeInode  = 0x0010
	compatDirIndex     = 0x0020
	compatHasJournal   = 0x0004

	incompatFiletype     = 0x0002
	incompatRecover      = 0x0004
	incompatMetaBG       = 0x0010
	incompat64Bit        = 0x0080
	incompatEAInode      = 0x0400
	incompatChecksumSeed = 0x2000
	incompatLargeDir     = 0x4000
	incompatInlineData   = 0x8000

	roSparseSuper      = 0x0001
	roHugeFile         = 0x0008
	roGroupChecksum    = 0x0010
	roDirNlink         = 0x0020
	roBigalloc         = 0x0200
	roMetadataChecksum = 0x0400
	roSharedBlocks     = 0x4000
)

// feature is a bit of one of the three sets.
type feature struct {
	bit       uint32
	name      string // as e2fsprogs calls it
	supported bool
}

var compatFeatures = [...]feature{
	{0x0001, "dir_prealloc", true},
	{0x0002, "imagic_inodes", true},
	{compatHasJournal, "has_journal", true},
	{0x0008, "ext_attr", true},
	{compatResizeInode, "resize_inode", true},
	{compatDirIndex, "dir_index", true},
	{0x0040, "lazy_bg", true},
	{0x0100, "snapshot_bitmap", true},
	{compatSparseSuper2, "sparse_super2", true},
	{0x0400, "fast_commit", true},
	{0x0800, "stable_inodes", true},
	{0x1000, "orphan_file", true},
}

var incompatFeatures = [...]feature{
	{0x0001, "compression", false},
	{incompatFiletype, "filetype", true},
	{incompatRecover, "needs_recovery", true}, // refused by checkState
	{0x0008, "journal_dev", false},
	{incompatMetaBG, "meta_bg", true},
	{0x0040, "extent", true},
	{incompat64Bit, "64bit", true},
	{0x0100, "mmp", true},
	{0x0200, "flex_bg", true},
	{incompatEAInode, "ea_inode", true},
	{0x1000, "dirdata", false},
	{incompatChecksumSeed, "metadata_csum_seed", true},
	{incompatLargeDir, "large_dir", true},
	{incompatInlineData, "inline_data", true},
	{0x10000, "encrypt", false},
	{0x20000, "casefold", false},
}

// A file system with features of this set that a reader does not know can still be read: that is what the set is for.
// bigalloc and snapshots are in it, and are refused because blocks are not what they are elsewhere.
var roFeatures = [...]feature{
	{roSparseSuper, "sparse_super", true},
	{0x0002, "large_file", true},
	{0x0004, "btree_dir", true},
	{roHugeFile, "huge_file", true},
	{roGroupChecksum, "uninit_bg", true},
	{roDirNlink, "dir_nlink", true},
	{0x0040, "extra_isize", true},
	{0x0080, "has_snapshot", false},
	{0x0100, "quota", true},
	{roBigalloc, "bigalloc", false},
	{roMetadataChecksum, "metadata_csum", true},
	{0x0800, "replica", false},
	{0x1000, "read-only", true},
	{0x2000, "project", true},
	{roSharedBlocks, "shared_blocks", true},
	{0x8000, "verity", true},
	{0x10000, "orphan_present", true},
}

// nameFeatures returns the names of the bits that are set, and of those among them that the reader does not support.
// Bits without a name are called by their set and number.
func nameFeatures(set string, bits uint32, known []feature) (names, unsupported []string) {
	for _, f := range known {
		if bits&f.bit == 0 {
			continue
		}
		names = append(names, f.name)
		if !f.supported {
			unsupported = append(unsupported, f.name)
		}
		bits &^= f.bit
	}
	for ; bits != 0; bits &= bits - 1 {
		name := fmt.Sprintf("%s %#x", set, bits&-bits)
		names = append(names, name)
		if set == "incompat" {
			unsupported = append(unsupported, name)
		}
	}
	return names, unsupported
}

// checkFeatures names the features in s, and refuses those that cannot be read.
func (s *Superblock) checkFeatures() error {
	compat, _ := nameFeatures("compat", s.compat, compatFeatures[:])
	incompat, refused := nameFeatures("incompat", s.incompat, incompatFeatures[:])
	ro, refusedToo := nameFeatures("ro_compat", s.roCompat, roFeatures[:])
	s.Features = slices.Concat(compat, incompat, ro)
	if all := slices.Concat(refused, refusedToo); len(all) > 0 {
		err := fmt.Errorf("the file system has the feature %q, which cannot be read", all[0])
		return fault.New(fault.Unsupported, err, "")
	}
	return nil
}

// Has says whether the file system has a feature, called as in Features.
func (s *Superblock) Has(name string) bool { return slices.Contains(s.Features, name) }

func (s *Superblock) hasCompat(bit uint32) bool   { return s.compat&bit != 0 }
func (s *Superblock) hasIncompat(bit uint32) bool { return s.incompat&bit != 0 }
func (s *Superblock) hasRO(bit uint32) bool       { return s.roCompat&bit != 0 }
