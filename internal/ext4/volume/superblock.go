package volume

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// Superblock is what a file system says of itself. Offsets are those of struct ext4_super_block (fs/ext4/ext4.h).
type Superblock struct {
	Label          string
	UUID           [16]byte
	BlockSize      int64 // bytes
	Blocks         int64
	FreeBlocks     int64
	ReservedBlocks int64 // for the superuser
	Inodes         int64
	FreeInodes     int64

	BlocksPerGroup uint32
	InodesPerGroup uint32
	InodeSize      int    // bytes
	DescriptorSize int    // bytes of a group descriptor
	FirstInode     uint32 // the first that is not reserved
	JournalInode   uint32 // 0 without a journal, or with one on another device

	Features    []string // by their names in e2fsprogs: "has_journal", "metadata_csum", …
	HashSeed    [4]uint32
	HashVersion uint8     // s_def_hash_version, of new indexed directories
	WriteTime   time.Time // s_wtime
	MakeTime    time.Time // s_mkfs_time

	compat, incompat, roCompat uint32
	flags                      uint32
	state                      uint16
	revision                   uint32
	clusterSize                int64
	firstData                  uint32
	firstMetaBG                uint32
	reservedGDT                uint16
	backupGroups               [2]uint32
	special                    [3]uint32 // inodes of quotas (user, group, project), and
	orphanFile                 uint32    // of the orphans; 0 where there is none
	uuidSeed                   uint32
	checksumType               uint8
}

const (
	superblockAt   = 1024 // bytes from the start of the image
	superblockSize = 1024
	superMagic     = 0xEF53
	largestLog     = 6 // of the block size over 1024: 64 KiB, EXT4_MAX_BLOCK_LOG_SIZE
	checksumAt     = 0x3FC
	checksumCRC32C = 1 // EXT4_CRC32C_CHKSUM

	stateValid  = 0x0001 // EXT4_VALID_FS
	stateErrors = 0x0002 // EXT4_ERROR_FS

	unsignedHash = 0x0002 // s_flags, EXT2_FLAGS_UNSIGNED_HASH

	// maxGroups bounds the descriptors that are kept. It is 128 TiB with blocks of 4 KiB.
	maxGroups = 1 << 20
)

// Superblock returns what the file system says of itself.
func (v *Volume) Superblock() Superblock { return v.super }

