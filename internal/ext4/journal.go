package ext4

import "encoding/binary"

const (
	resizeInode  = 7 // EXT4_RESIZE_INO (fs/ext4/ext4.h)
	journalInode = 8 // EXT4_JOURNAL_INO
)

// journalBlocks returns the size of the journal: mke2fs's for disks up to 16 GiB (ext2fs_default_journal_size in
// e2fsprogs), and no more for larger ones. The journal is written all over in time, so a larger one makes each VM's own
// disk larger.
func journalBlocks(blocks uint32) uint32 {
	var size uint32
	for _, step := range journalSteps() {
		if blocks >= step.from {
			size = step.size
		}
	}
	return size
}

// journalStep is the size of the journal of disks of a size on, both in blocks.
type journalStep struct{ from, size uint32 }

func journalSteps() []journalStep {
	return []journalStep{{0, 1024}, {128 << 20 / BlockSize, 4096}, {1 << 30 / BlockSize, 8192}, {2 << 30 / BlockSize, 16384}}
}

// fixedInodes are the reserved inodes that are in use.
type fixedInodes struct {
	journal   inode
	resizeMap uint32 // the double indirect block of the resize inode
}

// placeFixed takes the blocks that the reserved inodes need. It comes first, so that the journal is in one piece, or
// nearly.
func (w *writer) placeFixed() error {
	m := w.newMapping()
	if err := m.extend(0, journalBlocks(w.blocks)); err != nil {
		return err
	}
	if err := m.end(journalInode, &w.fixed.journal); err != nil {
		return err
	}
	block, _, err := w.space.free()
	if err != nil {
		return err
	}
	w.space.take(1)
	w.fixed.resizeMap = block
	return nil
}

// writeJournalSuper writes the first block of the journal, which says that the journal is empty. The other blocks mean
// nothing until the kernel writes them. All fields are big-endian (Documentation/filesystems/ext4/journal.rst).
func (w *writer) writeJournalSuper() error {
	b, err := w.sink.block(w.extents[w.fixed.journal.first].physical)
	if err != nil {
		return err
	}
	const (
		magic       = 0xC03B3998 // JBD2_MAGIC_NUMBER
		superBlock2 = 4          // JBD2_SUPERBLOCK_V2
	)
	u32 := func(offset int, v uint32) { binary.BigEndian.PutUint32(b[offset:], v) }
	u32(0x00, magic)                   // h_magic
	u32(0x04, superBlock2)             // h_blocktype
	u32(0x0C, BlockSize)               // s_blocksize
	u32(0x10, journalBlocks(w.blocks)) // s_maxlen
	u32(0x14, 1)                       // s_first: the block after this one
	u32(0x18, 1)                       // s_sequence
	copy(b[0x30:], w.uuid[:])          // s_uuid
	u32(0x40, 1)                       // s_nr_users
	return nil
}
