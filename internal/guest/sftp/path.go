package sftp

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

func stat(m *message, look func(string) (fs.FileInfo, error)) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	info, err := look(path)
	if err != nil {
		return answer{}, err
	}
	return answer{typeAttrs, appendAttributes(nil, info)}, nil
}

func setstat(m *message) (answer, error) {
	path, attr := m.string(), m.attributes()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, attr.apply(pathTarget(path))
}

func remove(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, syscall.Unlink(path)
}

func makeDirectory(m *message) (answer, error) {
	path, attr := m.string(), m.attributes()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, syscall.Mkdir(path, attr.modeOr(0o777))
}

func removeDirectory(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, syscall.Rmdir(path)
}

// rename gives a file another name, unless that is taken (draft-ietf-secsh-filexfer-02, section 6.5).
func rename(m *message) (answer, error) {
	from, to := m.string(), m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return answer{}, err
	}
	// The file system cannot do it in one step (renameat2(2)).
	if _, err := os.Lstat(to); err == nil {
		return answer{}, syscall.EEXIST
	}
	return answer{}, syscall.Rename(from, to)
}

func readlink(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	to, err := os.Readlink(path)
	if err != nil {
		return answer{}, err
	}
	return oneName(to), nil
}

// symlink takes the link's content first, as OpenSSH and its clients do, and not as the draft says (PROTOCOL, 4.1).
func symlink(m *message) (answer, error) {
	content, path := m.string(), m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, syscall.Symlink(content, path)
}

func realpath(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return resolved(path)
}

// resolved answers with the absolute path of a file without symbolic links. The last part of it need not be there.
func resolved(path string) (answer, error) {
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return answer{}, err
		}
		path = here + "/" + path // not cleaned: a ".." after a symbolic link means the parent of what it leads to
	}
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		parent, last := filepath.Split(path) // the parent is not cleaned either
		parent, err = filepath.EvalSymlinks(parent)
		real = filepath.Join(parent, last)
	}
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		err = syscall.ELOOP // what EvalSymlinks finds out without the kernel
	}
	if err != nil {
		return answer{}, err
	}
	return oneName(real), nil
}

// oneName is a typeName with one name of which nothing else is known.
func oneName(name string) answer {
	b := binary.BigEndian.AppendUint32(nil, 1)
	return answer{typeName, appendNoAttributes(appendString(appendString(b, name), name))}
}
