package volume

import "fmt"

// Group is a group of blocks as its descriptor has it (fs/ext4/ext4.h: struct ext4_group_desc). Blocks are counted
// from the start of the file system.
type Group struct {
	BlockBitmap  uint64
	InodeBitmap  uint64
	InodeTable   uint64
	FreeBlocks   uint32
	FreeInodes   uint32
	Directories  uint32
	UnusedInodes uint32 // at the end of the inode table, never used; only with checksums of groups
	Flags        uint16

	blockChecksum uint32 // of the bitmaps
	inodeChecksum uint32
}

// Flags of a Group, valid only with checksums of groups.
const (
	InodesUninitialized = 0x0001 // EXT4_BG_INODE_UNINIT: no inode is in use, the bitmap is not written
	BlocksUninitialized = 0x0002 // EXT4_BG_BLOCK_UNINIT: the bitmap of blocks is not written
	InodeTableZeroed    = 0x0004 // EXT4_BG_INODE_ZEROED
)

// Groups returns the groups of the file system. The slice is the Volume's own.
func (v *Volume) Groups() []Group { return v.groups }

// readGroups reads all descriptors and checks them.
func (v *Volume) readGroups() error {
	count := uint64(v.super.groupCount())
	perBlock := uint64(v.super.BlockSize) / uint64(v.super.DescriptorSize)
	for first := uint64(0); first < count; first += perBlock {
		block, err := v.readBlock(v.descriptorBlock(first / perBlock))
		if err != nil {
			return err
		}
		for n := first; n < min(first+perBlock, count); n++ {
			descriptor := block[(n-first)*uint64(v.super.DescriptorSize):][:v.super.DescriptorSize]
			if err := v.addGroup(uint32(n), descriptor); err != nil {
				return err
			}
		}
	}
	return nil
}

// descriptorBlock returns which block has the nth block of descriptors (fs/ext4/super.c: descriptor_loc). With meta_bg
// it is in the first group that it describes.
func (v *Volume) descriptorBlock(n uint64) uint64 {
	s := &v.super
	if !s.hasIncompat(incompatMetaBG) || n < uint64(s.firstMetaBG) {
		return uint64(s.firstData) + 1 + n
	}
	group := n * uint64(s.BlockSize) / uint64(s.DescriptorSize)
	block := s.groupStart(group)
	if s.hasBackup(group) {
		block++
	}
	return block
}

// groupStart returns the first block of a group.
func (s *Superblock) groupStart(group uint64) uint64 {
	return uint64(s.firstData) + group*uint64(s.BlocksPerGroup)
}

// groupBlocks returns how many blocks a group has.
func (s *Superblock) groupBlocks(group uint64) uint64 {
	return min(uint64(s.BlocksPerGroup), uint64(s.Blocks)-s.groupStart(group))
}

// hasBackup says whether a group begins with a superblock, the real one or a copy (fs/ext4/balloc.c:
// ext4_bg_has_super).
func (s *Superblock) hasBackup(group uint64) bool {
	switch {
	case group == 0:
		return true
	case s.hasCompat(compatSparseSuper2):
		return group == uint64(s.backupGroups[0]) || group == uint64(s.backupGroups[1])
	case group == 1 || !s.hasRO(roSparseSuper):
		return true
	}
	return isPower(group, 3) || isPower(group, 5) || isPower(group, 7)
}

func isPower(n, base uint64) bool {
	power := base
	for power < n {
		power *= base
	}
	return power == n
}

// addGroup appends a descriptor.
func (v *Volume) addGroup(number uint32, b raw) error {
	if err := v.checkDescriptor(number, b); err != nil {
		return err
	}
	g := decodeGroup(b)
	if !v.super.hasRO(roMetadataChecksum | roGroupChecksum) {
		g.Flags, g.UnusedInodes = 0, 0
	}
	if g.UnusedInodes > v.super.InodesPerGroup {
		return corrupt("group %d has %d unused inodes of %d", number, g.UnusedInodes, v.super.InodesPerGroup)
	}
	for _, run := range v.groupRuns(&g) {
		if !v.validRun(run.start, run.count) {
			return corrupt("group %d has a bitmap or a table at block %d", number, run.start)
		}
	}
	v.groups = append(v.groups, g)
	return nil
}

// groupRuns returns where a group's bitmaps and its inode table are.
func (v *Volume) groupRuns(g *Group) []run {
	return []run{{start: g.BlockBitmap, count: 1}, {start: g.InodeBitmap, count: 1},
		{start: g.InodeTable, count: v.super.inodeTableBlocks()}}
}

// checkDescriptor verifies the checksum (fs/ext4/super.c: ext4_group_desc_csum): the descriptor without the two bytes
// of the checksum itself, which crc32c counts as zeros and crc16 leaves out.
func (v *Volume) checkDescriptor(number uint32, b raw) error {
	const at = 0x1E
	var got uint16
	switch {
	case v.super.hasRO(roMetadataChecksum):
		crc := crc32c(crc32cNumber(v.seed, number), b[:at])
		got = uint16(crc32c(crc32c(crc, []byte{0, 0}), b[at+2:]))
	case v.super.hasRO(roGroupChecksum):
		crc := crc16(^uint16(0), v.super.UUID[:])
		crc = crc16(crc, []byte{byte(number), byte(number >> 8), byte(number >> 16), byte(number >> 24)})
		got = crc16(crc16(crc, b[:at]), b[at+2:])
	default:
		return nil
	}
	if got != b.u16(at) {
		return badChecksum(fmt.Sprintf("group descriptor %d", number), uint32(b.u16(at)), uint32(got))
	}
	return nil
}

// decodeGroup takes the fields of a descriptor of 32 bytes, and of 64 with the upper halves.
func decodeGroup(b raw) Group {
	g := Group{
		BlockBitmap:   uint64(b.u32(0x00)),
		InodeBitmap:   uint64(b.u32(0x04)),
		InodeTable:    uint64(b.u32(0x08)),
		FreeBlocks:    uint32(b.u16(0x0C)),
		FreeInodes:    uint32(b.u16(0x0E)),
		Directories:   uint32(b.u16(0x10)),
		Flags:         b.u16(0x12),
		blockChecksum: uint32(b.u16(0x18)),
		inodeChecksum: uint32(b.u16(0x1A)),
		UnusedInodes:  uint32(b.u16(0x1C)),
	}
	if len(b) < 64 {
		return g
	}
	g.BlockBitmap |= uint64(b.u32(0x20)) << 32
	g.InodeBitmap |= uint64(b.u32(0x24)) << 32
	g.InodeTable |= uint64(b.u32(0x28)) << 32
	g.FreeBlocks |= uint32(b.u16(0x2C)) << 16
	g.FreeInodes |= uint32(b.u16(0x2E)) << 16
	g.Directories |= uint32(b.u16(0x30)) << 16
	g.UnusedInodes |= uint32(b.u16(0x32)) << 16
	g.blockChecksum |= uint32(b.u16(0x38)) << 16
	g.inodeChecksum |= uint32(b.u16(0x3A)) << 16
	return g
}
