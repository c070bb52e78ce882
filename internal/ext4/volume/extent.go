package volume

import "fmt"

// Layout of the extent tree (fs/ext4/ext4_extents.h). The header and every entry have 12 bytes, whether they are
// extents or indexes of the next level.
const (
	extentMagic    = 0xF30A
	extentSize     = 12
	maxExtentDepth = 5       // EXT4_MAX_EXTENT_DEPTH
	maxInitialized = 1 << 15 // EXT_INIT_MAX_LEN: a longer ee_len means an unwritten extent
)

// readExtents reads the extent tree, whose root is in the inode.
func (m *mapReader) readExtents() error {
	root := m.in.iBlock()
	m.Depth = int(root.u16(6))
	if m.Depth > maxExtentDepth {
		return corrupt("the extent tree has %d levels", m.Depth)
	}
	return m.readNode(root, m.Depth, nil)
}

// readNode reads a node of the tree and what is below it. first is the logical block that the parent's index has, or
// nil for the root. What the kernel checks is checked (fs/ext4/extents.c: __ext4_ext_check,
// ext4_valid_extent_entries).
func (m *mapReader) readNode(node raw, depth int, first *uint32) error {
	entries := int(node.u16(2))
	if node.u16(0) != extentMagic || int(node.u16(6)) != depth {
		return corrupt("a node of the extent tree has no magic number or not the depth %d", depth)
	}
	if entries > int(node.u16(4)) || extentSize*(1+int(node.u16(4))) > len(node) {
		return corrupt("a node of the extent tree has %d entries of %d", entries, node.u16(4))
	}
	if entries == 0 && (first != nil || depth > 0) {
		return corrupt("a node of the extent tree has no entries")
	}
	for i := range entries {
		entry := node[extentSize*(1+i):][:extentSize]
		if i == 0 && first != nil && entry.u32(0) != *first {
			return corrupt("a node of the extent tree begins with block %d instead of %d", entry.u32(0), *first)
		}
		if err := m.readEntry(entry, depth); err != nil {
			return err
		}
	}
	return nil
}

// readEntry reads an extent, or an index and what is below it.
func (m *mapReader) readEntry(entry raw, depth int) error {
	if depth == 0 {
		return m.add(decodeExtent(entry))
	}
	logical, block := entry.u32(0), uint64(entry.u32(4))|uint64(entry.u16(8))<<32
	if uint64(logical) < m.next {
		return corrupt("an index of the extent tree for block %d is out of order", logical)
	}
	node, err := m.treeBlock(block)
	if err != nil {
		return err
	}
	if err := m.checkNode(block, node); err != nil {
		return err
	}
	return m.readNode(node, depth-1, &logical)
}

// decodeExtent takes the fields of struct ext4_extent.
func decodeExtent(b raw) Extent {
	e := Extent{
		Logical:  uint64(b.u32(0)),
		Length:   uint64(b.u16(4)),
		Physical: uint64(b.u16(6))<<32 | uint64(b.u32(8)),
	}
	if e.Length > maxInitialized {
		e.Length, e.Unwritten = e.Length-maxInitialized, true
	}
	return e
}

// checkNode verifies the checksum of a block of the tree, which is behind the room for eh_max entries
// (fs/ext4/extents.c: ext4_extent_block_csum).
func (m *mapReader) checkNode(number uint64, node raw) error {
	if !m.v.super.hasRO(roMetadataChecksum) {
		return nil
	}
	tail := extentSize * (1 + int(node.u16(4)))
	if tail+4 > len(node) {
		return corrupt("block %d of the extent tree has no room for its checksum", number)
	}
	if got := crc32c(m.v.inodeSeed(m.in.Number, m.in.Generation), node[:tail]); got != node.u32(tail) {
		return badChecksum(fmt.Sprintf("block %d of the extent tree", number), node.u32(tail), got)
	}
	return nil
}
