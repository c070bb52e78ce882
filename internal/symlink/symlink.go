// Package symlink finds the file that a symbolic link is for, before that file is replaced by a rename, which would replace
// the link.
package symlink

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// maxLinks is how many symbolic links in a row are followed (path_resolution(7)).
const maxLinks = 40

// Target returns what a path leads to, which need not be there yet: the path itself where it is no link. A circle of links is
// a syscall.ELOOP.
func Target(path string) (string, error) {
	at := path
	for range maxLinks {
		dir, name := filepath.Split(at)
		if real, err := filepath.EvalSymlinks(dir); err == nil { // before a ".." means what is above dir
			dir = real
		}
		at = filepath.Join(dir, name)
		to, err := os.Readlink(at)
		if err != nil {
			return at, nil // no link, or nothing; what else is wrong shows when it is read
		}
		if !filepath.IsAbs(to) {
			to = dir + "/" + to // not Join, which would take "link/.." for nothing
		}
		at = to
	}
	return "", fmt.Errorf("following %q: %w", path, syscall.ELOOP)
}
