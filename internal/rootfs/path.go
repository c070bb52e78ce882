package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

const (
	// maxName is the longest name of a directory entry in bytes (NAME_MAX in linux/limits.h, EXT4_NAME_LEN).
	maxName = 255
	// maxTarget is the longest target of a symlink in bytes: PATH_MAX (linux/limits.h) counts the closing NUL.
	maxTarget = 4095
	// maxHops is how many symlinks one path may go through (MAXSYMLINKS in linux/namei.h).
	maxHops = 40
)

var (
	errLoop     = errors.New("too many levels of symbolic links")
	errNotDir   = errors.New("a parent is not a directory")
	errNameLong = fmt.Errorf("a name is longer than %d bytes", maxName)
	errNameNUL  = errors.New("a name has a NUL byte")
)

// split returns the components of a path that is taken from the root, cleaned by the text alone, as extractors clean
// the names in a tar: empty components and "." vanish, ".." takes the component before it away and stays at the root.
func split(path string) []string {
	var names []string
	for rest, more := path, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		switch name {
		case "", ".":
		case "..":
			names = names[:max(len(names)-1, 0)]
		default:
			names = append(names, name)
		}
	}
	return names
}

// checkNames refuses names that no directory can have.
func checkNames(names []string) error {
	for _, name := range names {
		if len(name) > maxName {
			return errNameLong
		}
		if strings.IndexByte(name, 0) >= 0 {
			return errNameNUL
		}
	}
	return nil
}

// trail is a way through a tree from its root, on which symlinks are followed inside the tree as they are after a
// chroot(2). It may lead on where nothing exists.
type trail struct {
	root   *Node
	steps  []step // below the root, without symlinks
	hops   int    // symlinks followed so far
	missed bool   // the way went through something that is missing or no directory, even if it came back by ".."
}

// step is one name on a trail. The node is nil where the tree has none.
type step struct {
	name string
	node *Node
}

// end returns the node that the trail has reached, or nil.
func (w *trail) end() *Node {
	if len(w.steps) == 0 {
		return w.root
	}
	return w.steps[len(w.steps)-1].node
}

// path returns the trail as an absolute path.
func (w *trail) path() string {
	var b strings.Builder
	for _, s := range w.steps {
		b.WriteByte('/')
		b.WriteString(s.name)
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// fork returns a copy that can go another way.
func (w *trail) fork() *trail {
	c := *w
	c.steps = append([]step(nil), w.steps...)
	return &c
}

// follow goes on along path from where the trail ends. The only error is errLoop.
func (w *trail) follow(path string) error {
	for todo := []string{path}; len(todo) > 0; {
		last := len(todo) - 1
		name, rest, more := strings.Cut(todo[last], "/")
		if todo[last] = rest; !more {
			todo = todo[:last]
		}
		target := w.enter(name)
		if target == "" {
			continue
		}
		if w.hops++; w.hops > maxHops {
			return errLoop
		}
		todo = append(todo, target)
	}
	return nil
}

// enter goes one component further. Where that is a symlink, it returns the target, to be followed from the trail's
// new end.
func (w *trail) enter(name string) (target string) {
	switch name {
	case "", ".":
		return ""
	case "..":
		w.leave()
		return ""
	}
	node := w.end().child(name)
	if node != nil && node.Kind == Symlink {
		if strings.HasPrefix(node.Target, "/") {
			w.steps = w.steps[:0]
		}
		return node.Target
	}
	w.push(name, node)
	return ""
}

func (w *trail) push(name string, node *Node) {
	w.steps = append(w.steps, step{name, node})
	w.missed = w.missed || node == nil
}

// leave goes up one directory; the root's parent is the root.
func (w *trail) leave() {
	if end := w.end(); end == nil || end.Kind != Directory {
		w.missed = true
	}
	w.steps = w.steps[:max(len(w.steps)-1, 0)]
}

// missing returns how many directories makeDirs would make.
func (w *trail) missing() (n int) {
	for _, s := range w.steps {
		if s.node == nil {
			n++
		}
	}
	return n
}

// makeDirs makes a directory of each step that has no node, and returns the last directory. It fails, and makes
// nothing, if one of the others is no directory or if a name is too long.
func (w *trail) makeDirs() (*Node, error) {
	for _, s := range w.steps {
		if s.node != nil && s.node.Kind != Directory {
			return nil, errNotDir
		}
		if len(s.name) > maxName {
			return nil, errNameLong
		}
	}
	at := w.root
	for i := range w.steps {
		s := &w.steps[i]
		if s.node == nil {
			s.node = newDirectory()
			at.put(s.name, s.node)
		}
		at = s.node
	}
	return at, nil
}

// Lookup returns the node at path, which is taken from the root. It follows symlinks, absolute ones too, inside the
// tree. Where nothing is, the error wraps fs.ErrNotExist; a path through more than 40 symlinks is another error.
func (t *Tree) Lookup(path string) (*Node, error) {
	w := &trail{root: t.Root}
	if err := w.follow(path); err != nil {
		return nil, fmt.Errorf("looking up %q: %w", path, err)
	}
	if w.missed {
		return nil, fmt.Errorf("looking up %q: %w", path, fs.ErrNotExist)
	}
	return w.end(), nil
}

// Resolve returns the path without symlinks to which path leads: absolute, cleaned, inside the tree. What does not
// exist is kept as it is written, so that a file can be made at the result. The only error is a loop of symlinks.
func (t *Tree) Resolve(path string) (string, error) {
	w := &trail{root: t.Root}
	if err := w.follow(path); err != nil {
		return "", fmt.Errorf("resolving %q: %w", path, err)
	}
	return w.path(), nil
}

// Add puts n at path, whose parents are resolved like those of Lookup and made (0755, root) where they are missing.
// It never replaces anything: the error wraps fs.ErrExist if the path has a node already, a dangling symlink included.
// n belongs to the tree from then on. Add counts the new name in n.Links: a new node comes with Links 0, and adding a
// node that is no directory once more makes a hard link.
func (t *Tree) Add(path string, n *Node) error {
	return t.place(path, n, func(*Node) bool { return false })
}

// Replace is Add, except that a node which is at path already loses that name to n. A directory neither gives way nor
// takes the place of anything: the error wraps fs.ErrExist.
func (t *Tree) Replace(path string, n *Node) error {
	return t.place(path, n, func(old *Node) bool { return old.Kind != Directory && n.Kind != Directory })
}

// place puts n at path if nothing is there, or what is there givesWay.
func (t *Tree) place(path string, n *Node, givesWay func(old *Node) bool) error {
	names := split(path)
	if err := checkNames(names); err != nil {
		return fmt.Errorf("adding %q: %w", path, err)
	}
	if len(names) == 0 {
		return fmt.Errorf("adding %q: %w", path, fs.ErrExist)
	}
	w := &trail{root: t.Root}
	parents, base := names[:len(names)-1], names[len(names)-1]
	if err := w.follow(strings.Join(parents, "/")); err != nil {
		return fmt.Errorf("adding %q: %w", path, err)
	}
	if old := w.end().child(base); old != nil && !givesWay(old) {
		return fmt.Errorf("adding %q: %w", path, fs.ErrExist)
	}
	dir, err := w.makeDirs()
	if err != nil {
		return fmt.Errorf("adding %q: %w", path, err)
	}
	dir.put(base, n)
	return nil
}
