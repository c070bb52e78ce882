package volume

import (
	"fmt"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// rootInode is the inode of "/" (EXT4_ROOT_INO).
const rootInode = 2

// Types of files in Inode.Mode (S_IFMT in linux/stat.h).
const (
	modeType      = 0o170000
	modeSocket    = 0o140000
	modeSymlink   = 0o120000
	modeRegular   = 0o100000
	modeBlock     = 0o060000
	modeDirectory = 0o040000
	modeChar      = 0o020000
	modeFIFO      = 0o010000
)

// Flags of an Inode (fs/ext4/ext4.h: EXT4_*_FL).
const (
	FlagEncrypted  = 0x00000800
	FlagIndexed    = 0x00001000 // a directory with an index of hashes
	FlagHugeFile   = 0x00040000 // i_blocks counts blocks of the file system
	FlagExtents    = 0x00080000
	FlagEAInode    = 0x00200000 // the value of an extended attribute
	FlagInlineData = 0x10000000
)

// Inode is an inode as it is on the disk.
type Inode struct {
	Number     uint32
	Mode       uint16 // type and permissions
	UID        uint32
	GID        uint32
	Size       int64
	Links      uint16
	Sectors    uint64 // i_blocks in units of 512 bytes
	Flags      uint32
	Generation uint32
	AttrBlock  uint64 // i_file_acl: the block of extended attributes, or 0
	ExtraSize  int    // i_extra_isize: bytes of fields behind the first 128
	ProjectID  uint32

	ATime  time.Time // UTC; with nanoseconds where the inode has room for them
	CTime  time.Time
	MTime  time.Time
	CRTime time.Time // the zero Time where the inode has no room
	DTime  uint32    // seconds, or the next inode in the list of orphans

	body   raw   // all of the inode
	offset int64 // of body in the image
}

// Offsets of struct ext4_inode.
const (
	oldInodeSize = 128
	iBlockAt     = 0x28
	iBlockSize   = 60
)

// iBlock is the 60 bytes that hold the map of the blocks, or what needs none.
func (in *Inode) iBlock() raw { return in.body[iBlockAt : iBlockAt+iBlockSize] }

func (in *Inode) has(flag uint32) bool    { return in.Flags&flag != 0 }
func (in *Inode) is(fileType uint16) bool { return in.Mode&modeType == fileType }

// Inode reads an inode, be it in use or not, and verifies its checksum.
func (v *Volume) Inode(number uint32) (Inode, error) {
	if number == 0 || int64(number) > v.super.Inodes {
		return Inode{}, corrupt("inode %d does not exist, there are %d", number, v.super.Inodes)
	}
	body, offset, err := v.inodeBody(number)
	if err != nil {
		return Inode{}, fmt.Errorf("reading inode %d: %w", number, err)
	}
	in := Inode{Number: number, body: body, offset: offset}
	if err := v.checkInode(&in); err != nil {
		return Inode{}, err
	}
	v.decodeInode(&in)
	if in.Size < 0 {
		return Inode{}, corrupt("inode %d has the size %d", number, uint64(in.Size))
	}
	return in, nil
}

// inodeBody returns the bytes of an inode and where they are.
func (v *Volume) inodeBody(number uint32) (raw, int64, error) {
	group, index := (number-1)/v.super.InodesPerGroup, (number-1)%v.super.InodesPerGroup
	block := v.groups[group].InodeTable + uint64(index/v.super.inodesPerBlock())
	data, err := v.readBlock(block)
	if err != nil {
		return nil, 0, err
	}
	at := int(index%v.super.inodesPerBlock()) * v.super.InodeSize
	return data[at : at+v.super.InodeSize : at+v.super.InodeSize], int64(block)*v.super.BlockSize + int64(at), nil
}

// checkInode verifies i_extra_isize and the checksum (fs/ext4/inode.c: __ext4_iget, ext4_inode_csum).
func (v *Volume) checkInode(in *Inode) error {
	if len(in.body) > oldInodeSize {
		in.ExtraSize = int(in.body.u16(0x80))
		if in.ExtraSize > len(in.body)-oldInodeSize || in.ExtraSize%4 != 0 {
			return corrupt("inode %d has %d bytes of additional fields", in.Number, in.ExtraSize)
		}
	}
	if !v.super.hasRO(roMetadataChecksum) || isZero(in.body) {
		return nil // an inode that was never used has no checksum
	}
	want, got := v.inodeChecksum(in)
	if want != got {
		return badChecksum(fmt.Sprintf("inode %d", in.Number), want, got)
	}
	return nil
}

// inodeChecksum returns the checksum that is in the inode and that of its bytes, in which the checksum counts as zeros.
// The upper half exists where i_extra_isize covers it.
func (v *Volume) inodeChecksum(in *Inode) (stored, computed uint32) {
	const low, high = 0x7C, 0x82
	zeros := []byte{0, 0}
	crc := v.inodeSeed(in.Number, in.body.u32(0x64))
	crc = crc32c(crc32c(crc, in.body[:low]), zeros)
	if in.ExtraSize < high+2-oldInodeSize {
		return uint32(in.body.u16(low)), crc32c(crc, in.body[low+2:]) & 0xFFFF
	}
	crc = crc32c(crc32c(crc, in.body[low+2:high]), zeros)
	return uint32(in.body.u16(low)) | uint32(in.body.u16(high))<<16, crc32c(crc, in.body[high+2:])
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// decodeInode takes the fields.
func (v *Volume) decodeInode(in *Inode) {
	b := in.body
	in.Mode = b.u16(0x00)
	in.UID = uint32(b.u16(0x02)) | uint32(b.u16(0x78))<<16
	in.GID = uint32(b.u16(0x18)) | uint32(b.u16(0x7A))<<16
	in.Size = int64(b.u32(0x04))
	if in.is(modeRegular) || v.super.hasIncompat(incompatLargeDir) {
		in.Size |= int64(b.u32(0x6C)) << 32
	}
	in.Links, in.Flags, in.Generation, in.DTime = b.u16(0x1A), b.u32(0x20), b.u32(0x64), b.u32(0x14)
	in.AttrBlock = uint64(b.u32(0x68))
	if v.super.hasIncompat(incompat64Bit) {
		in.AttrBlock |= uint64(b.u16(0x76)) << 32
	}
	in.Sectors = uint64(b.u32(0x1C))
	if v.super.hasRO(roHugeFile) {
		in.Sectors |= uint64(b.u16(0x74)) << 32
		if in.has(FlagHugeFile) {
			in.Sectors *= uint64(v.super.BlockSize / 512)
		}
	}
	in.ATime, in.CTime, in.MTime = in.time(0x08, 0x8C), in.time(0x0C, 0x84), in.time(0x10, 0x88)
	if in.fits(0x90) {
		in.CRTime = in.time(0x90, 0x94)
	}
	if in.fits(0x9C) {
		in.ProjectID = b.u32(0x9C)
	}
}

// fits says whether the inode has the field of 4 bytes at an offset behind the first 128 bytes (EXT4_FITS_IN_INODE).
func (in *Inode) fits(offset int) bool { return offset+4 <= oldInodeSize+in.ExtraSize }

// time returns the time whose seconds are at low. The 32 bits at high, if there are any, are two more bits of the
// seconds, which are added to the signed lower ones, and the nanoseconds (fs/ext4/ext4.h: ext4_decode_extra_time).
func (in *Inode) time(low, high int) time.Time {
	seconds := int64(int32(in.body.u32(low)))
	if !in.fits(high) {
		return time.Unix(seconds, 0).UTC()
	}
	extra := in.body.u32(high)
	return time.Unix(seconds+int64(extra&3)<<32, int64(extra>>2)).UTC()
}

// usedInode reads an inode that something refers to.
func (v *Volume) usedInode(number uint32) (Inode, error) {
	in, err := v.Inode(number)
	if err != nil {
		return Inode{}, err
	}
	if in.Links == 0 || in.Mode == 0 {
		return Inode{}, corrupt("inode %d is referred to and not in use", number)
	}
	if in.has(FlagEncrypted) {
		return Inode{}, fault.New(fault.Unsupported, fmt.Errorf("inode %d is encrypted", number), "")
	}
	return in, v.checkGroupOf(number)
}

// checkGroupOf checks that the group of an inode in use does not say that it never was (e2fsck/pass2.c).
func (v *Volume) checkGroupOf(number uint32) error {
	g := &v.groups[(number-1)/v.super.InodesPerGroup]
	if g.Flags&InodesUninitialized != 0 {
		return corrupt("inode %d is in use, in a group that says that it has none", number)
	}
	if (number-1)%v.super.InodesPerGroup >= v.super.InodesPerGroup-g.UnusedInodes {
		return corrupt("inode %d is in use, among the %d that its group calls unused", number, g.UnusedInodes)
	}
	return nil
}

// device returns the numbers of a device: in 16 bits where they fit in, else in 32 (fs/ext4/inode.c: __ext4_iget;
// include/linux/kdev_t.h: old_decode_dev, new_decode_dev).
func (in *Inode) device() (major, minor uint32) {
	if old := in.iBlock().u32(0); old != 0 {
		return old >> 8 & 0xFF, old & 0xFF
	}
	dev := in.iBlock().u32(4)
	return dev & 0xFFF00 >> 8, dev&0xFF | dev>>12&0xFFF00
}
