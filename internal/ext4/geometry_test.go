package ext4

import (
	"fmt"
	"slices"
	"testing"

	"github.com/banger-vm/banger/internal/rootfs"
)

// Every size gives a file system that e2fsck finds nothing wrong with: around the ends of groups and of flex groups, with
// last groups that are too short for what they have to hold, with and without a backup of the superblock in them.
func TestSizes(t *testing.T) {
	const mib, group = int64(1) << 20, int64(blocksPerGroup) * BlockSize
	sizes := []int64{MinSize, MinSize + BlockSize, 100 * mib, 511 * mib, 512 * mib, 513 * mib, 3 << 30, 1 << 40, 5<<40 + 12345}
	for _, groups := range []int64{1, 2, 3, 4, 9, 15, 16, 17, 25, 27, 32, 49, 64} {
		for _, more := range []int64{-BlockSize, 0, BlockSize, 49 * BlockSize, 60 * BlockSize, 400 * BlockSize, 1000 * BlockSize, 20 * mib} {
			sizes = append(sizes, groups*group+more)
		}
	}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			image, summary := written(t, &rootfs.Tree{Root: newDirectory()}, Options{Size: size})
			if lost := size/BlockSize - summary.Blocks; lost < 0 || lost > 1100 {
				t.Errorf("%d of %d blocks are left out", lost, size/BlockSize)
			}
			mustBeClean(t, image)
		})
	}
}

// Any number of inodes that a size has room for can be had.
func TestSpareInodes(t *testing.T) {
	for _, spare := range []int64{0, 1, 4096, 16_000, 30_000, 32_757, 60_000} {
		t.Run(fmt.Sprint(spare), func(t *testing.T) {
			t.Parallel()
			image, summary := written(t, &rootfs.Tree{Root: newDirectory()}, Options{Size: 256 << 20, SpareInodes: spare})
			if summary.FreeInodes < spare {
				t.Errorf("%d inodes are free, of %d that were asked for", summary.FreeInodes, spare)
			}
			mustBeClean(t, image)
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"too small":       {Size: MinSize - 1},
		"too large":       {Size: 1 << 44},
		"too many inodes": {Size: MinSize, SpareInodes: 40_000},
		"long label":      {Size: MinSize, Label: "seventeen letters"},
	} {
		out := emptyFile(t)
		if _, err := Write(t.Context(), &rootfs.Tree{Root: newDirectory()}, out, o); err == nil {
			t.Errorf("%s: there is no error", name)
		}
	}
}

// hasSuper is asked about the groups that the kernel's documentation lists.
func TestHasSuper(t *testing.T) {
	var got []uint32
	for group := range uint32(400) {
		if hasSuper(group) {
			got = append(got, group)
		}
	}
	if want := []uint32{0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestLargerIsEnough: what holds a tree holds it with any more space, too, although the journal and the groups take some.
func TestLargerIsEnough(t *testing.T) {
	const spare = 16 << 20
	for blocks := int64(1000); blocks < 1<<20; blocks += 64 {
		least := SizeFor(rootfs.Usage{Inodes: 1000, Blocks: blocks}, spare, 1024)
		for _, more := range []int64{0, 1, 2, 4, 8, 15, 31, 33, 64} {
			size := least + more<<20
			g, err := newGeometry(size/BlockSize, 1000+firstInode, 1024+more<<20/16384)
			if err != nil {
				t.Fatalf("%d blocks on a disk of %d MiB: %v", blocks, size>>20, err)
			}
			if room := int64(g.blocks) - g.overhead(); room < blocks+lostFoundBlocks {
				t.Errorf("%d blocks need a disk of %d MiB, and one of %d MiB has room for %d", blocks, least>>20, size>>20, room)
			}
		}
	}
}
