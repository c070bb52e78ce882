package layer

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// Type is the kind of file that an Entry describes.
type Type uint8

// The zero Type is invalid.
const (
	Directory Type = iota + 1
	Regular
	HardLink
	Symlink
	CharDevice
	BlockDevice
	FIFO
)

// Entry is one member of a layer's tar, as the tar has it: names are neither cleaned nor resolved, whiteouts are
// ordinary entries. What the entry means for an image is decided by package rootfs.
type Entry struct {
	Name  string // raw bytes of the path
	Link  string // target of a Symlink (any bytes), or the name that a HardLink links to
	Type  Type
	Mode  uint16 // permission, setuid, setgid and sticky bits (07777)
	UID   uint32
	GID   uint32
	MTime time.Time // nanoseconds, UTC; the Unix epoch where the tar has none
	// Xattrs are sorted by name, each name once, with the full name ("security.capability", "user.x"). POSIX ACLs have
	// the form of the system call (version 2), as archivers store them.
	Xattrs []Xattr
	Major  uint32 // of devices
	Minor  uint32
	Size   int64 // length of a Regular file in bytes, holes included
	// Extents say where the data of a Regular file is in the layer's blob: ascending, not overlapping, inside
	// [0, Size). What no extent covers is a hole and reads as zeros.
	Extents []Extent
	// Sum is that of a Regular file's content, Size bytes of which the holes are zeros. HasSum is false in entries that
	// were not read from a tar.
	Sum    Sum
	HasSum bool
}

// Xattr is one extended attribute. Value may hold any bytes, or none.
type Xattr struct {
	Name  string
	Value string
}

// Extent maps Length bytes at Logical of a file to Offset of the uncompressed layer.
type Extent struct {
	Logical int64
	Offset  int64
	Length  int64
}

// Layer is one uncompressed layer: the entries of its tar in tar order, and the tar itself as Blob, from which the entries'
// Extents are read. The entries are verified; contents of a Regular file are what they should be if they have the entry's
// Sum. Close releases the blob.
type Layer struct {
	DiffID  string // "sha256:…" of the uncompressed tar
	Entries List
	Blob    io.ReaderAt
	file    *os.File // Blob; nil if the layer is in no store
	store   *Store
}

// Close releases the layer's blob. Contents that refer to it cannot be read afterwards.
func (l *Layer) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// Discard removes a layer from its store whose contents have turned out not to have their sums, so that it is fetched
// again. It stays open.
func (l *Layer) Discard(ctx context.Context) error {
	if l.file == nil {
		return nil
	}
	if err := l.store.discard(ctx, digest.Digest(l.DiffID), l.file); err != nil {
		return fmt.Errorf("removing the damaged layer %s: %w", l.DiffID, err)
	}
	return nil
}
