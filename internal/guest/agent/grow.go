package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64) (fs/ext4/ext4.h). Its argument is the number of blocks that the
// file system shall have; the kernel leaves a last group out that has no room for its own tables (ext4_resize_fs of
// fs/ext4/resize.c).
const resizeFS = 0x40086610

// grow makes the ext4 file system that is mounted at dir fill its device.
func grow(device, dir string) error {
	disk, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("growing the root file system: %w", err)
	}
	defer func() { _ = disk.Close() }()
	size, err := disk.Seek(0, io.SeekEnd) // the size of a block device (blkdev_llseek of block/fops.c)
	if err == nil {
		err = growTo(disk, dir, size)
	}
	if err != nil {
		return fmt.Errorf("growing the root file system to %d bytes: %w", size, err)
	}
	return nil
}

func growTo(disk io.ReaderAt, dir string, size int64) error {
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &fs); err != nil {
		return err
	}
	blocks := uint64(size / fs.Bsize)
	_, _, failed := unix.Syscall(unix.SYS_IOCTL, root.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks)))
	if failed != 0 {
		return failed
	}
	return checkGrown(disk, blocks, uint64(fs.Bsize))
}

// checkGrown reads from the superblock how many blocks the file system has got: the kernel reports no error when it
// gives up because the tables of further groups do not fit. It has changed the superblock in the device's page cache
// (s_sbh of fs/ext4/ext4.h), where a read of the device finds it. What statfs counts is less (ext4_statfs of
// fs/ext4/super.c).
func checkGrown(disk io.ReaderAt, want, blockSize uint64) error {
	raw := make([]byte, 1024)
	if _, err := disk.ReadAt(raw, 1024); err != nil {
		return fmt.Errorf("reading the superblock: %w", err)
	}
	// The offsets of struct ext4_super_block (fs/ext4/ext4.h). A bitmap, of one block, is as large as a group can be.
	const low, high, features, wide = 0x04, 0x150, 0x60, 0x80 // s_blocks_count_lo and _hi, INCOMPAT_64BIT
	got := uint64(binary.LittleEndian.Uint32(raw[low:]))
	if binary.LittleEndian.Uint32(raw[features:])&wide != 0 {
		got |= uint64(binary.LittleEndian.Uint32(raw[high:])) << 32
	}
	if group := 8 * blockSize; got+group < want {
		return fmt.Errorf("the kernel stopped at %d of %d blocks", got, want)
	}
	return nil
}
