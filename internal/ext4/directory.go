package ext4

import (
	"context"
	"encoding/binary"

	"github.com/banger-vm/banger/internal/rootfs"
)

// A directory is a list of entries in blocks. Those that fit into one block are in the order of their names; longer ones
// have an index by the hashes of the names (htree.go). The facts are from Documentation/filesystems/ext4/directory.rst.
const (
	entryHeader = 8  // of an entry, before the name
	tailSize    = 12 // struct ext4_dir_entry_tail, with the block's checksum
	tailName    = 0xDE00
	dotsSize    = 2 * 12
	usable      = BlockSize - tailSize // bytes for entries in a block

	// lostFoundBlocks is the length of lost+found, as mke2fs makes it, so that e2fsck need not look for blocks.
	lostFoundBlocks = 4
)

// entrySize is the length of an entry in a block.
func entrySize(name string) int { return align4(entryHeader + len(name)) }

// fileType returns the type that an entry tells of its inode (feature filetype; fs/ext4/ext4.h, EXT4_FT_*).
func fileType(k rootfs.Kind) byte {
	switch k {
	case rootfs.Regular:
		return 1
	case rootfs.Directory:
		return 2
	case rootfs.CharDevice:
		return 3
	case rootfs.BlockDevice:
		return 4
	case rootfs.FIFO:
		return 5
	case rootfs.Symlink:
		return 7
	}
	return 0
}

// writeDirectories writes all directories.
func (w *writer) writeDirectories(ctx context.Context) error {
	for i := range w.dirs {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		d := &directoryData{mapping: w.newMapping(), directory: &w.dirs[i]}
		if err := d.write(); err != nil {
			return err
		}
		if err := d.end(d.number, w.inode(d.number)); err != nil {
			return err
		}
	}
	return nil
}

// directoryData is a directory on its way. Its blocks are written in their order.
type directoryData struct {
	*mapping
	*directory
	next uint32 // logical number of the next block
}

func (d *directoryData) write() error {
	total := dotsSize
	for _, e := range d.entries {
		total += entrySize(e.name)
	}
	if total > usable {
		return d.writeIndexed()
	}
	if err := d.writeLinear(); err != nil || d.number != firstInode {
		return err
	}
	for d.next < lostFoundBlocks {
		b, err := d.block()
		if err != nil {
			return err
		}
		b.u16(4, usable) // one entry for inode 0: free
		d.seal(b)
	}
	return nil
}

// block takes the next block of the directory.
func (d *directoryData) block() (record, error) {
	if err := d.extend(d.next, 1); err != nil {
		return nil, err
	}
	d.next++
	return d.w.sink.block(d.w.space.next - 1)
}

// writeLinear writes a directory of one block.
func (d *directoryData) writeLinear() error {
	b, err := d.block()
	if err != nil {
		return err
	}
	all := append([]entry{{".", d.number}, {"..", d.parent}}, d.entries...)
	d.fill(b, all)
	return nil
}

// fill puts entries, which fit, into a block. The last one takes what is left of it.
func (d *directoryData) fill(b record, entries []entry) {
	at := 0
	for i, e := range entries {
		size := entrySize(e.name)
		if i == len(entries)-1 {
			size = usable - at
		}
		d.put(b[at:], e, size)
		at += size
	}
	d.seal(b)
}

// put writes one entry: struct ext4_dir_entry_2.
func (d *directoryData) put(b record, e entry, size int) {
	b.u32(0, e.number)
	b.u16(4, uint16(size))
	b[6] = byte(len(e.name))
	b[7] = fileType(d.w.inode(e.number).node.Kind)
	copy(b[entryHeader:], e.name)
}

// seal writes the tail of a block of entries: an entry that looks free, with the checksum.
func (d *directoryData) seal(b record) {
	b.u16(usable+4, tailSize)
	b.u16(usable+6, tailName)
	b.u32(usable+8, checksum(d.w.inodeChecksum(d.number), b[:usable]))
}

// directorySize returns i_size of a directory: all of its blocks.
func (w *writer) directorySize(in *inode) int64 {
	var blocks int64
	for _, e := range w.extentsOf(in) {
		blocks += int64(e.length)
	}
	return blocks * BlockSize
}

// sealIndex writes the checksum of a block of the index behind its last possible entry: over what is in use, and over
// the tail with a checksum of 0 (fs/ext4/namei.c, ext4_dx_csum).
func (d *directoryData) sealIndex(b record, used int) {
	const tail = BlockSize - 8
	sum := checksum(d.w.inodeChecksum(d.number), b[:used])
	binary.LittleEndian.PutUint32(b[tail+4:], checksum(sum, make([]byte, 8)))
}
