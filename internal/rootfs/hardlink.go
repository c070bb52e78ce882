package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/banger-vm/banger/internal/layer"
)

var (
	errLinkDir  = errors.New("a directory cannot have a second name")
	errLinkSelf = errors.New("the hard links only lead to each other")
)

// deferredLink is a hard link whose target was not there when its entry came. A placeholder, a Node without a kind,
// has its name until the layer's end: what comes later can replace it, like any other node.
type deferredLink struct {
	dir   *Node
	name  string
	entry *layer.Entry
	seen  bool // settling it has begun
}

// applyHardLink gives the link's target, as it is now, another name. If there is no target now, it may come later in
// the layer.
func (m *merge) applyHardLink(dir *Node, name string, e *layer.Entry) error {
	target, err := m.linkTarget(e)
	if err != nil {
		return err
	}
	if target == nil || target.Kind == 0 {
		placeholder := &Node{}
		dir.put(name, placeholder)
		m.deferred[placeholder] = &deferredLink{dir: dir, name: name, entry: e}
		m.order = append(m.order, placeholder)
		return nil
	}
	dir.put(name, target)
	return nil
}

// linkTarget returns the node that a hard link leads to: nil if there is none, a placeholder if that is a hard link
// which itself waits. Symlinks are followed in the target's parents only: a symlink can have two names.
func (m *merge) linkTarget(e *layer.Entry) (*Node, error) {
	names := split(e.Link)
	if len(names) == 0 {
		return nil, linkError(e, errLinkDir)
	}
	w := &trail{root: m.tree.Root}
	if err := w.follow(strings.Join(names[:len(names)-1], "/")); err != nil {
		return nil, linkError(e, err)
	}
	target := w.end().child(names[len(names)-1])
	if target != nil && target.Kind == Directory {
		return nil, linkError(e, errLinkDir)
	}
	return target, nil
}

func linkError(e *layer.Entry, err error) error {
	return fmt.Errorf("linking %q to %q: %w", e.Name, e.Link, err)
}

// settleLinks gives the hard links that waited their targets, at the end of the layer.
func (m *merge) settleLinks() error {
	for _, placeholder := range m.order {
		if err := m.settleChain(placeholder); err != nil {
			return err
		}
	}
	return nil
}

// settleChain settles a placeholder and those that it leads to. One that has lost its name since needs nothing.
func (m *merge) settleChain(at *Node) error {
	var chain []*deferredLink
	for at.Kind == 0 && at.Links > 0 {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		link := m.deferred[at]
		if link.seen {
			return linkError(link.entry, errLinkSelf)
		}
		link.seen = true
		chain = append(chain, link)
		target, err := m.linkTarget(link.entry)
		if err != nil {
			return err
		}
		if target == nil {
			return linkError(link.entry, fs.ErrNotExist)
		}
		at = target
	}
	for _, link := range chain {
		link.dir.put(link.name, at)
	}
	return nil
}
