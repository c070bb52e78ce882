package volume

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/banger-vm/banger/internal/rootfs"
)

// Tree reads the whole file system. The content of its files stays in the image, which is their Source; the extents are
// those that were written, joined where they go on, and end with the file. A hard link is one Node under several names.
// lost+found is a directory like any other. Sockets, which a Tree cannot have, are left out.
//
// Beside every checksum it verifies that each directory has one name and its parent as "..", that link counts are the
// number of names, that the types in the directories are those of the inodes, and that no block is used twice.
func (v *Volume) Tree() (*rootfs.Tree, error) {
	used := &claims{meta: map[uint64]uint32{}}
	attrs := attrReader{v: v, blocks: map[uint64]*sharedAttrs{}, values: map[uint32]attrInode{}, used: used}
	s := &scan{nodeReader: nodeReader{v: v, attrs: attrs, used: used}, nodes: map[uint32]*scanned{}}
	if err := v.claimSystem(used); err != nil {
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
	nodeReader
	nodes map[uint32]*scanned // by inode
	todo  []todo              // directories whose names have to be read
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
	if err := s.claim(&t.in, &d.blocks, false); err != nil {
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
	found := &scanned{links: in.Links}
	s.nodes[number] = found
	n, fileType, err := s.node(&in)
	if err != nil {
		return nil, err
	}
	found.fileType = fileType
	if n.Kind != 0 {
		found.node = n
	}
	if n.Kind == rootfs.Directory {
		s.todo = append(s.todo, todo{in, n, parent})
	}
	return found, nil
}
