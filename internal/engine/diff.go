package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/rootfs"
)

// The kinds of a Change, by the letters of `docker diff`.
const (
	Added   = "A"
	Deleted = "D"
	Changed = "C"
)

// What a Change of the kind Changed can have changed.
const (
	DiffType    = "type"
	DiffMode    = "mode"
	DiffOwner   = "owner"
	DiffSize    = "size" // of a regular file: its content differs as well
	DiffContent = "content"
	DiffTarget  = "target"
	DiffDevice  = "device"
	DiffXattrs  = "xattrs"
	DiffMTime   = "mtime"
	DiffLinks   = "links" // the names of the inode: hard links have come or gone, or are of another file
)

// Change is a path at which two images differ.
type Change struct {
	Kind    string   `json:"kind"` // A, D or C
	Path    string   `json:"path"`
	RawPath []byte   `json:"raw_path,omitempty"`
	Changed []string `json:"changed,omitempty"` // of C, what of the above differs
	Before  *File    `json:"before,omitempty"`
	After   *File    `json:"after,omitempty"`
}

// Received returns a change as it was before it was sent as JSON.
func (c Change) Received() Change {
	if c.RawPath != nil {
		c.Path = string(c.RawPath)
	}
	for _, file := range []**File{&c.Before, &c.After} {
		if *file != nil {
			received := (*file).Received()
			*file = &received
		}
	}
	return c
}

// DiffOptions say what counts as a difference.
type DiffOptions struct {
	Ignore []string // DiffMode and its like, DiffType excepted: what may differ
	All    bool     // compare banger's own files as well
}

// IgnorableDiffs are what DiffOptions may ignore.
func IgnorableDiffs() []string {
	return []string{DiffMode, DiffOwner, DiffContent, DiffTarget, DiffDevice, DiffXattrs, DiffMTime, DiffLinks}
}

// DiffImages calls visit with each path at which the images that two queries mean differ, in the order of ListFiles.
// Below a directory that only one of them has, every path is a change. What banger has added to an image for its VMs is
// left out, unless options say otherwise: the description of the image that it has in it is always another one. Both
// queries may also be the paths of ext4 files (IsDiskFile). It stops at visit's first error and returns it.
func (e *Engine) DiffImages(ctx context.Context, from, to string, options DiffOptions, visit func(Change) error) error {
	for _, ignored := range options.Ignore {
		if !slices.Contains(IgnorableDiffs(), ignored) {
			err := fmt.Errorf("a difference of %q cannot be ignored", ignored)
			return fault.New(fault.Usage, err, "what can: "+strings.Join(IgnorableDiffs(), ", "))
		}
	}
	d := &differ{ctx: ctx, options: options, visit: visit, links: map[uint32]uint32{}, back: map[uint32]uint32{}, same: map[[2]uint32]bool{}}
	for i, query := range []string{from, to} {
		disk, err := e.openDisk(query)
		if err != nil {
			return err
		}
		defer disk.close()
		d.disks[i] = disk
		if !options.All {
			d.own[i] = disk.ownPaths(ctx)
		}
	}
	return d.run()
}

// ownPaths returns the paths of banger's own files in an image; none in one that banger has added nothing to.
func (d *openedDisk) ownPaths(ctx context.Context) map[string]bool {
	own := map[string]bool{}
	if _, err := d.Resolve(ctx, guest.DescriptionPath(), false); err != nil {
		return own
	}
	for _, path := range guest.OwnPaths() {
		place, err := d.Resolve(ctx, path, false)
		if err != nil {
			continue // what is wrong with the image is found on the way through it
		}
		node, err := d.Node(place.Inode)
		own[place.Path] = err == nil && guest.IsOwnInit(path, node.Target)
	}
	return own
}

// differ compares two disks.
type differ struct {
	ctx     context.Context
	options DiffOptions
	visit   func(Change) error
	disks   [2]*openedDisk
	own     [2]map[string]bool // paths that are left out
	pieces  [2][]byte          // of the files that are compared

	links, back map[uint32]uint32  // inodes with several names: which of the second disk is which of the first, and back
	same        map[[2]uint32]bool // whether two of them have the same content
}

// side is a walk through one of the disks.
type side struct {
	place volume.Place
	more  bool
	next  func() (volume.Place, error, bool)
	stop  func()
}

// run walks through both disks at once, in the same order.
func (d *differ) run() error {
	var sides [2]side
	for i := range sides {
		root, err := d.disks[i].resolve(d.ctx, "/", true)
		if err != nil {
			return err
		}
		s := &sides[i]
		s.next, s.stop = iter.Pull2(d.disks[i].Walk(root, -1))
		defer s.stop()
		if err := d.advance(i, s); err != nil {
			return err
		}
	}
	for sides[0].more || sides[1].more {
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		if err := d.step(&sides); err != nil {
			return err
		}
	}
	return nil
}

// step compares what comes first in either disk, and goes on behind it.
func (d *differ) step(sides *[2]side) error {
	a, b := &sides[0], &sides[1]
	switch {
	case !b.more || a.more && volume.Before(a.place.Path, b.place.Path):
		return d.alone(Deleted, 0, a)
	case !a.more || volume.Before(b.place.Path, a.place.Path):
		return d.alone(Added, 1, b)
	}
	if err := d.both(a.place, b.place); err != nil {
		return err
	}
	if err := d.advance(0, a); err != nil {
		return err
	}
	return d.advance(1, b)
}

