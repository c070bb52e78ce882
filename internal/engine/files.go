package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

// The types of a File.
const (
	TypeRegular   = "file"
	TypeDirectory = "directory"
	TypeSymlink   = "symlink"
	TypeChar      = "char"
	TypeBlock     = "block"
	TypeFIFO      = "fifo"
	TypeSocket    = "socket"
)

// File is a name in an image and the inode behind it. Files with the same Inode are hard links of each other.
type File struct {
	Path    string    `json:"path"`               // absolute and without symlinks
	RawPath []byte    `json:"raw_path,omitempty"` // the path's bytes, where they are not UTF-8 and JSON loses some
	Type    string    `json:"type"`               // one of the above
	Mode    string    `json:"mode"`               // permissions, setuid, setgid and sticky bits in octal: "0755"
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Size    int64     `json:"size"` // as stat(2) has it: of a symlink that of its target, of a device 0
	MTime   time.Time `json:"mtime"`
	Inode   uint32    `json:"inode"`
	Links   uint32    `json:"links"`

	Target    string  `json:"target,omitempty"` // of a symlink
	RawTarget []byte  `json:"raw_target,omitempty"`
	Major     uint32  `json:"major,omitempty"` // of a device
	Minor     uint32  `json:"minor,omitempty"`
	Xattrs    []Xattr `json:"xattrs,omitempty"`
	// Capabilities is what the attribute security.capability says, as getcap writes it: "cap_net_raw=ep".
	Capabilities string `json:"capabilities,omitempty"`
}

// Xattr is an extended attribute; an access control list has the form of the system call.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Received returns a file as it was before it was sent as JSON.
func (f File) Received() File {
	if f.RawPath != nil {
		f.Path = string(f.RawPath)
	}
	if f.RawTarget != nil {
		f.Target = string(f.RawTarget)
	}
	return f
}

// FileOptions say which files of an image are meant.
type FileOptions struct {
	// Path is taken from the root, and symlinks in it are followed inside the image. "" is the root.
	Path string
	// Depth is how many levels below Path are listed, and -1 all. At 0 Path itself is: as the symlink if it is one.
	Depth int
}

// ListFiles calls visit with what is below a directory of the image that query means, each directory before what is in
// it, in the order of the bytes of their names; with the file itself if Path is no directory. query may also be the path
// of an ext4 file (IsDiskFile). It stops at visit's first error and returns it.
func (e *Engine) ListFiles(ctx context.Context, query string, options FileOptions, visit func(File) error) error {
	disk, err := e.openDisk(query)
	if err != nil {
		return err
	}
	defer disk.close()
	from, err := disk.resolve(ctx, options.Path, options.Depth != 0)
	if err != nil {
		return err
	}
	itself := options.Depth == 0 || from.Kind() != rootfs.Directory
	for place, err := range disk.Walk(from, options.Depth) {
		if err != nil {
			return disk.in(err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !itself && place.Path == from.Path {
			continue
		}
		node, err := disk.node(place)
		if err != nil {
			return err
		}
		if err := visit(fileOf(place, node)); err != nil {
			return err
		}
	}
	return nil
}

// keptNodes is how many files with several names are kept from one name to the next.
const keptNodes = 64

// node reads what there is to a place beside its inode. That may take long, so that a file with many names is not read for
// each of them.
func (d *openedDisk) node(place volume.Place) (*rootfs.Node, error) {
	if node := d.nodes[place.Inode.Number]; node != nil {
		return node, nil
	}
	node, err := d.Node(place.Inode)
	if err != nil {
		return nil, d.in(fmt.Errorf("%q: %w", place.Path, err))
	}
	if node.Links > 1 && node.Kind != rootfs.Directory {
		if d.nodes == nil || len(d.nodes) == keptNodes {
			d.nodes = make(map[uint32]*rootfs.Node)
		}
		d.nodes[place.Inode.Number] = node
	}
	return node, nil
}

// fileOf describes a place.
func fileOf(place volume.Place, n *rootfs.Node) File {
	f := File{
		Path: place.Path, RawPath: unlessText(place.Path), Type: typeName(n.Kind), Mode: fmt.Sprintf("%04o", n.Mode),
		UID: n.UID, GID: n.GID, Size: place.Inode.Size, MTime: n.MTime, Inode: place.Inode.Number, Links: n.Links,
		Target: n.Target, RawTarget: unlessText(n.Target), Major: n.Major, Minor: n.Minor,
	}
	for _, x := range n.Xattrs {
		f.Xattrs = append(f.Xattrs, Xattr{Name: x.Name, Value: []byte(x.Value)})
		if x.Name == capabilityXattr {
			f.Capabilities = capabilityText(x.Value)
		}
	}
	return f
}

// unlessText returns the bytes of what is not UTF-8, and nil for what is.
func unlessText(s string) []byte {
	if utf8.ValidString(s) {
		return nil
	}
	return []byte(s)
}

func typeName(kind rootfs.Kind) string {
	switch kind {
	case rootfs.Directory:
		return TypeDirectory
	case rootfs.Regular:
		return TypeRegular
	case rootfs.Symlink:
		return TypeSymlink
	case rootfs.CharDevice:
		return TypeChar
	case rootfs.BlockDevice:
		return TypeBlock
	case rootfs.FIFO:
		return TypeFIFO
	}
	return TypeSocket
}

// contentPiece is how much of a file's content is read at a time, in bytes.
const contentPiece = 1 << 20

// CatFile writes the content of a regular file of the image that query means. Symlinks in path are followed inside the
// image; query may also be the path of an ext4 file (IsDiskFile). What cannot be written is to's own error.
func (e *Engine) CatFile(ctx context.Context, query, path string, to io.Writer) error {
	disk, err := e.openDisk(query)
	if err != nil {
		return err
	}
	defer disk.close()
	place, err := disk.resolve(ctx, path, true)
	if err != nil {
		return err
	}
	node, err := disk.node(place)
	if err != nil {
		return err
	}
	if node.Kind != rootfs.Regular {
		return disk.in(notRegular(place.Path, node.Kind))
	}
	return disk.copyContent(ctx, place.Path, node, to)
}

// notRegular says why a file has no content.
func notRegular(path string, kind rootfs.Kind) error {
	err := fmt.Errorf("%q has no content: it is a %s", path, describeKind(kind))
	hint := "only regular files have content; `banger image ls-files -l --depth 0` shows what it is"
	if kind == rootfs.Directory {
		hint = "`banger image ls-files` lists what is in it"
	}
	return fault.New(fault.Usage, err, hint)
}

func describeKind(kind rootfs.Kind) string {
	switch kind {
	case rootfs.CharDevice:
		return "character device"
	case rootfs.BlockDevice:
		return "block device"
	case rootfs.FIFO:
		return "FIFO"
	}
	return typeName(kind)
}

// copyContent writes a file's content, its holes as zeros.
func (d *openedDisk) copyContent(ctx context.Context, path string, node *rootfs.Node, to io.Writer) error {
	content := node.Open()
	piece := make([]byte, min(contentPiece, node.Size))
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := content.Read(piece)
		if n > 0 {
			if _, err := to.Write(piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || len(piece) == 0 {
			return nil
		}
		if err != nil {
			return d.unread(path, err)
		}
	}
}

// unread says that the content of a file could not be read to its end.
func (d *openedDisk) unread(path string, err error) error {
	err = fmt.Errorf("%q: %w", path, err)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fault.New(fault.Corrupt, err, "the disk's file ends inside its file system: pull or export the image again")
	}
	return d.in(err)
}
