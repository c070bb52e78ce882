package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What can be wrong with a destination.
var (
	errOverDirectory = errors.New("there is a directory, which a file does not replace")
	errOverFile      = errors.New("there is something that is no directory, which a directory does not replace")
	errNoDirectory   = errors.New("there is no such directory")
	errNotDirectory  = unix.ENOTDIR
	errSpecial       = errors.New("neither a file nor a directory")
	errLoop          = errors.New("too many symlinks")
)

// isConflict reports whether err is one that another name avoids.
func isConflict(err error) bool {
	return errors.Is(err, errOverDirectory) || errors.Is(err, errOverFile) || errors.Is(err, errNotDirectory) ||
		errors.Is(err, errSpecial)
}

// cargo is what the place of a copy depends on.
type cargo struct {
	Directory bool   `json:"directory,omitempty"`
	Base      []byte `json:"base,omitempty"`     // the name that it gets in a directory
	Contents  bool   `json:"contents,omitempty"` // the directory's contents, not the directory itself: SRC/.
	Into      bool   `json:"into,omitempty"`     // the destination has to be a directory that exists
}

// place is where a copy goes.
type place struct {
	dir  string // exists
	name string // what the top becomes there; "" if dir itself is the top
}

// path is the place of the top.
func (p place) path() string { return filepath.Join(p.dir, p.name) }

// resolve finds the place for a copy by the rules of docker cp (docs.docker.com/reference/cli/docker/container/cp).
func resolve(dest string, c cargo) (place, error) {
	p, err := resolvePlace(dest, c)
	if err != nil {
		return place{}, err
	}
	if p.name == "." || p.name == ".." || strings.ContainsAny(p.name, "/\x00") {
		return place{}, fmt.Errorf("%q is no name for a file: %w", p.name, fs.ErrInvalid)
	}
	return p, nil
}

func resolvePlace(dest string, c cargo) (place, error) {
	path, info, err := follow(dest)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return place{}, bare(err)
	case missing && (c.Into || !c.Directory && wantsDirectory(dest)):
		return place{}, errNoDirectory
	case missing:
		return parentOf(path)
	case info.IsDir() && c.Contents:
		return place{dir: path}, nil
	case info.IsDir():
		return place{path, string(c.Base)}, nil
	case c.Into:
		return place{}, errNotDirectory
	case c.Directory:
		return place{}, errOverFile
	case !info.Mode().IsRegular():
		return place{}, errSpecial
	}
	return parentOf(path)
}

// parentOf returns the place of a name in a directory, which has to exist.
func parentOf(path string) (place, error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return place{}, fmt.Errorf("looking for its directory %q: %w", dir, errNoDirectory)
	case err != nil:
		return place{}, bare(err)
	case !info.IsDir():
		return place{}, errNotDirectory
	}
	return place{dir, name}, nil
}

// wantsDirectory reports whether a path says by its end that it is a directory's.
func wantsDirectory(path string) bool {
	return strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.") || path == "."
}

// maxSymlinks is how many symlinks are followed for one name, as the kernel has it (path_resolution(7)).
const maxSymlinks = 40

// follow returns what a path stands for once its symlinks are followed. What does not exist is returned with its error:
// a symlink that leads nowhere may lead to the file that is to be made.
func follow(path string) (string, os.FileInfo, error) {
	for range maxSymlinks {
		info, err := os.Stat(path)
		if err == nil {
			real, err := filepath.EvalSymlinks(path)
			return real, info, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return path, nil, err
		}
		path = trimEnd(path)
		target, linkErr := os.Readlink(path)
		if linkErr != nil {
			return path, nil, err
		}
		if !filepath.IsAbs(target) {
			dir, _ := filepath.Split(path) // not Join, which would take "link/.." for nothing
			target = dir + target
		}
		path = target
	}
	return path, nil, errLoop
}

// trimEnd takes slashes and dots off a path that say that it is a directory's.
func trimEnd(path string) string {
	for path != "/" {
		short := strings.TrimSuffix(strings.TrimSuffix(path, "/."), "/")
		if short == path || short == "" {
			break
		}
		path = short
	}
	return path
}

// cargoOf says what is copied when a user names src, an absolute path.
func cargoOf(src string, directory bool) cargo {
	base := filepath.Base(filepath.Clean(src))
	contents := directory && (filepath.Base(src) == "." || base == "/")
	return cargo{Directory: directory, Base: []byte(base), Contents: contents}
}
