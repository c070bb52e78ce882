package files

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// userNamespace is of the extended attributes that say nothing about rights (xattr(7)).
const userNamespace = "user."

// xattrLimit is the largest list of names, and the largest value, in bytes (XATTR_LIST_MAX and XATTR_SIZE_MAX in
// linux/limits.h).
const xattrLimit = 64 << 10

// attributes reads extended attributes. Its zero value is ready; it keeps the buffer.
type attributes struct {
	names, value []byte
}

// ofFile returns the attributes of an open file: all that can be seen, or only users'.
func (a *attributes) ofFile(fd int, all bool) ([]Xattr, error) {
	return a.read(all,
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// ofName returns the attributes of a file that cannot be opened: a symlink, FIFO or device.
func (a *attributes) ofName(dir int, file string, all bool) ([]Xattr, error) {
	if !all {
		return nil, nil // users' attributes are for regular files and directories alone
	}
	where := pathIn(dir, file)
	return a.read(all,
		func(b []byte) (int, error) { return unix.Llistxattr(where, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(where, name, b) })
}

// pathIn returns a path of a file in an open directory, for the calls that take no directory.
func pathIn(dir int, file string) string {
	if dir == unix.AT_FDCWD {
		return file
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir, file)
}

func (a *attributes) read(
	all bool, list func([]byte) (int, error), get func(string, []byte) (int, error),
) ([]Xattr, error) {
	if a.names == nil {
		a.names, a.value = make([]byte, xattrLimit), make([]byte, xattrLimit)
	}
	n, err := list(a.names)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing its extended attributes: %w", err)
	}
	var found []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(a.names[:n]), "\x00"), "\x00") {
		if !all && !strings.HasPrefix(name, userNamespace) {
			continue
		}
		n, err := get(name, a.value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue // gone meanwhile, or listed by a file system that does not keep it
		}
		if err != nil {
			return nil, fmt.Errorf("reading its extended attribute %q: %w", name, err)
		}
		found = append(found, Xattr{name, string(a.value[:n])})
	}
	slices.SortFunc(found, func(x, y Xattr) int { return strings.Compare(x.Name, y.Name) })
	return found, nil
}
