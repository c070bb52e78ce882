package ext4

import (
	"errors"
	"fmt"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

const (
	// blocksPerGroup is as many as a bitmap of one block has bits.
	blocksPerGroup = 8 * BlockSize
	// maxBlocks keeps block numbers within 32 bits.
	maxBlocks = 1<<32 - 1

	inodeSize      = 256
	inodesPerBlock = BlockSize / inodeSize
	// firstInode is the first that is not reserved, s_first_ino; it is that of lost+found.
	firstInode = 11

	descriptorSize      = 64 // of a group, with the feature 64bit
	descriptorsPerBlock = BlockSize / descriptorSize

	// maxFlex is how many groups have their bitmaps and inode tables together (flex_bg), as mke2fs chooses it.
	maxFlex = 16
	// growBlocks is how many blocks of group descriptors a file system can come to have before the kernel has to change
	// its layout (meta_bg): enough for 2 TiB.
	growBlocks = 256
	// leastReserved is how many blocks of descriptors are kept free at the least.
	leastReserved = 32
	// leastLastGroup is how many blocks a last group must have beyond its own metadata to be worth having.
	leastLastGroup = 50

	// inodeRatio is how many bytes of the disk there are for each inode; below smallDisk it is smallRatio. They are
	// those of mke2fs.conf(5).
	inodeRatio = 16384
	smallRatio = 4096
	smallDisk  = 512 << 20
)

// geometry says where everything is that does not depend on the content. Block and group numbers count from 0.
type geometry struct {
	blocks           uint32 // of the file system
	groups           uint32
	inodesPerGroup   uint32 // a multiple of inodesPerBlock
	descriptorBlocks uint32 // blocks of group descriptors, behind each superblock
	reservedBlocks   uint32 // and behind those, blocks for the descriptors of groups to come: s_reserved_gdt_blocks
	flex             uint32 // groups whose metadata is together; a power of 2
}

// newGeometry lays out a file system of so many blocks for inodes up to the number last, and spare ones.
func newGeometry(blocks int64, last uint32, spare int64) (geometry, error) {
	g := geometry{blocks: uint32(blocks)}
	for {
		if err := g.divide(int64(last) + spare); err != nil {
			return geometry{}, err
		}
		if g.lastGroupFits() {
			return g, nil
		}
		// A last group with no room for its own metadata is left out, as mke2fs does.
		g.blocks = g.groupStart(g.groups - 1)
	}
}

// divide computes the groups for g.blocks and at least so many inodes.
func (g *geometry) divide(inodes int64) error {
	g.groups = ceil(g.blocks, blocksPerGroup)
	if g.groups == 0 {
		return tooSmall(errors.New("the inode table does not fit"))
	}
	size := int64(g.blocks) * BlockSize
	ratio := int64(inodeRatio)
	if size < smallDisk {
		ratio = smallRatio
	}
	perGroup := (max(inodes, size/ratio) + int64(g.groups) - 1) / int64(g.groups)
	perGroup = (perGroup + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
	if perGroup > blocksPerGroup { // as many as a bitmap has bits
		return tooSmall(fmt.Errorf("it has room for %d inodes, and %d are needed", int64(g.groups)*blocksPerGroup, inodes))
	}
	g.inodesPerGroup = uint32(perGroup)
	g.descriptorBlocks = ceil(g.groups, descriptorsPerBlock)
	wanted := min(16*g.groups, growBlocks) // 1024 times as many groups, as mke2fs does
	g.reservedBlocks = max(leastReserved, wanted-min(wanted, g.descriptorBlocks))
	g.flex = maxFlex
	for g.flex > 1 && g.flex*(2+g.tableBlocks()) > blocksPerGroup/2 {
		g.flex /= 2
	}
	return nil
}

func tooSmall(err error) error {
	return fault.New(fault.NoSpace, fmt.Errorf("laying out the file system: %w", err), "pass a larger --size")
}

// lastGroupFits says whether the metadata that the last group has to hold fits into it.
func (g *geometry) lastGroupFits() bool {
	group := g.groups - 1
	need := g.superBlocks(group)
	if group%g.flex == 0 {
		need += 2 + g.tableBlocks()
	}
	length := g.groupEnd(group) - g.groupStart(group)
	return need == 0 || length >= need+leastLastGroup
}

// tableBlocks returns the blocks of a group's inode table.
func (g *geometry) tableBlocks() uint32 { return g.inodesPerGroup / inodesPerBlock }

func (g *geometry) inodeCount() uint32 { return g.groups * g.inodesPerGroup }

func (g *geometry) groupStart(group uint32) uint32 { return group * blocksPerGroup }

// groupEnd returns the block after the last one of the group.
func (g *geometry) groupEnd(group uint32) uint32 {
	return uint32(min(uint64(group+1)*blocksPerGroup, uint64(g.blocks)))
}

// hasSuper says whether a group begins with a superblock or a backup of it: groups 0 and 1 and the powers of 3, 5 and
// 7 do (sparse_super; fs/ext4/super.c, ext4_bg_has_super).
func hasSuper(group uint32) bool {
	if group <= 1 {
		return true
	}
	for _, base := range [...]uint64{3, 5, 7} {
		power := base
		for power < uint64(group) {
			power *= base
		}
		if power == uint64(group) {
			return true
		}
	}
	return false
}

// superBlocks returns the blocks that a group begins with: superblock, descriptors, and what is reserved for those.
func (g *geometry) superBlocks(group uint32) uint32 {
	if !hasSuper(group) {
		return 0
	}
	return 1 + g.descriptorBlocks + g.reservedBlocks
}

// The first group of each flex group has, behind its superblock, the block bitmaps of all its groups, then their inode
// bitmaps, then their inode tables.

// flexStart returns the first block of that, and of how many groups it is.
func (g *geometry) flexStart(group uint32) (first, groups uint32) {
	head := group - group%g.flex
	return g.groupStart(head) + g.superBlocks(head), min(g.flex, g.groups-head)
}

func (g *geometry) blockBitmap(group uint32) uint32 {
	first, _ := g.flexStart(group)
	return first + group%g.flex
}

func (g *geometry) inodeBitmap(group uint32) uint32 {
	first, groups := g.flexStart(group)
	return first + groups + group%g.flex
}

func (g *geometry) inodeTable(group uint32) uint32 {
	first, groups := g.flexStart(group)
	return first + 2*groups + group%g.flex*g.tableBlocks()
}

// region is the blocks from start to before end.
type region struct{ start, end uint32 }

// groupMetadata returns the blocks of a group of which the place is fixed; none if the region is empty. They are at its
// beginning, and never reach into the next group.
func (g *geometry) groupMetadata(group uint32) region {
	r := region{start: g.groupStart(group)}
	r.end = r.start + g.superBlocks(group)
	if group%g.flex == 0 {
		first, groups := g.flexStart(group)
		r.end = first + groups*(2+g.tableBlocks())
	}
	return r
}

// metadata returns the regions of all groups that have one, in order.
func (g *geometry) metadata() []region {
	var regions []region
	for group := range g.groups {
		if r := g.groupMetadata(group); r.start < r.end {
			regions = append(regions, r)
		}
	}
	return regions
}

// overhead returns how many blocks the metadata and the journal take.
func (g *geometry) overhead() int64 {
	total := int64(journalBlocks(g.blocks)) + 1 // and the map of the resize inode
	for _, r := range g.metadata() {
		total += int64(r.end - r.start)
	}
	return total
}

// SizeFor returns the size in bytes, in whole MiB, of the smallest file system that holds a tree of this usage and
// leaves spareBytes and spareInodes free, as every larger one does: where the journal grows with the disk, a slightly larger
// one has less room. It is an upper bound, as the usage is.
func SizeFor(usage rootfs.Usage, spareBytes, spareInodes int64) int64 {
	n := needs{
		blocks: usage.Blocks + lostFoundBlocks + (spareBytes+BlockSize-1)/BlockSize,
		inodes: usage.Inodes + firstInode, spareInodes: spareInodes,
	}
	size := n.smallest(MinSize)
	for _, step := range journalSteps() {
		if at := int64(step.from) * BlockSize; size < at && n.missing(at) > 0 {
			size = n.smallest(at)
		}
	}
	return size
}

// needs are what a file system has to have.
type needs struct{ blocks, inodes, spareInodes int64 }

// missing returns how many blocks more a file system of size bytes would need, if that is above 0.
func (n needs) missing(size int64) int64 {
	g, err := newGeometry(size/BlockSize, uint32(n.inodes), n.spareInodes)
	if err != nil {
		return 1
	}
	return n.blocks - (int64(g.blocks) - g.overhead())
}

// smallest returns the smallest size, of those from one on, that has what is needed.
func (n needs) smallest(from int64) int64 {
	const step = 1 << 20
	// Fewer groups than these do not have room for the inodes.
	fullGroups := (n.inodes + n.spareInodes - 1) / blocksPerGroup
	for size := max(from, fullGroups*blocksPerGroup*BlockSize); ; {
		missing := n.missing(size)
		if missing <= 0 || size/BlockSize >= maxBlocks {
			return size
		}
		size += max(step, missing/2*BlockSize/step*step)
	}
}

func ceil(n, unit uint32) uint32 { return uint32((uint64(n) + uint64(unit) - 1) / uint64(unit)) }
