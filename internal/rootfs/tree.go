// Package rootfs merges the layers of an image into one tree in memory, and stages such a tree as a directory.
//
// A Tree is what the image's layers make of the root file system: Flatten applies the rules of the OCI image
// specification, of which docs/layers.md is the full list. Nothing of it touches the host: symlinks and ".." are
// resolved inside the tree, and the files' content stays in the layers' blobs until somebody reads it. Stage makes a
// tree's files as the calling user, for mkfs.ext4 -d.
//
// A Tree is not safe for use by several goroutines while one of them changes it.
package rootfs

import (
	"io"
	"time"

	"github.com/banger-vm/banger/internal/layer"
)

// Kind is what a Node is. The zero Kind is invalid.
type Kind uint8

// The kinds of node that a root file system has.
const (
	Directory Kind = iota + 1
	Regular
	Symlink
	CharDevice
	BlockDevice
	FIFO
)

// Tree is a merged root file system: the result of applying an image's layers, from the lowest to the topmost.
type Tree struct {
	Root *Node // always a Directory
}

// Node is one inode. A file with several names (hard links) is one Node that stands under each of them; a directory
// has exactly one name.
type Node struct {
	Kind   Kind
	Mode   uint16 // permission, setuid, setgid and sticky bits (07777)
	UID    uint32
	GID    uint32
	Links  uint32 // names of a node that is no directory (at least 1 inside a Tree); unused for directories
	MTime  time.Time
	Xattrs []layer.Xattr // sorted by name, each name once; ACLs in the form of the system call

	Children map[string]*Node // of a Directory; names are raw bytes without "/" and NUL, never "", "." or ".."
	Target   string           // of a Symlink
	Major    uint32           // of a device
	Minor    uint32

	// Of a Regular file: Size bytes, of which Extents (ascending, not overlapping) are at their Offset in Source, and
	// the rest are holes. Source may be nil when Extents is empty.
	Size    int64
	Source  io.ReaderAt
	Extents []layer.Extent
	// Sum is what the content's sum has to be, holes included, if HasSum. Whoever reads all of it compares.
	Sum    layer.Sum
	HasSum bool
}
