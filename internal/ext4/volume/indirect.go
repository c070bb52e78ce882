package volume

// Block pointers in i_block: 12 direct ones, then one each of 1, 2 and 3 levels of indirect blocks
// (Documentation/filesystems/ext4, "Direct/Indirect Block Addressing").
const (
	directPointers = 12
	maxIndirection = 3
)

// readPointers reads the block map of ext2 and ext3.
func (m *mapReader) readPointers() error {
	root := m.in.iBlock()
	next := uint64(0)
	for i := range directPointers {
		if err := m.pointer(root.u32(4*i), next, 0); err != nil {
			return err
		}
		next++
	}
	covered := uint64(1)
	for level := 1; level <= maxIndirection; level++ {
		covered *= uint64(m.v.super.BlockSize / 4)
		if err := m.pointer(root.u32(4*(directPointers+level-1)), next, level); err != nil {
			return err
		}
		next += covered
	}
	return nil
}

// pointer follows a pointer to a block of the file, or to an indirect block of a level.
func (m *mapReader) pointer(block uint32, logical uint64, level int) error {
	switch {
	case block == 0:
		return nil
	case level == 0:
		return m.addBlock(logical, uint64(block))
	}
	data, err := m.treeBlock(uint64(block))
	if err != nil {
		return err
	}
	m.Depth = max(m.Depth, level)
	covered := uint64(1)
	for range level - 1 {
		covered *= uint64(len(data) / 4)
	}
	for i := range len(data) / 4 {
		if err := m.pointer(data.u32(4*i), logical+uint64(i)*covered, level-1); err != nil {
			return err
		}
	}
	return nil
}

// addBlock appends one block, and joins it to the extent before it where both go on.
func (m *mapReader) addBlock(logical, physical uint64) error {
	if last := len(m.Extents) - 1; last >= 0 && m.next == logical && m.v.validRun(physical, 1) {
		if e := &m.Extents[last]; e.Physical+e.Length == physical && logical < maxLogical {
			e.Length++
			m.next++
			return nil
		}
	}
	return m.add(Extent{Logical: logical, Physical: physical, Length: 1})
}
