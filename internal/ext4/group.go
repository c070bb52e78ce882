package ext4

// Flags of a group (bg_flags; fs/ext4/ext4.h, EXT4_BG_*).
const (
	groupInodeUninit = 1 // no inode is in use, and there is no bitmap of them
	groupBlockUninit = 2 // no block is in use, and there is no bitmap of them
	groupZeroed      = 4 // what is not in use of the inode table is zero: nobody has to write it
)

// writeGroups writes bitmaps, descriptors and superblocks.
func (w *writer) writeGroups(label string) error {
	descriptors := make(record, int(w.descriptorBlocks)*BlockSize)
	dirs := w.dirsByGroup()
	for group := range w.groups {
		b := descriptors[group*descriptorSize:][:descriptorSize]
		if err := w.writeGroup(b, group, dirs[group]); err != nil {
			return err
		}
	}
	for group := range w.groups {
		if !hasSuper(group) {
			continue
		}
		if err := w.writeSuper(group, label, descriptors); err != nil {
			return err
		}
	}
	return nil
}

// dirsByGroup counts the directories whose inodes are in each group.
func (w *writer) dirsByGroup() []uint32 {
	counts := make([]uint32, w.groups)
	for _, d := range w.dirs {
		counts[(d.number-1)/w.inodesPerGroup]++
	}
	return counts
}

// usedInodes returns how many inodes of a group are in use. They are the first ones.
func (w *writer) usedInodes(group uint32) uint32 {
	first := group * w.inodesPerGroup
	return min(w.last()-min(w.last(), first), w.inodesPerGroup)
}

// writeGroup writes the bitmaps of a group and fills in its descriptor: struct ext4_group_desc.
func (w *writer) writeGroup(b record, group, dirs uint32) error {
	blocks, usedBlocks := w.blockBits(group)
	usedInodes := w.usedInodes(group)
	flags := uint16(groupZeroed)
	// The bitmap of the last group has to say where the disk ends, so it is always there.
	if usedBlocks == 0 && group != w.groups-1 {
		flags |= groupBlockUninit
	} else if err := w.writeBitmap(b, w.blockBitmap(group), blocks, blocksPerGroup, [2]int{0x18, 0x38}); err != nil {
		return err
	}
	if usedInodes == 0 {
		flags |= groupInodeUninit
	} else {
		bits := newBitmap()
		bits.set(0, usedInodes)
		bits.set(w.inodesPerGroup, blocksPerGroup) // there are none
		if err := w.writeBitmap(b, w.inodeBitmap(group), bits, w.inodesPerGroup, [2]int{0x1A, 0x3A}); err != nil {
			return err
		}
	}
	b.u32(0x00, w.blockBitmap(group))
	b.u32(0x04, w.inodeBitmap(group))
	b.u32(0x08, w.inodeTable(group))
	b.split32(0x0C, 0x2C, w.groupEnd(group)-w.groupStart(group)-usedBlocks) // bg_free_blocks_count
	b.split32(0x0E, 0x2E, w.inodesPerGroup-usedInodes)                      // bg_free_inodes_count
	b.split32(0x10, 0x30, dirs)                                             // bg_used_dirs_count
	b.u16(0x12, flags)
	b.split32(0x1C, 0x32, w.inodesPerGroup-usedInodes) // bg_itable_unused
	b.u16(0x1E, w.groupChecksum(b, group))
	return nil
}

// groupChecksum is the lower half of the CRC over the group's number and its descriptor, where the checksum is 0
// (fs/ext4/super.c, ext4_group_desc_csum).
func (w *writer) groupChecksum(b record, group uint32) uint16 {
	number := make(record, 4)
	number.u32(0, group)
	return uint16(checksum(checksum(w.checksum, number), b))
}

// bitmap has a bit for each block or inode of a group, the lowest bit of the first byte first.
type bitmap []byte

func newBitmap() bitmap { return make(bitmap, BlockSize) }

// set sets the bits from start to before end.
func (m bitmap) set(start, end uint32) {
	for ; start < end && start%8 != 0; start++ {
		m[start/8] |= 1 << (start % 8)
	}
	for ; start+8 <= end; start += 8 {
		m[start/8] = 0xff
	}
	for ; start < end; start++ {
		m[start/8] |= 1 << (start % 8)
	}
}

// blockBits returns which blocks of a group are in use, and how many: the metadata, and what was given away. What is
// behind the end of the disk counts as in use, but not as a block.
func (w *writer) blockBits(group uint32) (bits bitmap, used uint32) {
	bits = newBitmap()
	start, end := w.groupStart(group), w.groupEnd(group)
	// The metadata is at the beginning, and blocks are given away from the front: the used ones are in one piece.
	used = max(w.groupMetadata(group).end, min(w.space.next, end)) - start
	bits.set(0, used)
	bits.set(end-start, blocksPerGroup)
	return bits, used
}

// writeBitmap writes a bitmap and fills in its checksum, which counts only the first bits.
func (w *writer) writeBitmap(descriptor record, block uint32, bits bitmap, counted uint32, sumAt [2]int) error {
	b, err := w.sink.block(block)
	if err != nil {
		return err
	}
	copy(b, bits)
	descriptor.split32(sumAt[0], sumAt[1], checksum(w.checksum, bits[:counted/8]))
	return nil
}
