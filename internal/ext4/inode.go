package ext4

import (
	"context"

	"github.com/banger-vm/banger/internal/rootfs"
)

// The type of an inode, in the upper bits of its mode (Documentation/filesystems/ext4/inodes.rst, i_mode).
const (
	modeFIFO      = 0x1000
	modeChar      = 0x2000
	modeDirectory = 0x4000
	modeBlock     = 0x6000
	modeRegular   = 0x8000
	modeSymlink   = 0xA000
)

// Flags of an inode (i_flags).
const (
	flagIndex   = 0x1000  // EXT4_INDEX_FL: the directory has an index
	flagExtents = 0x80000 // EXT4_EXTENTS_FL
)

const (
	sectorsPerBlock = BlockSize / 512 // i_blocks counts sectors
	blockMapAt      = 0x28            // i_block, 60 bytes
	blockMapSize    = 60
	checksumLowAt   = 0x7C // l_i_checksum_lo
	checksumHighAt  = 0x82 // i_checksum_hi
	extraSize       = 32   // i_extra_isize: all fields that Linux knows
	goodOldSize     = 128  // EXT4_GOOD_OLD_INODE_SIZE, behind which i_extra_isize counts
	xattrsAt        = goodOldSize + extraSize
)

// modeType returns the type bits for a kind of node.
func modeType(k rootfs.Kind) uint16 {
	switch k {
	case rootfs.Directory:
		return modeDirectory
	case rootfs.Regular:
		return modeRegular
	case rootfs.Symlink:
		return modeSymlink
	case rootfs.CharDevice:
		return modeChar
	case rootfs.BlockDevice:
		return modeBlock
	}
	return modeFIFO
}

// writeInodes writes the used part of the inode tables.
func (w *writer) writeInodes(ctx context.Context) error {
	for number := uint32(1); number <= w.last(); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		index := number - 1
		table := w.inodeTable(index / w.inodesPerGroup)
		b, err := w.sink.block(table + index%w.inodesPerGroup/inodesPerBlock)
		if err != nil {
			return err
		}
		for ; len(b) > 0; number++ {
			w.encodeInode(b[:inodeSize], number)
			b = b[inodeSize:]
		}
	}
	return nil
}

// encodeInode fills in an inode, which is zero. One that is not used stays so.
func (w *writer) encodeInode(b record, number uint32) {
	switch {
	case number == resizeInode:
		w.encodeResizeInode(b)
	case number == journalInode:
		b.u16(0x00, modeRegular|0o600)
		b.u16(0x1A, 1)
		w.encodeMapped(b, number, &w.fixed.journal, int64(journalBlocks(w.blocks))*BlockSize)
	case number == rootInode || number >= firstInode && number <= w.last():
		w.encodeNode(b, number)
	default:
		return
	}
	b.u16(goodOldSize, extraSize)
	sum := checksum(w.inodeChecksum(number), b)
	b.split32(checksumLowAt, checksumHighAt, sum)
}

// encodeNode fills in the inode of a node.
func (w *writer) encodeNode(b record, number uint32) {
	in := w.inode(number)
	n := in.node
	b.u16(0x00, modeType(n.Kind)|n.Mode&0o7777)
	b.split32(0x02, 0x78, n.UID)
	b.split32(0x18, 0x7A, n.GID)
	b.u16(0x1A, linkCount(n, in.links))
	encodeTimes(b, n)
	w.encodeXattrs(b, number, in)
	switch n.Kind {
	case rootfs.Regular:
		w.encodeMapped(b, number, in, n.Size)
	case rootfs.Directory:
		w.encodeMapped(b, number, in, w.directorySize(in))
		if in.indexed {
			b.u32(0x20, flagExtents|flagIndex)
		}
	case rootfs.Symlink:
		w.encodeSymlink(b, number, in)
	case rootfs.CharDevice, rootfs.BlockDevice:
		old, wide := EncodeDevice(n.Major, n.Minor)
		b.u32(blockMapAt, old)
		b.u32(blockMapAt+4, wide)
		w.encodeBlocks(b, in)
	case rootfs.FIFO:
		w.encodeBlocks(b, in)
	}
}

// linkCount returns i_links_count. A directory with more subdirectories than can be counted has 1 (dir_nlink;
// fs/ext4/namei.c, ext4_inc_count).
func linkCount(n *rootfs.Node, links uint32) uint16 {
	if n.Kind == rootfs.Directory && links > maxLinks {
		return 1
	}
	return uint16(links)
}

// encodeTimes fills in all four times with the one that a tree has: the change and the creation, too, so that nothing
// depends on when the file system is made.
func encodeTimes(b record, n *rootfs.Node) {
	seconds, extra := EncodeTime(n.MTime)
	for _, at := range [...][2]int{
		{0x08, 0x8C}, // i_atime
		{0x0C, 0x84}, // i_ctime
		{0x10, 0x88}, // i_mtime
		{0x90, 0x94}, // i_crtime
	} {
		b.u32(at[0], seconds)
		b.u32(at[1], extra)
	}
}

// encodeMapped fills in the size and the extents.
func (w *writer) encodeMapped(b record, number uint32, in *inode, size int64) {
	b.split64(0x04, 0x6C, uint64(size))
	b.u32(0x20, flagExtents)
	encodeExtents(b[blockMapAt:blockMapAt+blockMapSize], w.rootEntries(number, w.extentsOf(in)), extentsInInode)
	w.encodeBlocks(b, in)
}

// encodeBlocks fills in i_blocks, in sectors (huge_file gives it 48 bits).
func (w *writer) encodeBlocks(b record, in *inode) {
	sectors := uint64(in.blocks) * sectorsPerBlock
	b.u32(0x1C, uint32(sectors))
	b.u16(0x74, uint16(sectors>>32)) // l_i_blocks_high
}

// encodeSymlink puts a target below 60 bytes into i_block (fs/ext4/namei.c, ext4_symlink).
func (w *writer) encodeSymlink(b record, number uint32, in *inode) {
	target := in.node.Target
	if isFast(in.node) {
		b.u32(0x04, uint32(len(target)))
		copy(b[blockMapAt:], target)
		w.encodeBlocks(b, in)
		return
	}
	w.encodeMapped(b, number, in, int64(len(target)))
}

// isFast says whether a symlink's target fits into the inode, with the NUL behind it.
func isFast(n *rootfs.Node) bool { return n.Kind == rootfs.Symlink && len(n.Target) < blockMapSize }

// writeSymlinks writes the targets that are too long for their inodes.
func (w *writer) writeSymlinks(ctx context.Context) error {
	for i := range w.inodes {
		in := &w.inodes[i]
		if in.node.Kind != rootfs.Symlink || isFast(in.node) {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		m := w.newMapping()
		if err := m.extend(0, 1); err != nil {
			return err
		}
		b, err := w.sink.block(w.extents[m.first].physical)
		if err != nil {
			return err
		}
		copy(b, in.node.Target)
		if err := m.end(numberOf(i), in); err != nil {
			return err
		}
	}
	return nil
}

// writeFixed writes the blocks of the reserved inodes.
func (w *writer) writeFixed(context.Context) error {
	if err := w.writeResizeMap(); err != nil {
		return err
	}
	return w.writeJournalSuper()
}
