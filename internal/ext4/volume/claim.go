package volume

import (
	"cmp"
	"fmt"
	"slices"
)

// run is blocks that belong to an inode, or to the file system itself.
type run struct {
	start, count uint64
	owner        uint32 // inode, or one of the following
}

// Owners that are no inode.
const (
	ownSystem     = 0
	ownAttributes = 1<<32 - 1 // a block of attributes, which several inodes may share
)

// claims are the blocks that are in use, to find those that two things use.
type claims struct {
	runs []run
	meta map[uint64]uint32 // blocks of maps of blocks, and the inodes that they belong to
}

// add claims a run, which may be empty.
func (c *claims) add(start, count uint64, owner uint32) {
	if count > 0 {
		c.runs = append(c.runs, run{start, count, owner})
	}
}

// addMap claims the blocks of an inode. Blocks of the map itself are compared at once: if inodes shared them, an image
// could have any number of extents.
func (c *claims) addMap(in *Inode, m *BlockMap, sharing bool) error {
	for _, block := range m.Tree {
		if owner, taken := c.meta[block]; taken {
			return corrupt("block %d belongs to inode %d and to inode %d", block, owner, in.Number)
		}
		c.meta[block] = in.Number
		c.add(block, 1, in.Number)
	}
	for _, e := range m.Extents {
		if !sharing {
			c.add(e.Physical, e.Length, in.Number)
		}
	}
	return nil
}

// check finds blocks that are claimed twice.
func (c *claims) check() error {
	slices.SortFunc(c.runs, func(a, b run) int { return cmp.Compare(a.start, b.start) })
	for i := range c.runs[min(1, len(c.runs)):] {
		a, b := c.runs[i], c.runs[i+1]
		if a.start+a.count > b.start {
			return corrupt("block %d belongs to %s and to %s", b.start, ownerName(a.owner), ownerName(b.owner))
		}
	}
	return nil
}

func ownerName(inode uint32) string {
	switch inode {
	case ownSystem:
		return "the file system itself"
	case ownAttributes:
		return "the attributes of an inode"
	}
	return fmt.Sprintf("inode %d", inode)
}

// claimSystem claims what the file system has for itself: superblocks, descriptors, bitmaps, inode tables, the journal.
func (v *Volume) claimSystem(c *claims) error {
	for n := range v.groups {
		start, count := v.superblocksOf(uint64(n))
		c.add(start, count, ownSystem)
		for _, r := range v.groupRuns(&v.groups[n]) {
			c.add(r.start, r.count, ownSystem)
		}
	}
	if v.super.JournalInode == 0 || !v.super.hasCompat(compatHasJournal) {
		return nil
	}
	journal, err := v.usedInode(v.super.JournalInode)
	if err != nil {
		return fmt.Errorf("the journal: %w", err)
	}
	m, err := v.BlockMap(journal)
	if err != nil {
		return fmt.Errorf("the journal: %w", err)
	}
	return c.addMap(&journal, &m, false)
}

// superblocksOf returns the blocks with which a group begins: its copies of the superblock and of the descriptors, and
// those reserved for more descriptors (fs/ext4/balloc.c: ext4_num_base_meta_clusters).
func (v *Volume) superblocksOf(group uint64) (start, count uint64) {
	s := &v.super
	start = s.groupStart(group)
	perBlock := uint64(s.BlockSize) / uint64(s.DescriptorSize)
	backup := s.hasBackup(group)
	if backup {
		count++
	}
	meta := s.hasIncompat(incompatMetaBG)
	if meta && group/perBlock >= uint64(s.firstMetaBG) {
		if in := group % perBlock; in < 2 || in == perBlock-1 {
			count++
		}
		return start, count
	}
	if !backup {
		return start, 0
	}
	if meta {
		return start, count + uint64(s.firstMetaBG)
	}
	return start, count + (uint64(len(v.groups))+perBlock-1)/perBlock + uint64(s.reservedGDT)
}
