package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/rootfs"
)

// maxHops is how many symlinks one path may go through (MAXSYMLINKS in linux/namei.h).
const maxHops = 40

// Place is an inode under one of its names.
type Place struct {
	Path  string // absolute and without symlinks; "/" is the root
	Inode Inode

	parent uint32 // the directory that has the name; the root is its own
}

// MissingError says which name of a path is not there, and where. It is an fs.ErrNotExist.
type MissingError struct {
	Dir  Place // the directory that lacks it
	Name string
}

// Error says which path does not exist.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%q does not exist", path.Join(e.Dir.Path, e.Name))
}

// Unwrap returns fs.ErrNotExist.
func (e *MissingError) Unwrap() error { return fs.ErrNotExist }

// Resolve returns what is at a path, which is taken from the root. Symlinks are followed inside the file system, as
// after chroot(2); one at the very end only if follow says so, or if a slash is behind it. In directories with an index
// it reads the blocks that lead to the name, and not the rest.
//
// A name that is not there is a *MissingError; the error wraps syscall.ENOTDIR where the path goes on behind something
// that is no directory, and syscall.ELOOP behind too many symlinks. Symlinks can make any path one of ten thousands of names in
// a large directory: it ends when ctx does.
func (v *Volume) Resolve(ctx context.Context, path string, follow bool) (Place, error) {
	root, err := v.usedInode(rootInode)
	if err != nil {
		return Place{}, fmt.Errorf("looking up %q: %w", path, err)
	}
	r := route{ctx: ctx, v: v, steps: []Place{{Path: "/", Inode: root, parent: rootInode}}}
	if err := r.follow(path, follow); err != nil {
		return Place{}, fmt.Errorf("looking up %q: %w", path, err)
	}
	return r.end(), nil
}

// Names returns the names in a directory, without "." and "..", in no particular order.
func (v *Volume) Names(dir Inode) ([]string, error) {
	if !dir.is(modeDirectory) {
		return nil, fmt.Errorf("inode %d: %w", dir.Number, syscall.ENOTDIR)
	}
	d, err := v.readDirectory(&dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(d.entries))
	for i, e := range d.entries {
		names[i] = e.name
	}
	return names, nil
}

// route is a way through the file system, on which symlinks are followed.
type route struct {
	ctx   context.Context
	v     *Volume
	steps []Place // from the root to where it has led, without symlinks
	hops  int     // symlinks followed so far
}

func (r *route) end() Place { return r.steps[len(r.steps)-1] }

// follow goes on along a path from where the route ends.
func (r *route) follow(path string, last bool) error {
	for todo := []string{path}; len(todo) > 0; {
		if err := context.Cause(r.ctx); err != nil {
			return err
		}
		top := len(todo) - 1
		name, rest, more := strings.Cut(todo[top], "/")
		if todo[top] = rest; !more {
			todo = todo[:top]
		}
		target, err := r.enter(name, last || len(todo) > 0)
		if err != nil {
			return err
		}
		if target == "" {
			continue
		}
		if r.hops++; r.hops > maxHops {
			return syscall.ELOOP
		}
		todo = append(todo, target)
	}
	return nil
}

// enter goes one component further. Where that is a symlink to be followed, it returns the target, to be followed from
// the route's new end.
func (r *route) enter(name string, follow bool) (target string, err error) {
	dir := r.end()
	if !dir.Inode.is(modeDirectory) {
		return "", fmt.Errorf("%q: %w", dir.Path, syscall.ENOTDIR)
	}
	switch name {
	case "", ".":
		return "", nil
	case "..":
		r.steps = r.steps[:max(len(r.steps)-1, 1)]
		return "", nil
	}
	next, err := r.v.childAt(dir, name)
	if err != nil {
		return "", err
	}
	if !follow || !next.Inode.is(modeSymlink) {
		r.steps = append(r.steps, next)
		return "", nil
	}
	link, err := r.v.Node(next.Inode)
	if err != nil {
		return "", fmt.Errorf("%q: %w", next.Path, err)
	}
	if strings.HasPrefix(link.Target, "/") {
		r.steps = r.steps[:1]
	}
	return link.Target, nil
}

// childAt returns what a directory has under a name.
func (v *Volume) childAt(dir Place, name string) (Place, error) {
	place := Place{Path: path.Join(dir.Path, name), parent: dir.Inode.Number}
	number, err := v.childNumber(&dir.Inode, name)
	if err == nil && number == 0 {
		return Place{}, &MissingError{Dir: dir, Name: name}
	}
	if err == nil && v.isOwn(number) {
		err = corrupt("inode %d is the file system's own", number)
	}
	if err == nil {
		place.Inode, err = v.usedInode(number)
	}
	if err != nil {
		return Place{}, fmt.Errorf("%q: %w", place.Path, err)
	}
	return place, nil
}

// isOwn says whether an inode is one that no name can lead to: the file system's own, or the root.
func (v *Volume) isOwn(inode uint32) bool { return inode == rootInode || v.super.isSpecial(inode) }

// childNumber returns the inode that a directory has under a name, or 0.
func (v *Volume) childNumber(dir *Inode, name string) (uint32, error) {
	if v.indexed(dir) && !dir.has(FlagInlineData) {
		number, err := v.lookupHashed(dir.Number, name)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return number, err
	}
	d, err := v.readDirectory(dir)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(d.entries, func(e dirEntry) bool { return e.name == name })
	if i < 0 {
		return 0, nil
	}
	return d.entries[i].inode, nil
}

// isDirectory says whether a place is a directory.
func (p *Place) isDirectory() bool { return p.Inode.is(modeDirectory) }

// Kind returns what kind of file it is; 0 is a socket.
func (p *Place) Kind() rootfs.Kind {
	kind, _, _ := kindOf(&p.Inode)
	return kind
}
