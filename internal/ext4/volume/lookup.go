package volume

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// Lookup returns the inode of an absolute path, by reading all names of the directories on the way. Symlinks are not
// followed. The error wraps fs.ErrNotExist if a name is not there.
func (v *Volume) Lookup(path string) (Inode, error) {
	in, err := v.usedInode(rootInode)
	for name := range strings.SplitSeq(path, "/") {
		if err != nil {
			break
		}
		if name != "" {
			in, err = v.child(&in, name)
		}
	}
	if err != nil {
		return Inode{}, fmt.Errorf("looking up %q: %w", path, err)
	}
	return in, nil
}

// child returns the inode that a directory has under a name.
func (v *Volume) child(dir *Inode, name string) (Inode, error) {
	if !dir.is(modeDirectory) {
		return Inode{}, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	d, err := v.readDirectory(dir)
	if err != nil {
		return Inode{}, err
	}
	for _, e := range d.entries {
		if e.name == name {
			return v.usedInode(e.inode)
		}
	}
	return Inode{}, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
}

// LookupHashed returns the inode that a name has in an indexed directory, which it finds as the kernel does: by the
// name's hash through the index, reading only the blocks on the way (fs/ext4/namei.c: ext4_dx_find_entry). The error
// wraps fs.ErrNotExist if the name is not there, and is a fault.Unsupported if the directory has no index.
func (v *Volume) LookupHashed(dir uint32, name string) (uint32, error) {
	number, err := v.lookupHashed(dir, name)
	if err != nil {
		return 0, fmt.Errorf("looking up %q through the index of the directory with inode %d: %w", name, dir, err)
	}
	return number, nil
}

func (v *Volume) lookupHashed(dir uint32, name string) (uint32, error) {
	in, err := v.usedInode(dir)
	if err != nil {
		return 0, err
	}
	if !in.is(modeDirectory) || in.has(FlagInlineData) || !v.indexed(&in) {
		return 0, fault.New(fault.Unsupported, fmt.Errorf("inode %d has no index", dir), "")
	}
	m, err := v.BlockMap(in)
	if err != nil {
		return 0, err
	}
	x, root, err := v.readRoot(&in, &m)
	if err != nil {
		return 0, err
	}
	w := indexWalk{v: v, in: &in, blocks: &m, hash: x.hash(name), read: map[uint32]bool{0: true}}
	return w.find(name, root, x.levels)
}

// indexWalk is a way through an index from the root to a leaf.
type indexWalk struct {
	v      *Volume
	in     *Inode
	blocks *BlockMap
	hash   uint32
	nodes  []indexBlock // from the root to the last level
	at     []int        // the entry taken in each
	// read are the blocks of the directory that were read: the index leads to each but once, or a search could read a few
	// blocks any number of times.
	read map[uint32]bool
}

// find looks for a name in every leaf that may have names of its hash.
func (w *indexWalk) find(name string, root indexBlock, levels int) (uint32, error) {
	w.nodes, w.at = []indexBlock{root}, []int{root.search(w.hash)}
	if err := w.descend(levels, func(node indexBlock) int { return node.search(w.hash) }); err != nil {
		return 0, err
	}
	for {
		number, err := w.findInLeaf(name)
		if number != 0 || err != nil {
			return number, err
		}
		more, err := w.next(levels)
		if err != nil {
			return 0, err
		}
		if !more {
			return 0, fs.ErrNotExist
		}
	}
}

// descend reads the index down to its last level.
func (w *indexWalk) descend(levels int, choose func(indexBlock) int) error {
	for len(w.nodes) <= levels {
		block, err := w.block()
		if err != nil {
			return err
		}
		node, err := w.v.readIndexBlock(w.in, w.blocks, block, nodeCountAt)
		if err != nil {
			return err
		}
		w.nodes, w.at = append(w.nodes, node), append(w.at, choose(node))
	}
	return nil
}

// block returns the block of the directory that the last entry taken points to, which is then read.
func (w *indexWalk) block() (uint32, error) {
	last := len(w.nodes) - 1
	block := w.nodes[last][w.at[last]].block
	if w.read[block] {
		return 0, corrupt("the index has block %d twice", block)
	}
	w.read[block] = true
	return block, nil
}

// next goes on to the next leaf, if names of the hash go on there (ext4_htree_next_block).
func (w *indexWalk) next(levels int) (bool, error) {
	last := len(w.nodes) - 1
	for last >= 0 && w.at[last]+1 == len(w.nodes[last]) {
		last--
	}
	if last < 0 || w.nodes[last][w.at[last]+1].hash&^1 != w.hash {
		return false, nil
	}
	w.nodes, w.at = w.nodes[:last+1], w.at[:last+1]
	w.at[last]++
	return true, w.descend(levels, func(indexBlock) int { return 0 })
}

// findInLeaf returns the inode of a name in the leaf that was reached, or 0.
func (w *indexWalk) findInLeaf(name string) (uint32, error) {
	block, err := w.block()
	if err != nil {
		return 0, err
	}
	data, err := w.v.fileBlock(w.blocks, uint64(block))
	if err != nil {
		return 0, err
	}
	names, err := w.v.checkNames(w.in, data)
	if err != nil {
		return 0, err
	}
	d := &directory{in: w.in}
	if err := w.v.appendEntries(d, names); err != nil {
		return 0, err
	}
	for _, e := range d.entries {
		if e.name == name {
			return e.inode, nil
		}
	}
	return 0, nil
}
