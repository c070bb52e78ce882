package ext4

import "context"

// The blocks of a file are listed by extents: up to four in the inode, or else a tree of blocks with 340 each, whose root
// is in the inode (fs/ext4/ext4_extents.h; Documentation/filesystems/ext4/ifork.rst, "Extent Tree").
const (
	extentMagic     = 0xF30A
	extentSize      = 12
	extentsInInode  = 4
	extentsPerBlock = (BlockSize - extentSize) / extentSize // leaves 4 bytes for the checksum
	// maxExtent is the longest extent of blocks that are initialized (EXT_INIT_MAX_LEN).
	maxExtent = 1 << 15
)

// extent maps blocks of a file to blocks of the file system.
type extent struct {
	logical, physical uint32
	length            uint32
}

// mapping collects the extents of one inode, in ascending order, and takes the blocks for them.
type mapping struct {
	w      *writer
	first  int // in w.extents
	blocks uint32
}

func (w *writer) newMapping() *mapping { return &mapping{w: w, first: len(w.extents)} }

// add maps n blocks that were taken at physical.
func (m *mapping) add(logical, physical, n uint32) {
	m.blocks += n
	for n > 0 {
		if last := len(m.w.extents) - 1; last >= m.first {
			e := &m.w.extents[last]
			grow := min(n, maxExtent-e.length)
			if grow > 0 && e.logical+e.length == logical && e.physical+e.length == physical {
				e.length += grow
				logical, physical, n = logical+grow, physical+grow, n-grow
				continue
			}
		}
		length := min(n, maxExtent)
		m.w.extents = append(m.w.extents, extent{logical, physical, length})
		logical, physical, n = logical+length, physical+length, n-length
	}
}

// extend takes n blocks and maps them from logical on.
func (m *mapping) extend(logical, n uint32) error {
	for n > 0 {
		start, length, err := m.w.space.free()
		if err != nil {
			return err
		}
		length = min(length, n)
		m.w.space.take(length)
		m.add(logical, start, length)
		logical, n = logical+length, n-length
	}
	return nil
}

// end gives the inode its extents, and takes the blocks of the tree that they need.
func (m *mapping) end(number uint32, in *inode) error {
	in.first, in.count = uint32(m.first), uint32(len(m.w.extents)-m.first)
	in.blocks = m.blocks
	for range treeBlocks(in.count) {
		block, _, err := m.w.space.free()
		if err != nil {
			return err
		}
		m.w.space.take(1)
		m.w.trees[number] = append(m.w.trees[number], block)
		in.blocks++
	}
	return nil
}

// treeBlocks returns how many blocks a tree of so many extents has outside the inode.
func treeBlocks(extents uint32) uint32 {
	var total uint32
	for n := extents; n > extentsInInode; {
		n = ceil(n, extentsPerBlock)
		total += n
	}
	return total
}

func (w *writer) extentsOf(in *inode) []extent { return w.extents[in.first : in.first+in.count] }

// treeEntry is an entry of the tree: an extent, or the block in which others are.
type treeEntry struct {
	extent
	depth uint16 // 0 for an extent
}

// writeExtentTrees writes the blocks of all extent trees.
func (w *writer) writeExtentTrees(ctx context.Context) error {
	for i := range w.inodes {
		number := numberOf(i)
		if len(w.trees[number]) == 0 {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.writeExtentTree(number, w.extentsOf(&w.inodes[i])); err != nil {
			return err
		}
	}
	return nil
}

// writeExtentTree writes the blocks of one tree.
func (w *writer) writeExtentTree(number uint32, extents []extent) error {
	_, err := w.climb(number, extents, func(block uint32, entries []treeEntry) error {
		return w.writeExtentBlock(number, block, entries)
	})
	return err
}

// rootEntries returns the entries that the inode itself has.
func (w *writer) rootEntries(number uint32, extents []extent) []treeEntry {
	root, _ := w.climb(number, extents, func(uint32, []treeEntry) error { return nil })
	return root
}

// climb goes through the levels of a tree from the extents up, calls fn for each block with the entries in it, and
// returns those of the highest level, which fit into the inode.
func (w *writer) climb(number uint32, extents []extent, fn func(uint32, []treeEntry) error) ([]treeEntry, error) {
	level, blocks := leafEntries(extents), w.trees[number]
	for len(level) > extentsInInode {
		var above []treeEntry
		for len(level) > 0 {
			n := min(extentsPerBlock, len(level))
			if err := fn(blocks[0], level[:n]); err != nil {
				return nil, err
			}
			above = append(above, parentOf(level[0], blocks[0]))
			level, blocks = level[n:], blocks[1:]
		}
		level = above
	}
	return level, nil
}

func leafEntries(extents []extent) []treeEntry {
	entries := make([]treeEntry, len(extents))
	for i, e := range extents {
		entries[i].extent = e
	}
	return entries
}

// parentOf returns the entry for a block whose first entry is given.
func parentOf(first treeEntry, block uint32) treeEntry {
	return treeEntry{extent{logical: first.logical, physical: block}, first.depth + 1}
}

func (w *writer) writeExtentBlock(number, block uint32, entries []treeEntry) error {
	b, err := w.sink.block(block)
	if err != nil {
		return err
	}
	encodeExtents(b, entries, extentsPerBlock)
	const tail = extentSize + extentsPerBlock*extentSize
	b.u32(tail, checksum(w.inodeChecksum(number), b[:tail])) // et_checksum
	return nil
}

// encodeExtents writes a node of the tree: struct ext4_extent_header and, behind it, ext4_extent or ext4_extent_idx.
func encodeExtents(b record, entries []treeEntry, limit uint16) {
	b.u16(0, extentMagic)
	b.u16(2, uint16(len(entries)))
	b.u16(4, limit)
	if len(entries) > 0 {
		b.u16(6, entries[0].depth)
	}
	for i, e := range entries {
		at := extentSize * (1 + i)
		b.u32(at, e.logical) // ee_block, ei_block
		if e.depth == 0 {
			b.u16(at+4, uint16(e.length)) // ee_len
			b.u32(at+8, e.physical)       // ee_start_lo
		} else {
			b.u32(at+4, e.physical) // ei_leaf_lo
		}
	}
}
