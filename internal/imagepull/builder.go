package imagepull

import (
	"context"

	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Builder makes an ext4 file of a tree. There are two, Native and Mkfs; the tests of what is in the file run on both.
// A Builder has no state: it can be used for several files at once.
type Builder interface {
	// Name is what the user calls the builder. Version changes whenever the builder gives another result for the same
	// work. Both are part of an image's id.
	Name() string
	Version() string
	// MinSize returns the size in bytes, in whole MiB, of the smallest disk that holds a tree of this usage and leaves
	// the guest some room.
	MinSize(usage rootfs.Usage) int64
	// Build makes w.OutFile by steps of the recipe, and returns the size of its file system in bytes. The file is sparse
	// and only its owner can read it. A file that is already there is replaced; on any failure, the end of ctx
	// included, there is none. A tree that does not fit, and a full disk of the host, are a fault.NoSpace; a tree that
	// the builder cannot make a file system of is a fault.Unsupported which names the path.
	Build(ctx context.Context, w Work, steps Steps) (int64, error)
}

// Work is what a Builder makes a file system of, and where.
type Work struct {
	Tree   *rootfs.Tree  // the builder's from then on: it may add the assets to it
	Usage  rootfs.Usage  // of Tree
	Assets []guest.Asset // what guest.Assets chose for Tree; none leaves the tree as it is
	Guest  string        // what the assets are, in words, for showing progress

	Size    func(rootfs.Usage) (int64, error) // decides the size of the disk, in bytes; at least MinExt4Size
	Dir     string                            // an existing directory of the caller's, for what the builder needs meanwhile
	OutFile string                            // the ext4 file to make
}

// MinExt4Size is the smallest file system that a Builder makes, in bytes. A journal and the inode tables leave little
// room below it.
const MinExt4Size = 64 << 20

// label is the volume name of every disk.
const label = "banger-rootfs"

// What MinSize leaves free for the guest even on the smallest disk.
const (
	spareBytes  = 16 << 20
	spareInodes = 1024
)