// readSuperblock reads and checks the superblock of an image of size bytes.
func (v *Volume) readSuperblock(size int64) error {
	b := make(raw, superblockSize)
	if size < superblockAt+superblockSize {
		return notExt4("%d bytes are too few", size)
	}
	if err := v.readAt(b, superblockAt); err != nil {
		return err
	}
	if b.u16(0x38) != superMagic {
		return notExt4("no magic number")
	}
	s := decodeSuperblock(b)
	if s.hasRO(roMetadataChecksum) {
		if got := crc32c(^uint32(0), b[:checksumAt]); got != b.u32(checksumAt) {
			return badChecksum("the superblock", b.u32(checksumAt), got)
		}
	}
	for _, check := range []func() error{
		s.checkFeatures, s.checkState, s.checkSizes, func() error { return s.checkEnd(size) }, s.checkGroups,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	v.super, v.seed = s, s.checksumSeed()
	return nil
}

// decodeSuperblock takes the fields as they are.
func decodeSuperblock(b raw) Superblock {
	s := Superblock{
		Label:          strings.TrimRight(string(b[0x78:0x88]), "\x00"),
		UUID:           [16]byte(b[0x68:0x78]),
		Blocks:         int64(b.u32(0x04)),
		ReservedBlocks: int64(b.u32(0x08)),
		FreeBlocks:     int64(b.u32(0x0C)),
		Inodes:         int64(b.u32(0x00)),
		FreeInodes:     int64(b.u32(0x10)),
		BlocksPerGroup: b.u32(0x20),
		InodesPerGroup: b.u32(0x28),
		InodeSize:      128,
		DescriptorSize: 32,
		FirstInode:     11,
		JournalInode:   b.u32(0xE0),
		HashSeed:       [4]uint32{b.u32(0xEC), b.u32(0xF0), b.u32(0xF4), b.u32(0xF8)},
		HashVersion:    b[0xFC],
		WriteTime:      longTime(b.u32(0x30), b[0x274]),
		MakeTime:       longTime(b.u32(0x108), b[0x276]),

		compat: b.u32(0x5C), incompat: b.u32(0x60), roCompat: b.u32(0x64),
		flags: b.u32(0x160), state: b.u16(0x3A), revision: b.u32(0x4C),
		BlockSize: logSize(b.u32(0x18)), clusterSize: logSize(b.u32(0x1C)),
		firstData: b.u32(0x14), firstMetaBG: b.u32(0x104), reservedGDT: b.u16(0xCE),
		backupGroups: [2]uint32{b.u32(0x24C), b.u32(0x250)},
		special:      [3]uint32{b.u32(0x240), b.u32(0x244), b.u32(0x26C)},
		orphanFile:   b.u32(0x280), uuidSeed: b.u32(0x270), checksumType: b[0x175],
	}
	if s.revision > 0 {
		s.FirstInode, s.InodeSize = b.u32(0x54), int(b.u16(0x58))
	}
	if s.hasIncompat(incompat64Bit) {
		s.DescriptorSize = int(b.u16(0xFE))
		s.Blocks |= int64(b.u32(0x150)) << 32
		s.ReservedBlocks |= int64(b.u32(0x154)) << 32
		s.FreeBlocks |= int64(b.u32(0x158)) << 32
	}
	return s
}

// logSize returns the bytes of a block whose logarithm over 1024 is given, or 0 for what no file system has.
func logSize(log uint32) int64 {
	if log > largestLog {
		return 0
	}
	return superblockSize << log
}

// longTime returns the time of 40 bits (s_wtime and s_wtime_hi).
func longTime(low uint32, high uint8) time.Time {
	return time.Unix(int64(low)|int64(high)<<32, 0).UTC()
}

// checkState refuses a file system that somebody has to repair before it can be read.
func (s *Superblock) checkState() error {
	if s.hasIncompat(incompatRecover) {
		err := errors.New("the journal has not been replayed: the file system is mounted, or was not unmounted")
		return fault.New(fault.Conflict, err, "unmount it, or run e2fsck -p on it")
	}
	if s.state&stateValid == 0 {
		err := errors.New("the file system is mounted, or was not unmounted")
		return fault.New(fault.Conflict, err, "unmount it, or run e2fsck -p on it")
	}
	if s.state&stateErrors != 0 {
		return corrupt("the kernel has found errors in the file system")
	}
	return nil
}

// checkSizes checks the sizes of blocks, inodes and descriptors, as fs/ext4/super.c does at a mount.
func (s *Superblock) checkSizes() error {
	if s.BlockSize == 0 || s.clusterSize != s.BlockSize {
		return corrupt("the size of a block or a cluster is none that ext4 has")
	}
	if s.revision > 1 {
		return fault.New(fault.Unsupported, fmt.Errorf("revision %d of ext4 is not known", s.revision), "")
	}
	if bits.OnesCount(uint(s.InodeSize)) != 1 || s.InodeSize < 128 || int64(s.InodeSize) > s.BlockSize {
		return corrupt("inodes of %d bytes in blocks of %d", s.InodeSize, s.BlockSize)
	}
	least := 32
	if s.hasIncompat(incompat64Bit) {
		least = 64
	}
	if bits.OnesCount(uint(s.DescriptorSize)) != 1 || s.DescriptorSize < least || s.DescriptorSize > 1024 {
		return corrupt("group descriptors of %d bytes", s.DescriptorSize)
	}
	if s.hasRO(roMetadataChecksum) && s.checksumType != checksumCRC32C {
		return fault.New(fault.Unsupported, fmt.Errorf("checksums of type %d are not known", s.checksumType), "")
	}
	return nil
}

// checkGroups checks how blocks and inodes are divided into groups.
func (s *Superblock) checkGroups() error {
	// With blocks of 1024 bytes the first one is the boot loader's, and the superblock is the second.
	if want := superblockAt / s.BlockSize; int64(s.firstData) != want {
		return corrupt("the first data block is %d instead of %d", s.firstData, want)
	}
	inBitmap := uint32(8 * s.BlockSize)
	if s.BlocksPerGroup < 8 || s.BlocksPerGroup > inBitmap || s.BlocksPerGroup%8 != 0 {
		return corrupt("%d blocks in a group", s.BlocksPerGroup)
	}
	if s.InodesPerGroup < s.inodesPerBlock() || s.InodesPerGroup > inBitmap || s.InodesPerGroup%8 != 0 {
		return corrupt("%d inodes in a group", s.InodesPerGroup)
	}
	if s.Blocks <= int64(s.firstData) {
		return corrupt("a file system of %d blocks", s.Blocks)
	}
	groups := s.groupCount()
	if groups > maxGroups {
		return fault.New(fault.Unsupported, fmt.Errorf("more than %d groups of blocks", maxGroups), "")
	}
	if s.Inodes != groups*int64(s.InodesPerGroup) {
		return corrupt("%d inodes in %d groups of %d", s.Inodes, groups, s.InodesPerGroup)
	}
	if s.FirstInode < 11 || int64(s.FirstInode) > s.Inodes {
		return corrupt("inode %d as the first that is not reserved", s.FirstInode)
	}
	return nil
}

// checkEnd checks that the image has all blocks of the file system.
func (s *Superblock) checkEnd(size int64) error {
	if s.Blocks > size/s.BlockSize {
		return corrupt("the file system has %d blocks of %d bytes, the image %d bytes", s.Blocks, s.BlockSize, size)
	}
	return nil
}

// checksumSeed returns what all checksums of metadata begin with (fs/ext4/super.c: s_csum_seed).
func (s *Superblock) checksumSeed() uint32 {
	if s.hasIncompat(incompatChecksumSeed) {
		return s.uuidSeed
	}
	return crc32c(^uint32(0), s.UUID[:])
}

func (s *Superblock) firstDataBlock() int64  { return int64(s.firstData) }
func (s *Superblock) inodesPerBlock() uint32 { return uint32(s.BlockSize) / uint32(s.InodeSize) }
func (s *Superblock) inodeTableBlocks() uint64 {
	return (uint64(s.InodesPerGroup) + uint64(s.inodesPerBlock()) - 1) / uint64(s.inodesPerBlock())
}

// groupCount returns the number of groups, the last of which may be short.
func (s *Superblock) groupCount() int64 {
	data := s.Blocks - int64(s.firstData)
	return (data-1)/int64(s.BlocksPerGroup) + 1
}

// isSpecial says whether an inode is the file system's own, so that no directory can name it. The root is not
// (fs/ext4/inode.c: is_special_ino).
func (s *Superblock) isSpecial(inode uint32) bool {
	if inode == rootInode {
		return false
	}
	for _, own := range s.special {
		if own == inode {
			return true
		}
	}
	return inode < s.FirstInode || inode == s.orphanFile
}

func notExt4(format string, args ...any) error {
	return fault.New(fault.Unsupported, fmt.Errorf("not an ext4 file system: "+format, args...), "")
}