// advance goes on to the next place of a disk that is not left out.
func (d *differ) advance(i int, s *side) error {
	for {
		var err error
		if s.place, err, s.more = s.next(); !s.more {
			return nil
		}
		if err != nil {
			return d.disks[i].in(err)
		}
		if !d.own[i][s.place.Path] {
			return nil
		}
	}
}

// alone reports a path that one disk has.
func (d *differ) alone(kind string, i int, s *side) error {
	node, err := d.disks[i].node(s.place)
	if err != nil {
		return err
	}
	file := fileOf(s.place, node)
	c := Change{Kind: kind, Path: file.Path, RawPath: file.RawPath, Before: &file}
	if kind == Added {
		c.Before, c.After = nil, &file
	}
	if err := d.visit(c); err != nil {
		return err
	}
	return d.advance(i, s)
}

// both compares what is at one path in both disks.
func (d *differ) both(a, b volume.Place) error {
	before, err := d.disks[0].node(a)
	if err != nil {
		return err
	}
	after, err := d.disks[1].node(b)
	if err != nil {
		return err
	}
	changed, err := d.differences(a, b, before, after)
	if err != nil || len(changed) == 0 {
		return err
	}
	first, second := fileOf(a, before), fileOf(b, after)
	return d.visit(Change{
		Kind: Changed, Path: first.Path, RawPath: first.RawPath, Changed: changed, Before: &first, After: &second,
	})
}

// differences returns what differs and is not ignored.
func (d *differ) differences(a, b volume.Place, before, after *rootfs.Node) ([]string, error) {
	var changed []string
	note := func(what string, differs bool) {
		if differs && !slices.Contains(d.options.Ignore, what) {
			changed = append(changed, what)
		}
	}
	note(DiffType, before.Kind != after.Kind)
	note(DiffMode, before.Mode != after.Mode)
	note(DiffOwner, before.UID != after.UID || before.GID != after.GID)
	if before.Kind == rootfs.Regular && after.Kind == rootfs.Regular && !slices.Contains(d.options.Ignore, DiffContent) {
		same, err := d.sameContent(a, b, before, after)
		if err != nil {
			return nil, err
		}
		note(DiffSize, before.Size != after.Size)
		note(DiffContent, !same)
	}
	note(DiffTarget, before.Kind == after.Kind && before.Target != after.Target)
	note(DiffDevice, before.Kind == after.Kind && (before.Major != after.Major || before.Minor != after.Minor))
	note(DiffXattrs, !slices.Equal(before.Xattrs, after.Xattrs))
	note(DiffMTime, !before.MTime.Equal(after.MTime))
	note(DiffLinks, !d.sameLinks(a, b, before, after))
	return changed, nil
}

// sameLinks says whether two files have the same names, as far as they have been seen.
func (d *differ) sameLinks(a, b volume.Place, before, after *rootfs.Node) bool {
	if before.Kind == rootfs.Directory || before.Kind != after.Kind {
		return true // a directory's links are its subdirectories
	}
	if before.Links != after.Links {
		return false
	}
	if before.Links == 1 {
		return true
	}
	there, known := d.links[a.Inode.Number]
	here, knownToo := d.back[b.Inode.Number]
	if !known && !knownToo {
		d.links[a.Inode.Number], d.back[b.Inode.Number] = b.Inode.Number, a.Inode.Number
		return true
	}
	return known && knownToo && there == b.Inode.Number && here == a.Inode.Number
}

// sameContent says whether two regular files have the same bytes. Those with several names are compared once.
func (d *differ) sameContent(a, b volume.Place, before, after *rootfs.Node) (bool, error) {
	if before.Size != after.Size {
		return false, nil
	}
	if before.Links == 1 || after.Links == 1 {
		return d.sameBytes(a.Path, before, after)
	}
	pair := [2]uint32{a.Inode.Number, b.Inode.Number}
	same, known := d.same[pair]
	if known {
		return same, nil
	}
	same, err := d.sameBytes(a.Path, before, after)
	d.same[pair] = same
	return same, err
}

// sameBytes compares two files of one size, up to the first piece that differs. What is a hole in both is passed over.
func (d *differ) sameBytes(path string, before, after *rootfs.Node) (bool, error) {
	contents := [2]*io.SectionReader{before.Open(), after.Open()}
	for offset := int64(0); ; {
		offset = min(nextData(before, offset), nextData(after, offset))
		if offset >= before.Size {
			return true, nil
		}
		if d.ctx.Err() != nil {
			return false, context.Cause(d.ctx)
		}
		n := min(contentPiece, before.Size-offset)
		for i := range contents {
			if d.pieces[i] == nil {
				d.pieces[i] = make([]byte, contentPiece)
			}
			if _, err := contents[i].ReadAt(d.pieces[i][:n], offset); err != nil {
				return false, d.disks[i].unread(path, err)
			}
		}
		if !bytes.Equal(d.pieces[0][:n], d.pieces[1][:n]) {
			return false, nil
		}
		offset += n
	}
}

// nextData returns the first offset from one on at which a file has data, or its size.
func nextData(n *rootfs.Node, offset int64) int64 {
	i := sort.Search(len(n.Extents), func(i int) bool { return n.Extents[i].Logical+n.Extents[i].Length > offset })
	if i == len(n.Extents) {
		return n.Size
	}
	return max(offset, n.Extents[i].Logical)
}
