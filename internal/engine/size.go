package engine

import (
	"fmt"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/store"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30

	blockSize = 4096
	// guestRoom is what the agent and its files take, with room for a later, larger agent.
	guestRoom = 16 * mib
	// smallLimit is the size below which mke2fs makes an inode per smallRatio bytes instead of one per inodeRatio
	// (mke2fs.conf(5), the "small" type).
	smallLimit = 512 * mib
	smallRatio = 4096
	inodeRatio = 16384
	// spareInodes are left free for the guest even on the smallest disk.
	spareInodes = 1024
)

// chooseSize returns the size of the disk, in bytes, for a tree: the size asked for, if the tree fits, and otherwise
// what the tree needs with headroom for the guest to work in. The file is sparse, so headroom costs nothing.
func chooseSize(requested int64, usage rootfs.Usage) (int64, error) {
	need := neededSize(usage)
	if requested == 0 {
		return roundUp(need+max(gib, need), 64*mib), nil
	}
	if requested < need {
		err := fmt.Errorf("sizing the disk: %s is too small for this image, which needs at least %s",
			units.BytesSize(float64(requested)), units.BytesSize(float64(need)))
		return 0, fault.New(fault.NoSpace, err, fmt.Sprintf("pass --size %dMiB or more, or leave --size out", need/mib))
	}
	return requested / blockSize * blockSize, nil
}

// neededSize returns the smallest size, in whole MiB, whose file system holds the tree and the guest.
func neededSize(usage rootfs.Usage) int64 {
	content := usage.Blocks*blockSize + guestRoom
	inodes := usage.Inodes + spareInodes
	size := int64(imagepull.MinExt4Size)
	for capacity(size) < content || inodeCount(size) < inodes {
		size += max(mib, roundUp((content-capacity(size))/2, mib))
	}
	return size
}

// capacity returns how many bytes of blocks a file system of this size leaves for files: what remains after the
// journal, the inode tables, the reserved descriptor blocks and the bitmaps of mke2fs.
func capacity(size int64) int64 {
	tables := inodeCount(size) * 256
	return size - size/50 - tables - journalSize(size) - 2*mib
}

func inodeCount(size int64) int64 {
	if size < smallLimit {
		return size / smallRatio
	}
	return size / inodeRatio
}

// journalSize returns the size of the journal that mke2fs makes (ext2fs_default_journal_size in e2fsprogs).
func journalSize(size int64) int64 {
	blocks := size / blockSize
	switch {
	case size < smallLimit: // 1 KiB blocks
		return 16 * mib
	case blocks < 256*1024:
		return 4096 * blockSize
	case blocks < 512*1024:
		return 8192 * blockSize
	case blocks < 4096*1024:
		return 16384 * blockSize
	case blocks < 8192*1024:
		return 32768 * blockSize
	case blocks < 16384*1024:
		return 65536 * blockSize
	case blocks < 32768*1024:
		return 131072 * blockSize
	}
	return 262144 * blockSize
}

// diskSize returns the size of a VM's disk, in bytes and whole blocks, for the size asked for; 0 stands for the image's
// own. A smaller one is a fault.Usage.
func diskSize(requested int64, image store.Image) (int64, error) {
	size := requested / blockSize * blockSize
	switch {
	case requested == 0 || size == image.Size:
		return 0, nil
	case size < image.Size:
		err := fmt.Errorf("sizing the disk: %s is less than the image's disk of %s",
			units.BytesSize(float64(requested)), units.BytesSize(float64(image.Size)))
		hint := fmt.Sprintf("a disk cannot shrink: pass --disk %dMiB or more, or leave --disk out",
			roundUp(image.Size, mib)/mib)
		return 0, fault.New(fault.Usage, err, hint)
	}
	return size, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
