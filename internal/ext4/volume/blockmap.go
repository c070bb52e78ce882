package volume

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// Extent is a run of Length blocks: the file's from Logical on are the file system's from Physical on.
type Extent struct {
	Logical   uint64
	Physical  uint64
	Length    uint64
	Unwritten bool // allocated, and reads as zeros
}

// BlockMap says where the blocks of an inode are.
type BlockMap struct {
	// Extents are in the order of the file and do not overlap. Those of an extent tree are as the tree has them; of
	// block pointers, neighbours are joined.
	Extents []Extent
	// Depth is the number of levels below the inode: of the extent tree, or of indirect blocks.
	Depth int
	Tree  []uint64 // the blocks of the map itself
}

// maxLogical is one more than the highest number of a file's block (EXT_MAX_BLOCKS and the number itself).
const maxLogical = 1 << 32

// BlockMap returns the map of an inode's blocks. An inode without blocks (a short symlink, inline data, a device) has
// no map, and what is returned for it has no meaning.
func (v *Volume) BlockMap(in Inode) (BlockMap, error) {
	m := mapReader{v: v, in: &in}
	read := m.readPointers
	if in.has(FlagExtents) {
		read = m.readExtents
	}
	if err := read(); err != nil {
		return BlockMap{}, fmt.Errorf("reading the block map of inode %d: %w", in.Number, err)
	}
	return m.BlockMap, nil
}

// mapReader collects a BlockMap.
type mapReader struct {
	BlockMap
	v    *Volume
	in   *Inode
	next uint64          // the first logical block that the next extent may have
	seen map[uint64]bool // blocks of the map: each may be there only once
}

// treeBlock reads a block of the map itself.
func (m *mapReader) treeBlock(number uint64) (raw, error) {
	if m.seen[number] {
		return nil, corrupt("block %d is twice in the map", number)
	}
	data, err := m.v.readBlock(number)
	if err != nil {
		return nil, err
	}
	if m.seen == nil {
		m.seen = map[uint64]bool{}
	}
	m.seen[number] = true
	m.Tree = append(m.Tree, number)
	return data, nil
}

// add appends an extent, which has to lie behind the ones before it.
func (m *mapReader) add(e Extent) error {
	if e.Logical < m.next || e.Length == 0 || e.Logical+e.Length > maxLogical {
		return corrupt("%d blocks at block %d of the file, out of order", e.Length, e.Logical)
	}
	if !m.v.validRun(e.Physical, e.Length) {
		return corrupt("%d blocks at block %d, outside the file system", e.Length, e.Physical)
	}
	m.next = e.Logical + e.Length
	m.Extents = append(m.Extents, e)
	return nil
}

// find returns the block that has a block of the file. There is none in a hole.
func (m *BlockMap) find(logical uint64) (physical uint64, found bool) {
	i := sort.Search(len(m.Extents), func(i int) bool { return m.Extents[i].Logical+m.Extents[i].Length > logical })
	if i == len(m.Extents) || m.Extents[i].Logical > logical || m.Extents[i].Unwritten {
		return 0, false
	}
	return m.Extents[i].Physical + logical - m.Extents[i].Logical, true
}

// checkDistinct checks that no block is in the map twice. A file whose extents are all the same few blocks would be any
// number of times as large as its image.
func (m *BlockMap) checkDistinct() error {
	runs := slices.Clone(m.Extents)
	slices.SortFunc(runs, func(a, b Extent) int { return cmp.Compare(a.Physical, b.Physical) })
	for i := range runs[min(1, len(runs)):] {
		if runs[i].Physical+runs[i].Length > runs[i+1].Physical {
			return corrupt("block %d is twice in the file", runs[i+1].Physical)
		}
	}
	return nil
}
