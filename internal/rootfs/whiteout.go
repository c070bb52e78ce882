package rootfs

import (
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/layer"
)

// Names of the image specification, layer.md, "Whiteouts". They come from AUFS, which keeps files of its own under
// further names with the second prefix (.wh..wh.aufs, .wh..wh.plnk, .wh..wh.orph).
const (
	whiteoutPrefix = ".wh."
	aufsPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// markerKind is what an entry's name makes of the entry.
type markerKind uint8

const (
	noMarker markerKind = iota // an ordinary entry
	ignored                    // a file of AUFS, or one inside a whiteout
	whiteout                   // removes one name of the lower layers
	opaque                     // removes what a directory has from the lower layers
)

// marker says what the entry at names is, and which name a whiteout removes. The entry's type does not matter.
func marker(names []string) (kind markerKind, name string) {
	if len(names) == 0 {
		return noMarker, ""
	}
	for _, parent := range names[:len(names)-1] {
		if strings.HasPrefix(parent, whiteoutPrefix) {
			return ignored, ""
		}
	}
	base := names[len(names)-1]
	switch {
	case base == opaqueName:
		return opaque, ""
	case strings.HasPrefix(base, aufsPrefix):
		return ignored, ""
	case strings.HasPrefix(base, whiteoutPrefix):
		return whiteout, base[len(whiteoutPrefix):]
	}
	return noMarker, ""
}

// doomed is what a whiteout removes: one name of a directory, or with an empty name everything in it.
type doomed struct {
	dir  *Node
	name string
}

// applyWhiteouts removes from the lower layers what the layer's whiteouts say. All of them are looked up before any
// acts, so their order means nothing.
func (m *merge) applyWhiteouts() error {
	var all []doomed
	for e := range m.layer.Entries.All() {
		if !strings.Contains(e.Name, whiteoutPrefix) {
			continue
		}
		if err := m.ctx.Err(); err != nil {
			return err
		}
		d, err := m.findDoomed(e)
		if err != nil {
			return fmt.Errorf("applying whiteout %q: %w", e.Name, err)
		}
		if d.dir != nil {
			all = append(all, d)
		}
	}
	for _, d := range all {
		d.remove()
	}
	return nil
}

func (d doomed) remove() {
	if d.name != "" {
		d.dir.remove(d.name)
		return
	}
	for name := range d.dir.Children {
		d.dir.remove(name)
	}
}

// findDoomed returns what e removes; the directory is nil if e is no whiteout or acts on nothing.
func (m *merge) findDoomed(e *layer.Entry) (doomed, error) {
	names := split(e.Name)
	kind, name := marker(names)
	if kind != whiteout && kind != opaque {
		return doomed{}, nil
	}
	if kind == whiteout && (name == "" || name == "." || name == "..") {
		return doomed{}, errWhiteoutName
	}
	dir, err := m.lowerDir(names[:len(names)-1])
	return doomed{dir, name}, err
}

// lowerDir returns the directory that the lower layers have at names, or nil. It follows symlinks, except one that
// this layer replaces or removes: what the layer says below that name is not about the link's target.
func (m *merge) lowerDir(names []string) (*Node, error) {
	w := &trail{root: m.tree.Root}
	for i, name := range names {
		child := w.end().child(name)
		if child != nil && child.Kind == Symlink && m.replaces(names[:i+1]) {
			return nil, nil
		}
		if err := w.follow(name); err != nil {
			return nil, err
		}
	}
	if end := w.end(); end != nil && end.Kind == Directory {
		return end, nil
	}
	return nil, nil
}

// replaces reports whether the layer itself removes what is at names, or has something else than a symlink there.
func (m *merge) replaces(names []string) bool {
	if m.replaced == nil {
		m.replaced, m.cleared = make(map[string]bool), make(map[string]bool)
		for e := range m.layer.Entries.All() {
			m.noteReplaced(e)
		}
	}
	for i := range names {
		if m.cleared[strings.Join(names[:i], "/")] {
			return true
		}
	}
	return m.replaced[strings.Join(names, "/")]
}

func (m *merge) noteReplaced(e *layer.Entry) {
	names := split(e.Name)
	switch kind, name := marker(names); kind {
	case opaque:
		m.cleared[strings.Join(names[:len(names)-1], "/")] = true
	case whiteout:
		names[len(names)-1] = name
		path := strings.Join(names, "/")
		m.replaced[path], m.cleared[path] = true, true
	case noMarker:
		path := strings.Join(names, "/")
		m.replaced[path] = m.replaced[path] || e.Type != layer.Symlink
		m.cleared[path] = m.cleared[path] || e.Type != layer.Symlink && e.Type != layer.Directory
	}
}
