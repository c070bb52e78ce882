package rootfs

import (
	"strings"

	"github.com/banger-vm/banger/internal/layer"
)

// blockSize is the size in bytes of the blocks of ext4, as mkfs.ext4 chooses it for all but tiny disks.
const blockSize = 4096

// Usage is how much a tree needs in a file system.
type Usage struct {
	Inodes int64 // distinct nodes, the root and all directories included
	Names  int64 // names, the root counted as one
	Bytes  int64 // data of the regular files, each once, without their holes
	// Blocks is how many blocks of 4096 bytes the tree takes in ext4: data, directories, long symlinks, extended
	// attributes and extent trees, without the inode tables, the journal and whatever else ext4 has of its own. It is
	// an upper bound, because blocks of zeros may become holes and directories may be packed better.
	Blocks int64
}

// Usage counts what the tree needs.
func (t *Tree) Usage() Usage {
	var u Usage
	seen := make(map[*Node]bool) // of the nodes with several names
	// The function returns no error, so neither does Walk.
	_ = t.Walk(func(_ string, n *Node) error {
		u.Names++
		if n.Kind != Directory && n.Links > 1 {
			if seen[n] {
				return nil
			}
			seen[n] = true
		}
		u.count(n)
		return nil
	})
	return u
}

func (u *Usage) count(n *Node) {
	u.Inodes++
	u.Blocks += xattrBlocks(n.Xattrs)
	switch n.Kind {
	case Regular:
		data, runs := dataBlocks(n)
		u.Blocks += data + mapBlocks(data, runs)
		for _, x := range n.Extents {
			u.Bytes += x.Length
		}
	case Directory:
		u.Blocks += directoryBlocks(n.Children)
	case Symlink:
		// Below 60 bytes the target is in the inode's i_block: fs/ext4/namei.c, ext4_symlink.
		if len(n.Target) > 59 {
			u.Blocks++
		}
	}
}

// dataBlocks returns how many blocks the data of a file touches, and in how many runs without a hole.
func dataBlocks(n *Node) (blocks, runs int64) {
	for first, end := range n.Runs(blockSize) {
		blocks += end - first
		runs++
	}
	return blocks, runs
}

// mapBlocks returns the blocks of a file's extent tree: four extents are in the inode, a block has 340 of 12 bytes, and
// an extent covers up to 32768 blocks (fs/ext4/ext4_extents.h). A run is split where a block group ends, every 32768
// blocks, and once more for where it begins.
func mapBlocks(data, runs int64) int64 {
	const inInode, inBlock, inGroup = 4, 340, 32768
	var blocks int64
	for entries := runs + 2*((data+inGroup-1)/inGroup); entries > inInode; {
		entries = (entries + inBlock - 1) / inBlock
		blocks += entries
	}
	return blocks
}

// directoryBlocks returns the blocks of a directory with these names. An entry has 8 bytes and the name, padded to 4, and
// lies in one block, of which the checksum takes 12 (fs/ext4/ext4.h, ext4_dir_entry_2 and _tail). What is lost at the ends
// of the blocks depends on the order of the names; the bound holds for any. More than one block has an index: a root and,
// where that is full, nodes with 510 entries each (fs/ext4/namei.c, dx_root and dx_node).
func directoryBlocks(children map[string]*Node) int64 {
	const header, tail, dots = 8, 12, 2 * 12
	const inRoot, inNode = 507, 510
	total, longest := int64(dots), int64(0)
	for name := range children {
		size := int64(header+len(name)+3) &^ 3
		total += size
		longest = max(longest, size)
	}
	if total <= blockSize-tail {
		return 1
	}
	usable := blockSize - tail - (longest - 4)
	leaves := (total + usable - 1) / usable
	if leaves <= inRoot {
		return leaves + 1
	}
	return leaves + 1 + (leaves+inNode-1)/inNode
}

// xattrBlocks returns 1 if the attributes do not fit behind the 160 bytes that an inode of 256 uses itself. There, as
// in a block, are a header, for each attribute 16 bytes, the name without the prefix that has a number, and the value,
// both padded to 4, and 4 zero bytes (fs/ext4/xattr.h).
func xattrBlocks(xattrs []layer.Xattr) int64 {
	const room = 256 - 160 - 4 - 4
	var size int
	for _, x := range xattrs {
		size += 16 + (len(stripPrefix(x.Name))+3)&^3 + (len(x.Value)+3)&^3
	}
	if size > room {
		return 1
	}
	return 0
}

// stripPrefix returns what ext4 stores of an attribute's name. The prefixes are those of fs/ext4/xattr.c.
func stripPrefix(name string) string {
	for _, prefix := range [...]string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest
		}
	}
	return name
}
