package volume

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Tree reads the whole file system. The content of its files stays in the image, which is their Source; the extents are
// those that were written, joined where they go on, and end with the file. A hard link is one Node under several names.
// lost+found is a directory like any other. Sockets, which a Tree cannot have, are left out.
//
// Beside every checksum it verifies that each directory has one name and its parent as "..", that link counts are the
// number of names, that the types in the directories are those of the inodes, and that no block is used twice.
func (v *Volume) Tree() (*rootfs.Tree, error) {
	s := &scan{
		v:     v,
		nodes: map[uint32]*scanned{},
		attrs: attrReader{v: v, blocks: map[uint64]*sharedAttrs{}, values: map[uint32]attrInode{}},
		used:  claims{meta: map[uint64]uint32{}},
	}
	s.attrs.used = &s.used
	if err := v.claimSystem(&s.used); err != nil {
		return nil, fmt.Errorf("reading the file system: %w", err)
	}
	root, err := s.tree()
	if err != nil {
		return nil, fmt.Errorf("reading the file system: %w", err)
	}
	return &rootfs.Tree{Root: root}, nil
}

// scan is a Tree in the making.
type scan struct {
	v     *Volume
	nodes map[uint32]*scanned // by inode
	todo  []todo              // directories whose names have to be read
	attrs attrReader
	used  claims
}

// scanned is an inode that was read.
type scanned struct {
	node     *rootfs.Node // nil for a socket
	fileType uint8        // as directories have it
	links    uint16       // i_links_count
	names    uint32       // found so far; of a directory, those of its subdirectories count as well
}

// todo is a directory to be read.
type todo struct {
	in     Inode
	node   *rootfs.Node
	parent uint32
}

func (s *scan) tree() (*rootfs.Node, error) {
	root, err := s.inode(rootInode, rootInode)
	if err != nil {
		return nil, err
	}
	if root.node == nil || root.node.Kind != rootfs.Directory {
		return nil, corrupt("the root is not a directory")
	}
	root.names = 1
	for len(s.todo) > 0 {
		next := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		if err := s.directory(next); err != nil {
			return nil, err
		}
	}
	if err := s.checkLinks(); err != nil {
		return nil, err
	}
	return root.node, s.used.check()
}

// directory reads the names of a directory and the inodes behind them.
func (s *scan) directory(t todo) error {
	d, err := s.v.readDirectory(&t.in)
	if err != nil {
		return err
	}
	if d.parent != t.parent {
		return corrupt("the directory with inode %d has inode %d as its parent, not %d", t.in.Number, d.parent, t.parent)
	}
	if err := s.used.addMap(&t.in, &d.blocks, false); err != nil {
		return err
	}
	if len(d.entries) == 0 {
		return nil
	}
	t.node.Children = make(map[string]*rootfs.Node, len(d.entries))
	// The inodes of an indexed directory are in no order, and many of them share a block.
	slices.SortFunc(d.entries, func(a, b dirEntry) int { return cmp.Compare(a.inode, b.inode) })
	for _, e := range d.entries {
		if err := s.name(&t, e); err != nil {
			return fmt.Errorf("%q in the directory with inode %d: %w", e.name, t.in.Number, err)
		}
	}
	return nil
}

// name puts one name into the tree.
func (s *scan) name(dir *todo, e dirEntry) error {
	if s.v.super.isSpecial(e.inode) || e.inode == rootInode {
		return corrupt("inode %d is the file system's own", e.inode)
	}
	found, known := s.nodes[e.inode]
	if !known {
		var err error
		if found, err = s.inode(e.inode, dir.in.Number); err != nil {
			return err
		}
	}
	if e.fileType != 0 && e.fileType != found.fileType {
		return corrupt("inode %d has the type %d, its name the type %d", e.inode, found.fileType, e.fileType)
	}
	found.names++
	if found.node == nil {
		return nil
	}
	if _, taken := dir.node.Children[e.name]; taken {
		return corrupt("the name is there twice")
	}
	dir.node.Children[e.name] = found.node
	if found.node.Kind != rootfs.Directory {
		found.node.Links++
		return nil
	}
	if known {
		return corrupt("the directory with inode %d has a second name", e.inode)
	}
	s.nodes[dir.in.Number].names++
	return nil
}

