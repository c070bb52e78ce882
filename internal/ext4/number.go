package ext4

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

const (
	rootInode = 2 // EXT4_ROOT_INO (fs/ext4/ext4.h)
	// maxLinks is how many names a file may have (EXT4_LINK_MAX).
	maxLinks   = 65000
	maxName    = 255 // EXT4_NAME_LEN
	maxTarget  = BlockSize - 1
	lostFound  = "lost+found"
	maxInodes  = 1<<32 - 1
	maxFile    = (1<<32 - 1) * BlockSize // extents count blocks in 32 bits
	labelSize  = 16                      // s_volume_name
	firstTable = firstInode - 1          // reserved inodes before the ones of the table
)

// table is the tree in the order of its inode numbers: the root first, then lost+found, then level by level, the entries
// of a directory one after the other. So what is in one directory is together on the disk, too.
type table struct {
	inodes []inode     // the root is at 0, lost+found at 1 with the number firstInode
	dirs   []directory // in the order of their inodes
	digest *digest     // of what the tree says of all that
}

// inode is what the writer knows of one inode besides its node.
type inode struct {
	node   *rootfs.Node
	first  uint32 // of its extents in writer.extents
	count  uint32 // how many there are
	blocks uint32 // on the disk, with the extent tree's and the extended attributes'
	links  uint32 // names; of a directory 2 and its subdirectories
	// indexed says whether a directory has an index; see htree.go.
	indexed bool
}

// directory is a directory with its entries.
type directory struct {
	number  uint32 // of its inode
	parent  uint32
	entries []entry // in the order of the names' bytes
}

// entry is one name in a directory.
type entry struct {
	name   string
	number uint32
}

// indexOf returns where an inode is in the table.
func indexOf(number uint32) uint32 {
	if number == rootInode {
		return 0
	}
	return number - firstTable
}

// numberOf is the reverse of indexOf.
func numberOf(index int) uint32 {
	if index == 0 {
		return rootInode
	}
	return uint32(index) + firstTable
}

func (t *table) inode(number uint32) *inode { return &t.inodes[indexOf(number)] }

// last returns the highest inode number.
func (t *table) last() uint32 { return numberOf(len(t.inodes) - 1) }

// numbering makes a table.
type numbering struct {
	*table
	linked map[*rootfs.Node]uint32 // of the nodes that have several names, those that were met
}

// number gives every node of the tree an inode number, and checks that ext4 can have it.
func number(tree *rootfs.Tree) (*table, error) {
	n := &numbering{table: &table{digest: newDigest()}, linked: make(map[*rootfs.Node]uint32)}
	if err := n.all(tree); err != nil {
		return nil, fmt.Errorf("writing %q: %w", pathOf(tree, err.node), err.cause)
	}
	return n.table, nil
}

// nodeError is what is wrong with a node.
type nodeError struct {
	node  *rootfs.Node
	cause error
}

func unsupported(node *rootfs.Node, format string, args ...any) *nodeError {
	return &nodeError{node, fault.New(fault.Unsupported, fmt.Errorf(format, args...), "ext4 cannot have it: change the image")}
}

// pathOf returns a path of a node, for an error.
func pathOf(tree *rootfs.Tree, node *rootfs.Node) string {
	found := "/"
	_ = tree.Walk(func(path string, n *rootfs.Node) error {
		if n == node {
			found = path
			return errFound
		}
		return nil
	})
	return found
}

var errFound = errors.New("found")

// all numbers the tree's nodes.
func (n *numbering) all(tree *rootfs.Tree) *nodeError {
	if tree.Root.Kind != rootfs.Directory {
		return unsupported(tree.Root, "the root is no directory")
	}
	if _, err := n.add(tree.Root); err != nil {
		return err
	}
	n.dirs = append(n.dirs, directory{number: rootInode, parent: rootInode})
	for i := 0; i < len(n.dirs); i++ {
		if err := n.enter(i); err != nil {
			return err
		}
	}
	return nil
}

