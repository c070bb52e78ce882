package volume

import (
	"fmt"
	"slices"
)

// InodeBitmap returns a group's bitmap of inodes in use, verified: a bit for each inode of the group, the lowest first.
// If the group has no inode in use that was never written, it is all zeros.
func (v *Volume) InodeBitmap(group uint32) ([]byte, error) {
	g := &v.groups[group]
	size := int(v.super.InodesPerGroup / 8)
	if g.Flags&InodesUninitialized != 0 {
		return make([]byte, size), nil
	}
	return v.bitmap("inodes", group, g.InodeBitmap, size, g.inodeChecksum)
}

// BlockBitmap returns a group's bitmap of blocks in use, verified: a bit for each block of a full group, the lowest
// first. If it was never written, it has what the file system keeps in the group for itself (fs/ext4/balloc.c:
// ext4_init_block_bitmap).
func (v *Volume) BlockBitmap(group uint32) ([]byte, error) {
	g := &v.groups[group]
	size := int(v.super.BlocksPerGroup / 8)
	if g.Flags&BlocksUninitialized == 0 {
		return v.bitmap("blocks", group, g.BlockBitmap, size, g.blockChecksum)
	}
	bitmap := make([]byte, size)
	start, count := v.superblocksOf(uint64(group))
	first, blocks := v.super.groupStart(uint64(group)), v.super.groupBlocks(uint64(group))
	for _, r := range append(v.groupRuns(g), run{start: start, count: count}) {
		for block := max(r.start, first); block < min(r.start+r.count, first+blocks); block++ {
			bitmap[(block-first)/8] |= 1 << ((block - first) % 8)
		}
	}
	for bit := blocks; bit < uint64(v.super.BlocksPerGroup); bit++ {
		bitmap[bit/8] |= 1 << (bit % 8)
	}
	return bitmap, nil
}

// bitmap reads a bitmap of size bytes and verifies its checksum, of which descriptors of 32 bytes have only the lower
// half (fs/ext4/bitmap.c).
func (v *Volume) bitmap(what string, group uint32, block uint64, size int, want uint32) ([]byte, error) {
	data, err := v.readBlock(block)
	if err != nil {
		return nil, fmt.Errorf("reading the bitmap of %s of group %d: %w", what, group, err)
	}
	if !v.super.hasRO(roMetadataChecksum) {
		return slices.Clone(data[:size]), nil
	}
	got := crc32c(v.seed, data[:size])
	if v.super.DescriptorSize < 64 {
		got &= 0xFFFF
	}
	if got != want {
		return nil, badChecksum(fmt.Sprintf("the bitmap of %s of group %d", what, group), want, got)
	}
	return slices.Clone(data[:size]), nil
}
