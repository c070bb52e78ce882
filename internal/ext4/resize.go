package ext4

import "encoding/binary"

// The resize inode owns the blocks that are reserved for descriptors of groups to come, behind the superblock of group 0
// and behind each of its backups. It is a block-mapped file: its double indirect block points to the reserved blocks of
// group 0, and each of those is the indirect block of its copies in the other groups (fs/ext4/resize.c, reserve_backup_gdb
// and verify_reserved_gdb).

// backupGroups returns the groups that have a copy of the superblock, without group 0.
func (g *geometry) backupGroups() []uint32 {
	var groups []uint32
	for group := uint32(1); group < g.groups; group++ {
		if hasSuper(group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// writeResizeMap writes the indirect blocks of the resize inode.
func (w *writer) writeResizeMap() error {
	const perBlock = BlockSize / 4
	backups := w.backupGroups()
	first := 1 + w.descriptorBlocks
	for i := range w.reservedBlocks {
		if len(backups) == 0 {
			break // the blocks are zero
		}
		b, err := w.sink.block(first + i)
		if err != nil {
			return err
		}
		for j, group := range backups {
			b.u32(4*j, w.groupStart(group)+first+i)
		}
	}
	b, err := w.sink.block(w.fixed.resizeMap)
	if err != nil {
		return err
	}
	for i := range w.reservedBlocks {
		b.u32(4*int((w.descriptorBlocks+i)%perBlock), first+i)
	}
	return nil
}

// encodeResizeInode fills in the resize inode. Its size is the largest that a double indirect block gives
// (e2fsprogs lib/ext2fs/res_gdt.c, ext2fs_create_resize_inode).
func (w *writer) encodeResizeInode(b record) {
	const perBlock, direct, doubleIndirect = BlockSize / 4, 12, 13
	blocks := 1 + w.reservedBlocks*uint32(1+len(w.backupGroups()))
	b.u16(0x00, modeRegular|0o600)
	b.u16(0x1A, 1) // i_links_count
	b.split64(0x04, 0x6C, (perBlock*perBlock+perBlock+direct)*BlockSize)
	b.u32(0x1C, blocks*sectorsPerBlock)
	binary.LittleEndian.PutUint32(b[0x28+4*doubleIndirect:], w.fixed.resizeMap)
}