// add gives a node the next number.
func (n *numbering) add(node *rootfs.Node) (uint32, *nodeError) {
	if err := check(node); err != nil {
		return 0, err
	}
	if len(n.inodes) >= maxInodes-firstTable {
		return 0, unsupported(node, "the tree has more than %d inodes", maxInodes)
	}
	in := inode{node: node, links: 1}
	if node.Kind == rootfs.Directory {
		in.links = 2
	}
	n.inodes = append(n.inodes, in)
	n.digest.node(node)
	return n.last(), nil
}

// enter numbers the entries of a directory, of which the number is known.
func (n *numbering) enter(i int) *nodeError {
	dir := n.inode(n.dirs[i].number).node
	names := slices.Sorted(maps.Keys(dir.Children))
	if i == 0 {
		names = lostFoundFirst(names)
	}
	n.dirs[i].entries = make([]entry, 0, len(names))
	for _, name := range names {
		child, ok := dir.Children[name]
		if !ok {
			child = newLostFound()
		}
		number, err := n.place(i, name, child)
		if err != nil {
			return err
		}
		n.dirs[i].entries = append(n.dirs[i].entries, entry{name, number})
	}
	n.digest.names(&n.dirs[i])
	return nil
}

// lostFoundFirst makes lost+found the first entry of the root, so that it gets the first number.
func lostFoundFirst(names []string) []string {
	others := slices.DeleteFunc(names, func(name string) bool { return name == lostFound })
	return append([]string{lostFound}, others...)
}

// newLostFound returns the directory in which e2fsck puts what it finds, as mke2fs makes it, for a tree that has none.
func newLostFound() *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Directory, Mode: 0o700, MTime: time.Unix(0, 0)}
}

// place returns the number for a name of a directory: a new one, unless the node has another name already.
func (n *numbering) place(dir int, name string, node *rootfs.Node) (uint32, *nodeError) {
	if err := checkName(node, name); err != nil {
		return 0, err
	}
	if dir == 0 && name == lostFound && node.Kind != rootfs.Directory {
		return 0, unsupported(node, "the name has to be a directory, for e2fsck")
	}
	if number, ok := n.linked[node]; ok {
		in := n.inode(number)
		in.links++
		if in.links > maxLinks {
			return 0, unsupported(node, "the file has more than %d names", maxLinks)
		}
		return number, nil
	}
	number, err := n.add(node)
	if err != nil {
		return 0, err
	}
	if node.Kind == rootfs.Directory {
		n.inode(n.dirs[dir].number).links++
		n.dirs = append(n.dirs, directory{number: number, parent: n.dirs[dir].number})
	} else if node.Links > 1 {
		n.linked[node] = number
	}
	return number, nil
}

func checkName(node *rootfs.Node, name string) *nodeError {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return unsupported(node, "%q is no name for a file", name)
	}
	return nil
}

// check refuses what an inode cannot say.
func check(node *rootfs.Node) *nodeError {
	switch node.Kind {
	case rootfs.Directory, rootfs.CharDevice, rootfs.BlockDevice, rootfs.FIFO:
	case rootfs.Regular:
		if node.Size < 0 || node.Size > maxFile {
			return unsupported(node, "the file has %d bytes, and may have %d", node.Size, int64(maxFile))
		}
	case rootfs.Symlink:
		if len(node.Target) == 0 || len(node.Target) > maxTarget || strings.Contains(node.Target, "\x00") {
			return unsupported(node, "the symlink's target has %d bytes, and may have 1 to %d without NUL",
				len(node.Target), maxTarget)
		}
	default:
		return unsupported(node, "a node of the invalid kind %d", node.Kind)
	}
	if len(node.Xattrs) == 0 {
		return nil
	}
	if _, _, err := encodeXattrs(node.Xattrs); err != nil {
		return &nodeError{node, err}
	}
	return nil
}
