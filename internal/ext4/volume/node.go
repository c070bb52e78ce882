package volume

import (
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Node returns what an inode is, without the names in a directory: its Children are nil, its Links are those that the
// inode says it has. The content of a file stays in the image, as in Tree. The Kind is 0 for a socket, which a tree
// cannot have.
func (v *Volume) Node(in Inode) (*rootfs.Node, error) {
	n, _, err := (&nodeReader{v: v, attrs: attrReader{v: v}}).node(&in)
	if err != nil {
		return nil, err
	}
	n.Links = uint32(in.Links)
	return n, nil
}

// nodeReader makes nodes of inodes.
type nodeReader struct {
	v     *Volume
	attrs attrReader
	used  *claims // nil, or where their blocks are claimed
}

// claim claims the blocks of an inode, if claims are kept.
func (r *nodeReader) claim(in *Inode, m *BlockMap, sharing bool) error {
	if r.used == nil {
		return nil
	}
	return r.used.addMap(in, m, sharing)
}

// node returns the node of an inode, without children and links, and the type that directories have for it.
func (r *nodeReader) node(in *Inode) (*rootfs.Node, uint8, error) {
	if in.has(FlagEAInode) {
		return nil, 0, corrupt("inode %d is the value of an attribute", in.Number)
	}
	n := &rootfs.Node{Mode: in.Mode &^ modeType, UID: in.UID, GID: in.GID, MTime: in.MTime}
	kind, fileType, err := kindOf(in)
	if err != nil {
		return nil, 0, err
	}
	n.Kind = kind
	if n.Xattrs, err = r.attrs.read(in); err != nil {
		return nil, 0, err
	}
	return n, fileType, r.content(n, in)
}

// kindOf returns the kind of an inode, 0 for a socket, and the type that directories have for it (fs/ext4/ext4.h:
// EXT4_FT_*).
func kindOf(in *Inode) (rootfs.Kind, uint8, error) {
	switch in.Mode & modeType {
	case modeRegular:
		return rootfs.Regular, 1, nil
	case modeDirectory:
		return rootfs.Directory, 2, nil
	case modeChar:
		return rootfs.CharDevice, 3, nil
	case modeBlock:
		return rootfs.BlockDevice, 4, nil
	case modeFIFO:
		return rootfs.FIFO, 5, nil
	case modeSocket:
		return 0, 6, nil
	case modeSymlink:
		return rootfs.Symlink, 7, nil
	}
	return 0, 0, corrupt("inode %d has the mode %#o", in.Number, in.Mode)
}

// content takes what an inode has beside its attributes.
func (r *nodeReader) content(n *rootfs.Node, in *Inode) error {
	switch n.Kind {
	case rootfs.Regular:
		return r.file(n, in)
	case rootfs.Symlink:
		return r.symlink(n, in)
	case rootfs.CharDevice, rootfs.BlockDevice:
		n.Major, n.Minor = in.device()
	}
	return nil
}

// file takes the size and the extents of a regular file.
func (r *nodeReader) file(n *rootfs.Node, in *Inode) error {
	n.Size, n.Source = in.Size, r.v.image
	if in.has(FlagInlineData) {
		var err error
		n.Extents, err = r.v.inlineExtents(in)
		return err
	}
	m, err := r.v.BlockMap(*in)
	if err != nil {
		return err
	}
	if in.Size > maxLogical*r.v.super.BlockSize {
		return corrupt("inode %d has the size %d", in.Number, in.Size)
	}
	n.Extents = r.v.written(&m, in.Size)
	return r.claim(in, &m, r.v.super.hasRO(roSharedBlocks))
}

// written returns where the first size bytes of a file are in the image.
func (v *Volume) written(m *BlockMap, size int64) []layer.Extent {
	var extents []layer.Extent
	for _, e := range m.Extents {
		x := layer.Extent{
			Logical: int64(e.Logical) * v.super.BlockSize,
			Offset:  int64(e.Physical) * v.super.BlockSize,
			Length:  int64(e.Length) * v.super.BlockSize,
		}
		x.Length = min(x.Length, size-x.Logical)
		if e.Unwritten || x.Length <= 0 {
			continue
		}
		if last := len(extents) - 1; last >= 0 && continues(extents[last], x) {
			extents[last].Length += x.Length
			continue
		}
		extents = append(extents, x)
	}
	return extents
}

// continues says whether b goes on where a ends, in the file and in the image.
func continues(a, b layer.Extent) bool {
	return a.Logical+a.Length == b.Logical && a.Offset+a.Length == b.Offset
}

// maxTarget is the longest target of a symlink in bytes: PATH_MAX (linux/limits.h) counts the closing NUL.
const maxTarget = 4095

// symlink takes the target of a symlink.
func (r *nodeReader) symlink(n *rootfs.Node, in *Inode) error {
	if in.Size == 0 || in.Size > min(maxTarget, r.v.super.BlockSize-1) {
		return corrupt("inode %d is a symlink of %d bytes", in.Number, in.Size)
	}
	target, err := r.target(in)
	if err != nil {
		return fmt.Errorf("reading the symlink with inode %d: %w", in.Number, err)
	}
	n.Target = string(target)
	if strings.IndexByte(n.Target, 0) >= 0 {
		return corrupt("the symlink with inode %d has a NUL byte", in.Number)
	}
	return nil
}

// target returns the bytes of a symlink: in i_block, inline, or in a block.
func (r *nodeReader) target(in *Inode) ([]byte, error) {
	switch {
	case in.has(FlagInlineData):
		return r.v.inlineBytes(in)
	case r.v.isFastSymlink(in):
		return in.iBlock()[:in.Size], nil
	}
	m, err := r.v.BlockMap(*in)
	if err != nil {
		return nil, err
	}
	if err := r.claim(in, &m, false); err != nil {
		return nil, err
	}
	block, err := r.v.fileBlock(&m, 0)
	if err != nil {
		return nil, err
	}
	return block[:in.Size], nil
}

// isFastSymlink says whether a symlink has its target in i_block (fs/ext4/inode.c: ext4_inode_is_fast_symlink): with
// ea_inode by its size, otherwise because it has no blocks but that of its attributes.
func (v *Volume) isFastSymlink(in *Inode) bool {
	if v.super.hasIncompat(incompatEAInode) {
		return in.Size < iBlockSize
	}
	blocks := in.Sectors
	if in.AttrBlock != 0 {
		blocks -= uint64(v.super.BlockSize / 512)
	}
	return blocks == 0 && in.Size < iBlockSize
}
