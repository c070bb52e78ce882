// Package ext4 writes a complete ext4 file system from a tree: journalled, checksummed, growable, and with the same bytes
// for the same tree and options, whoever runs it and whenever. Nothing is staged and no other program runs.
//
// Write is the package's one verb, and its steps are those of the format:
//
//	(1) number     every node gets an inode number, every directory its list of entries (number.go)
//	(2) geometry   the size and the inodes give the block groups and where their metadata is (geometry.go)
//	(3) journal    blocks for the journal and for the map of the resize inode (journal.go, resize.go)
//	(4) data       the files' contents, in the order of their inodes; blocks of zeros become holes (data.go)
//	(5) identity   UUID, hash seed and checksum seed, from all that is known by then (identity.go)
//	(6) names      directories, long symlinks and blocks of extended attributes (directory.go, htree.go, xattr.go)
//	(7) inodes     extent trees and inode tables (extent.go, inode.go)
//	(8) groups     bitmaps, group descriptors and superblocks with their backups (group.go, superblock.go)
//
// Every byte is written once, and what is zero is not written at all: the file is as sparse as the file system is empty.
// Not written are features that a root disk has no use for: quotas, encryption, inline data, bigalloc, attributes with an
// inode of their own. docs/ext4.md lists the fields.
package ext4

import (
	"context"
	"fmt"
	"os"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

// BlockSize is the size in bytes of the blocks of every file system that this package makes.
const BlockSize = 4096

// MinSize is the size in bytes of the smallest file system that Write makes.
const MinSize = 64 << 20

// Options are what a file system depends on besides its tree.
type Options struct {
	Size  int64  // bytes of the file system, rounded down to whole blocks; at least MinSize
	Label string // volume name, up to 16 bytes
	// SpareInodes is how many inodes have to be free. There are more where the size has room for them: one for every 16
	// KiB, and below 512 MiB one for every 4 KiB.
	SpareInodes int64
}

// Summary describes a file system that was written.
type Summary struct {
	UUID       [16]byte
	Blocks     int64 // of BlockSize bytes
	FreeBlocks int64
	Inodes     int64
	FreeInodes int64
}

// Write writes the file system into out, which becomes a sparse file of Options.Size bytes, whatever was in it before. It returns
// without having synced out. The tree is only read. A tree that does not fit is a fault.NoSpace, one that ext4 cannot
// have (too many names of a file, too large attributes) a fault.Unsupported that names the path. After an error, the end
// of ctx included, the content of out is not to be used.
func Write(ctx context.Context, tree *rootfs.Tree, out *os.File, o Options) (Summary, error) {
	if err := o.check(); err != nil {
		return Summary{}, err
	}
	table, err := number(tree)
	if err != nil {
		return Summary{}, err
	}
	g, err := newGeometry(o.Size/BlockSize, table.last(), o.SpareInodes)
	if err != nil {
		return Summary{}, err
	}
	if err := setSize(out, o.Size); err != nil {
		return Summary{}, fmt.Errorf("setting the size of %q: %w", out.Name(), err)
	}
	w := newWriter(g, table, out)
	err = w.write(ctx, o)
	if err := w.sink.close(err); err != nil {
		return Summary{}, err
	}
	return w.summary(), nil
}

// setSize makes the file one hole of so many bytes: what is not written has to be zero. A file that is empty is not
// emptied, since ext4 takes a file that was truncated to nothing for one that is being replaced, and waits for the disk
// when it is closed (fs/ext4/inode.c, ext4_truncate: EXT4_STATE_DA_ALLOC_CLOSE).
func setSize(out *os.File, size int64) error {
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 0 {
		if err := out.Truncate(0); err != nil {
			return err
		}
	}
	return out.Truncate(size)
}

func (o Options) check() error {
	switch {
	case o.Size < MinSize:
		err := fmt.Errorf("sizing the file system: %d bytes are fewer than the least, %d", o.Size, MinSize)
		return fault.New(fault.NoSpace, err, "pass a --size of at least 64MiB")
	case o.Size/BlockSize > maxBlocks:
		err := fmt.Errorf("sizing the file system: %d bytes are more than 16 TiB", o.Size)
		return fault.New(fault.Unsupported, err, "pass a smaller --size; the file system can grow later")
	case len(o.Label) > labelSize:
		return fmt.Errorf("labelling the file system: %q is longer than %d bytes", o.Label, labelSize)
	}
	return nil
}

// writer is a file system that is being written.
type writer struct {
	geometry
	*table
	space   space
	sink    *sink
	extents []extent            // of all inodes, those of an inode in one piece
	trees   map[uint32][]uint32 // blocks of the extent trees that do not fit into their inodes, by inode
	xattrs  map[uint32]uint32   // blocks of extended attributes, by inode
	fixed   fixedInodes
	seeds
}

func newWriter(g geometry, t *table, out *os.File) *writer {
	return &writer{
		geometry: g, table: t, space: newSpace(g), sink: newSink(out),
		trees: make(map[uint32][]uint32), xattrs: make(map[uint32]uint32),
	}
}

// write writes all that is not zero. The numbers are those of the package's documentation.
func (w *writer) write(ctx context.Context, o Options) error {
	// (1) and (2) have been done.
	if err := w.placeFixed(); err != nil { // (3)
		return err
	}
	if err := w.writeData(ctx); err != nil { // (4)
		return err
	}
	w.identify(o) // (5)
	for _, step := range []func(context.Context) error{
		w.writeDirectories, w.writeSymlinks, w.writeXattrs, // (6)
		w.writeExtentTrees, w.writeInodes, w.writeFixed, // (7)
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return w.writeGroups(o.Label) // (8)
}

func (w *writer) summary() Summary {
	return Summary{
		UUID: w.uuid, Blocks: int64(w.blocks), FreeBlocks: int64(w.freeBlocks()),
		Inodes: int64(w.inodeCount()), FreeInodes: int64(w.inodeCount() - w.last()),
	}
}
