package volume

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Walk yields a place and, if it is a directory, all that is below it, down to a depth: 0 is the place alone, 1 what is
// in it as well; a negative depth has no end. A directory comes before what is in it, and the names of a directory in
// the order of their bytes: Before is the order. A file with several names comes under each of them.
//
// Only the names and inodes that it comes to are read, when it comes to them. Of these it verifies what Tree does, but
// for the counts of links and the blocks of files. What is wrong is yielded as the last error, which has the path.
func (v *Volume) Walk(from Place, depth int) iter.Seq2[Place, error] {
	return func(yield func(Place, error) bool) {
		w := walk{v: v, read: map[uint32]bool{}, blocks: map[uint64]uint32{}}
		if !yield(from, nil) || depth == 0 || !from.isDirectory() {
			return
		}
		if err := w.push(from, depth); err != nil {
			yield(from, fmt.Errorf("%q: %w", from.Path, err))
			return
		}
		w.run(yield)
	}
}

// walk is a way through all that is below a directory.
type walk struct {
	v      *Volume
	todo   []waiting
	read   map[uint32]bool   // the directories that were read
	blocks map[uint64]uint32 // their blocks, by which they belong to one directory each
}

// waiting is a name that Walk has still to come to.
type waiting struct {
	dir    string // path of its directory, with a slash at the end
	entry  dirEntry
	parent uint32
	depth  int // levels below it that are wanted
}

// run yields what waits and what is below it.
func (w *walk) run(yield func(Place, error) bool) {
	for len(w.todo) > 0 {
		next := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		place, err := w.enter(&next)
		if err == nil && !yield(place, nil) {
			return
		}
		if err == nil && next.depth != 0 && place.isDirectory() {
			err = w.push(place, next.depth)
		}
		if err != nil {
			yield(place, fmt.Errorf("%q: %w", place.Path, err))
			return
		}
	}
}

// enter reads the inode of a name.
func (w *walk) enter(next *waiting) (Place, error) {
	place := Place{Path: next.dir + next.entry.name, parent: next.parent}
	number := next.entry.inode
	if w.v.isOwn(number) {
		return place, corrupt("inode %d is the file system's own", number)
	}
	var err error
	if place.Inode, err = w.v.usedInode(number); err != nil {
		return place, err
	}
	_, fileType, err := kindOf(&place.Inode)
	if named := next.entry.fileType; err == nil && named != 0 && named != fileType {
		err = corrupt("inode %d has the type %d, its name the type %d", number, fileType, named)
	}
	return place, err
}

// push reads the names of a directory, to be visited next, the first of them first.
func (w *walk) push(dir Place, depth int) error {
	if w.read[dir.Inode.Number] {
		return corrupt("the directory with inode %d has a second name", dir.Inode.Number)
	}
	w.read[dir.Inode.Number] = true
	d, err := w.v.readDirectory(&dir.Inode)
	if err != nil {
		return err
	}
	if d.parent != dir.parent {
		return corrupt("the directory with inode %d has inode %d as its parent, not %d", dir.Inode.Number, d.parent, dir.parent)
	}
	if err := w.claim(d); err != nil {
		return err
	}
	slices.SortFunc(d.entries, func(a, b dirEntry) int { return strings.Compare(b.name, a.name) })
	prefix := strings.TrimSuffix(dir.Path, "/") + "/"
	w.todo = slices.Grow(w.todo, len(d.entries))
	for i, e := range d.entries {
		if i > 0 && d.entries[i-1].name == e.name {
			return corrupt("the name %q is there twice", e.name)
		}
		w.todo = append(w.todo, waiting{dir: prefix, entry: e, parent: dir.Inode.Number, depth: depth - 1})
	}
	return nil
}

// claim notes the blocks of a directory. If directories shared them, a small image could have any number of names.
func (w *walk) claim(d *directory) error {
	if d.in.has(FlagInlineData) {
		return nil
	}
	for logical := range uint64(d.in.Size / w.v.super.BlockSize) {
		block, _ := d.blocks.find(logical) // it was read: it is there
		if owner, taken := w.blocks[block]; taken {
			return corrupt("block %d belongs to inode %d and to inode %d", block, owner, d.in.Number)
		}
		w.blocks[block] = d.in.Number
	}
	return nil
}

// Before says whether Walk comes to one path before the other: a directory before what is in it, and that before the
// directory's next neighbour.
func Before(a, b string) bool {
	for i := range min(len(a), len(b)) {
		if a[i] == b[i] {
			continue
		}
		return a[i] == '/' || b[i] != '/' && a[i] < b[i] // a slash ends a name, and no byte of a name comes before the end
	}
	return len(a) < len(b)
}