// checkLinks compares the names that were found with what inodes and blocks of attributes say of them.
func (s *scan) checkLinks() error {
	for number, found := range s.nodes {
		want := found.names
		if found.node != nil && found.node.Kind == rootfs.Directory {
			want++ // its own "."
			// Above 64998 subdirectories the count is 1 (fs/ext4/namei.c: ext4_inc_count).
			if found.links == 1 && s.v.super.hasRO(roDirNlink) {
				continue
			}
		}
		if uint32(found.links) != want {
			return corrupt("inode %d has %d names, and says %d", number, want, found.links)
		}
	}
	for block, shared := range s.attrs.blocks {
		if shared.found != shared.references {
			return corrupt("block %d of attributes belongs to %d inodes, and says %d", block, shared.found, shared.references)
		}
		s.used.add(block, 1, ownAttributes)
	}
	return nil
}

// inode reads an inode for the first time.
func (s *scan) inode(number, parent uint32) (*scanned, error) {
	in, err := s.v.usedInode(number)
	if err != nil {
		return nil, err
	}
	if in.has(FlagEAInode) {
		return nil, corrupt("inode %d is the value of an attribute", number)
	}
	found := &scanned{links: in.Links}
	s.nodes[number] = found
	n := &rootfs.Node{Mode: in.Mode &^ modeType, UID: in.UID, GID: in.GID, MTime: in.MTime}
	if n.Kind, found.fileType, err = kindOf(&in); err != nil {
		return nil, err
	}
	if n.Kind != 0 {
		found.node = n
	}
	if n.Xattrs, err = s.attrs.read(&in); err != nil {
		return nil, err
	}
	return found, s.content(n, in, parent)
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
func (s *scan) content(n *rootfs.Node, in Inode, parent uint32) error {
	switch n.Kind {
	case rootfs.Directory:
		s.todo = append(s.todo, todo{in, n, parent})
	case rootfs.Regular:
		return s.file(n, &in)
	case rootfs.Symlink:
		return s.symlink(n, &in)
	case rootfs.CharDevice, rootfs.BlockDevice:
		n.Major, n.Minor = in.device()
	}
	return nil
}

// file takes the size and the extents of a regular file.
func (s *scan) file(n *rootfs.Node, in *Inode) error {
	n.Size, n.Source = in.Size, s.v.image
	if in.has(FlagInlineData) {
		var err error
		n.Extents, err = s.v.inlineExtents(in)
		return err
	}
	m, err := s.v.BlockMap(*in)
	if err != nil {
		return err
	}
	if in.Size > maxLogical*s.v.super.BlockSize {
		return corrupt("inode %d has the size %d", in.Number, in.Size)
	}
	n.Extents = s.v.written(&m, in.Size)
	return s.used.addMap(in, &m, s.v.super.hasRO(roSharedBlocks))
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
func (s *scan) symlink(n *rootfs.Node, in *Inode) error {
	if in.Size == 0 || in.Size > min(maxTarget, s.v.super.BlockSize-1) {
		return corrupt("inode %d is a symlink of %d bytes", in.Number, in.Size)
	}
	target, err := s.target(in)
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
func (s *scan) target(in *Inode) ([]byte, error) {
	switch {
	case in.has(FlagInlineData):
		return s.v.inlineBytes(in)
	case s.v.isFastSymlink(in):
		return in.iBlock()[:in.Size], nil
	}
	m, err := s.v.BlockMap(*in)
	if err != nil {
		return nil, err
	}
	if err := s.used.addMap(in, &m, false); err != nil {
		return nil, err
	}
	block, err := s.v.fileBlock(&m, 0)
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
