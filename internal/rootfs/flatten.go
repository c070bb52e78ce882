package rootfs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

var (
	errRootType     = errors.New("the root can only be a directory")
	errEntryType    = errors.New("the entry has no valid type")
	errTargetEmpty  = errors.New("a symlink has no target")
	errTargetLong   = fmt.Errorf("a symlink's target is longer than %d bytes", maxTarget)
	errTargetNUL    = errors.New("a symlink's target has a NUL byte")
	errWhiteoutName = errors.New("a whiteout names nothing that can be removed")
	errLeftOut      = fmt.Errorf("more than %d directories have names in them and no entry", maxLeftOut)
)

// maxLeftOut bounds the directories of an image that no entry is for. A path has one in two bytes, which take some hundred
// bytes of memory each: a layer of a few KiB, compressed, would take all that there is.
const maxLeftOut = 1 << 20

// Flatten merges layers, the lowest first, by the rules of the OCI image specification (layer.md); docs/layers.md has
// them with what happens where the specification is silent. The tree's files read from the layers' blobs, which must
// stay open as long as the tree is read, and its nodes share the entries' extents and attributes. No path of a layer
// ever reaches the host's file system. The layers' entries are used up. A layer that cannot be merged is a
// fault.Unsupported that names the layer and the path. Symlinks can make the path of each entry one of ten thousands of
// names: it ends when ctx does.
func Flatten(ctx context.Context, layers []*layer.Layer) (*Tree, error) {
	t := &Tree{Root: newDirectory()}
	leftOut := 0
	for _, l := range layers {
		m := &merge{ctx: ctx, tree: t, layer: l, leftOut: &leftOut, deferred: make(map[*Node]*deferredLink)}
		if err := m.apply(); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			err = fmt.Errorf("merging layer %q: %w", l.DiffID, err)
			return nil, fault.New(fault.Unsupported, err, "the image is malformed: rebuild it, or ask who publishes it")
		}
	}
	return t, nil
}

// merge is the application of one layer to the tree of the layers below it.
type merge struct {
	ctx   context.Context
	tree  *Tree
	layer *layer.Layer
	// leftOut counts the directories, of all layers, that were made for what is in them.
	leftOut *int

	replaced map[string]bool         // see replaces; nil until it is needed
	cleared  map[string]bool         // the paths below which nothing of the lower layers stays
	deferred map[*Node]*deferredLink // hard links to what comes later, by the placeholder that stands for each
	order    []*Node                 // the placeholders in the order of their entries
}

func (m *merge) apply() error {
	if err := m.applyWhiteouts(); err != nil {
		return err
	}
	for e := range m.layer.Entries.Drain() {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		names := split(e.Name)
		if kind, _ := marker(names); kind != noMarker {
			continue
		}
		if err := m.applyEntry(names, e); err != nil {
			return fmt.Errorf("applying entry %q: %w", e.Name, err)
		}
	}
	return m.settleLinks()
}

// applyEntry puts one entry, which is no whiteout, at names.
func (m *merge) applyEntry(names []string, e *layer.Entry) error {
	if err := checkNames(names); err != nil {
		return err
	}
	if len(names) == 0 {
		return m.applyRoot(e)
	}
	dir, err := m.parent(names[:len(names)-1])
	if err != nil {
		return err
	}
	name := names[len(names)-1]
	if e.Type == layer.HardLink {
		return m.applyHardLink(dir, name, e)
	}
	node, err := m.newNode(e)
	if err != nil {
		return err
	}
	if old := dir.child(name); old != nil && old.Kind == Directory && node.Kind == Directory {
		setAttributes(old, e)
		return nil
	}
	dir.put(name, node)
	return nil
}

func (m *merge) applyRoot(e *layer.Entry) error {
	if e.Type != layer.Directory {
		return errRootType
	}
	setAttributes(m.tree.Root, e)
	return nil
}

// parent returns the directory for an entry below names. A symlink is followed if it leads to a directory, or to a
// place where one can be made. A name that is anything else becomes a directory: for who made the layer, it was one.
func (m *merge) parent(names []string) (*Node, error) {
	w := &trail{root: m.tree.Root}
	for _, name := range names {
		child := w.end().child(name)
		if child != nil && child.Kind == Symlink {
			there := w.fork()
			if err := there.follow(name); err != nil {
				return nil, err
			}
			missing := there.missing()
			if _, err := there.makeDirs(); err == nil {
				if err := m.leaveOut(missing); err != nil {
					return nil, err
				}
				w = there
				continue
			}
		}
		if child == nil || child.Kind != Directory {
			if err := m.leaveOut(1); err != nil {
				return nil, err
			}
			child = newDirectory()
			w.end().put(name, child)
		}
		w.push(name, child)
	}
	return w.end(), nil
}

// leaveOut counts n more directories that are made without an entry.
func (m *merge) leaveOut(n int) error {
	*m.leftOut += n
	if *m.leftOut > maxLeftOut {
		return errLeftOut
	}
	return nil
}

// newNode returns the node that an entry describes, without a name yet.
func (m *merge) newNode(e *layer.Entry) (*Node, error) {
	n := &Node{Kind: kindOf(e.Type)}
	setAttributes(n, e)
	switch n.Kind {
	case Directory, FIFO:
	case Regular:
		n.Size, n.Source, n.Extents = e.Size, m.layer.Blob, e.Extents
		n.Sum, n.HasSum = e.Sum, e.HasSum
	case CharDevice, BlockDevice:
		n.Major, n.Minor = e.Major, e.Minor
	case Symlink:
		n.Mode, n.Target = 0o777, e.Link // Linux has no other mode for a symlink: symlink(7)
		return n, checkTarget(e.Link)
	default:
		return nil, errEntryType
	}
	return n, nil
}

// kindOf returns 0 for the types that are no kind of node.
func kindOf(t layer.Type) Kind {
	switch t {
	case layer.Directory:
		return Directory
	case layer.Regular:
		return Regular
	case layer.Symlink:
		return Symlink
	case layer.CharDevice:
		return CharDevice
	case layer.BlockDevice:
		return BlockDevice
	case layer.FIFO:
		return FIFO
	}
	return 0
}

func setAttributes(n *Node, e *layer.Entry) {
	n.Mode = e.Mode & 0o7777
	n.UID, n.GID = e.UID, e.GID
	n.MTime = e.MTime
	n.Xattrs = e.Xattrs
}

func checkTarget(target string) error {
	switch {
	case target == "":
		return errTargetEmpty
	case len(target) > maxTarget:
		return errTargetLong
	case strings.IndexByte(target, 0) >= 0:
		return errTargetNUL
	}
	return nil
}
