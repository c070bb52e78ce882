// Package volume reads ext4 file systems, and the ext2 and ext3 that came before, without mounting them.
//
// Open checks the superblock and the group descriptors. Tree gives the whole file system as a rootfs.Tree whose files
// are read from the image; Lookup, Inode and their like give single things as they are on the disk.
//
// The reader is strict. Every checksum of what it reads is verified, where the file system has checksums; so are the
// link counts, the order of the extents, the index of every directory against the hashes of its names, and that no
// block belongs to two things. What does not hold is a fault.Corrupt that names the inode or the block. An image may
// come from anywhere: the reader neither loops nor panics on any bytes, and what it allocates is in proportion to the
// metadata that the image really has.
//
// Read are extents and block maps, linear and indexed directories, attributes in the inode, in a block and in inodes of
// their own, inline data, meta_bg, sparse_super2, metadata_csum with and without a seed of its own, and uninit_bg.
// Refused, as a fault.Unsupported that names the feature, are compression, encryption, casefolding, bigalloc,
// snapshots, dirdata, and incompatible features that are not known. A file system whose journal has not been replayed
// is a fault.Conflict.
//
// The sources of the format are the Linux kernel's fs/ext4 and Documentation/filesystems/ext4; names such as i_size
// and s_magic are the kernel's.
package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/banger-vm/banger/internal/fault"
)

// Volume is an ext4 file system in an image. It is not safe for use by several goroutines.
type Volume struct {
	image  io.ReaderAt
	super  Superblock
	seed   uint32 // of the metadata checksums
	groups []Group
	cache  [cacheSlots]cachedBlock
}

// Open reads the file system in the first size bytes of an image: its superblock and its group descriptors. The image
// has to stay readable and unchanged as long as the Volume, and a Tree of it, are in use; it is never closed.
func Open(image io.ReaderAt, size int64) (*Volume, error) {
	v := &Volume{image: image}
	if err := v.readSuperblock(size); err != nil {
		return nil, fmt.Errorf("reading the superblock: %w", err)
	}
	if err := v.readGroups(); err != nil {
		return nil, fmt.Errorf("reading the group descriptors: %w", err)
	}
	return v, nil
}

// cacheSlots is how many blocks are kept, by the low bits of their number: for inodes, which share blocks.
const cacheSlots = 64

// cachedBlock is a block that was read. Its bytes are never written again.
type cachedBlock struct {
	number uint64
	data   raw
}

// readBlock returns a block of metadata. The bytes are not to be changed.
func (v *Volume) readBlock(number uint64) (raw, error) {
	if !v.validRun(number, 1) {
		return nil, corrupt("block %d is outside the file system", number)
	}
	slot := &v.cache[number%cacheSlots]
	if slot.data != nil && slot.number == number {
		return slot.data, nil
	}
	data := make(raw, v.super.BlockSize)
	if err := v.readAt(data, int64(number)*v.super.BlockSize); err != nil {
		return nil, fmt.Errorf("reading block %d: %w", number, err)
	}
	*slot = cachedBlock{number, data}
	return data, nil
}

// readAt fills p from an offset of the image.
func (v *Volume) readAt(p []byte, offset int64) error {
	n, err := v.image.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt("the image ends at %d, inside the file system", offset+int64(n))
	}
	return err
}

// validRun says whether count blocks from first are blocks that files or metadata can have: inside the file system and
// behind the superblock.
func (v *Volume) validRun(first, count uint64) bool {
	blocks := uint64(v.super.Blocks)
	return first > uint64(v.super.firstDataBlock()) && first < blocks && count <= blocks-first
}

// raw is bytes of the disk. Offsets are always inside: what is raw has a length that was checked.
type raw []byte

func (b raw) u16(offset int) uint16 { return binary.LittleEndian.Uint16(b[offset:]) }
func (b raw) u32(offset int) uint32 { return binary.LittleEndian.Uint32(b[offset:]) }

// corrupt returns the fault for an image that breaks the format.
func corrupt(format string, args ...any) error {
	return fault.New(fault.Corrupt, fmt.Errorf(format, args...), "e2fsck -fn lists all that is wrong with a file system")
}
