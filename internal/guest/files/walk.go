package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// namesAtOnce is how many names of a directory are read at once.
const namesAtOnce = 512

// walker reads a tree and gives its entries to a sink. A directory is open while what is in it is read, so that no name
// is resolved twice and no symlink is followed on the way.
type walker struct {
	to      sink
	archive bool   // send all extended attributes, not only those of users
	where   string // for messages
	path    string // of the top, for messages

	links map[inode]string // the first name of each file that has several
	chunk []byte
	attrs attributes
	notes notes
}

// inode identifies a file.
type inode struct{ dev, ino uint64 }

func newWalker(to sink, archive bool, where string) *walker {
	return &walker{to: to, archive: archive, where: where, links: map[inode]string{}, chunk: make([]byte, chunkSize)}
}

// walk sends what source is. A symlink is sent as one unless its name ends with a slash.
func (w *walker) walk(source string) error {
	w.path = source
	if err := w.visit(unix.AT_FDCWD, source, top, 0); err != nil {
		return err
	}
	return w.to.end(w.notes.all())
}

// failed says what could not be read.
func (w *walker) failed(name string, err error) error {
	return fmt.Errorf("reading %q %s: %w", path.Join(w.path, name), w.where, err)
}

// note adds a note about an entry.
func (w *walker) note(name, what string) {
	w.notes.add("%q %s %s", path.Join(w.path, name), w.where, what)
}

// visit sends one file of an open directory, which lies on the device parent (0: anywhere), and all that is below it.
func (w *walker) visit(dir int, file, name string, parent uint64) error {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(dir, file, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return w.unread(name, err)
	}
	switch kindOf(st.Mode) {
	case 0:
		w.note(name, "is a socket and was left out")
		return nil
	case Directory:
		return w.directory(dir, file, name, parent)
	}
	if first, seen := w.links[inode{st.Dev, st.Ino}]; seen && st.Nlink > 1 {
		return w.to.entry(&Entry{Kind: HardLink, Name: name, Target: first})
	}
	return w.single(dir, file, name, &st)
}

// single sends what is no directory.
func (w *walker) single(dir int, file, name string, st *unix.Stat_t) error {
	if kindOf(st.Mode) == Regular {
		return w.regular(dir, file, name)
	}
	return w.special(dir, file, name, st)
}

// sent remembers under which name a file that has several was sent. st is that of what was sent: the name may have been
// another file's when it was looked at.
func (w *walker) sent(name string, st *unix.Stat_t) {
	if st.Nlink > 1 {
		w.links[inode{st.Dev, st.Ino}] = name
	}
}

// unread is what becomes of a file that cannot be read: one that is gone is left out, any other ends the copy.
func (w *walker) unread(name string, err error) error {
	if errors.Is(err, unix.ENOENT) && name != top {
		w.note(name, "was removed while its directory was copied")
		return nil
	}
	return w.failed(name, err)
}

// entryOf describes a file.
func entryOf(name string, st *unix.Stat_t) *Entry {
	return &Entry{
		Name: name, Kind: kindOf(st.Mode), Mode: uint16(st.Mode & 0o7777),
		UID: st.Uid, GID: st.Gid, MTime: time.Unix(st.Mtim.Unix()),
	}
}

// kindOf returns the kind of a file from its st_mode (inode(7)). A socket has none.
func kindOf(mode uint32) Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return Directory
	case unix.S_IFREG:
		return Regular
	case unix.S_IFLNK:
		return Symlink
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFCHR:
		return CharDevice
	case unix.S_IFBLK:
		return BlockDevice
	}
	return 0
}

// special sends a symlink, FIFO or device.
func (w *walker) special(dir int, file, name string, st *unix.Stat_t) error {
	e := entryOf(name, st)
	switch e.Kind {
	case Symlink:
		target, err := readlinkat(dir, file)
		if err != nil {
			return w.unread(name, err)
		}
		e.Target = target
	case CharDevice, BlockDevice:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	var err error
	if e.Xattrs, err = w.attrs.ofName(dir, file, w.archive); err != nil {
		return w.unread(name, err)
	}
	w.sent(name, st)
	return w.to.entry(e)
}

func readlinkat(dir int, file string) (string, error) {
	// No symlink is longer than a page (PATH_MAX in linux/limits.h).
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, file, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}

// open opens a file of a directory and describes what it has opened.
func open(dir int, file string, flags int) (fd int, st unix.Stat_t, err error) {
	err = retry(func() (err error) {
		fd, err = unix.Openat(dir, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		return err
	})
	if err != nil {
		return -1, st, err
	}
	if err = unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
	}
	return fd, st, err
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR { //nolint:errorlint // a bare errno
			return err
		}
	}
}

// directory sends a directory and what is in it.
func (w *walker) directory(dir int, file, name string, parent uint64) error {
	fd, st, err := open(dir, file, unix.O_DIRECTORY)
	if err != nil {
		return w.unread(name, err)
	}
	opened := os.NewFile(uintptr(fd), name)
	defer func() { _ = opened.Close() }()
	e := entryOf(name, &st)
	if e.Xattrs, err = w.attrs.ofFile(fd, w.archive); err != nil {
		return w.failed(name, err)
	}
	if err := w.to.entry(e); err != nil {
		return err
	}
	if parent != 0 && parent != st.Dev && isVirtual(fd) {
		w.note(name, "is a file system of the kernel, whose contents were left out")
		return nil
	}
	return w.contents(opened, fd, name, st.Dev)
}

// contents sends what is in a directory.
func (w *walker) contents(dir *os.File, fd int, name string, device uint64) error {
	for {
		names, err := dir.Readdirnames(namesAtOnce)
		for _, file := range names {
			if err := w.visit(fd, file, path.Join(name, file), device); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return w.unread(name, err) // a directory that was removed has not even an end (getdents(2))
		}
	}
}

// isVirtual reports whether a directory lies on a file system whose files are the kernel's doings: reading all of them
// would never end.
func isVirtual(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	return slices.Contains([]int64{
		unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.SELINUX_MAGIC, unix.EFIVARFS_MAGIC,
	}, st.Type)
}

// regular sends a regular file.
func (w *walker) regular(dir int, file, name string) error {
	fd, st, err := open(dir, file, unix.O_NONBLOCK)
	if err != nil {
		return w.unread(name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if kindOf(st.Mode) != Regular {
		return w.failed(name, errors.New("it became something else than a file while it was copied"))
	}
	e := entryOf(name, &st)
	if e.Xattrs, err = w.attrs.ofFile(fd, w.archive); err != nil {
		return w.failed(name, err)
	}
	e.Size = st.Size
	w.sent(name, &st)
	if hasHoles(fd, st.Size) {
		return w.sparse(fd, e)
	}
	return w.dense(fd, e)
}

// dense sends a file without holes. What its size is, reading says better than the kernel, which reports none for the
// files of /proc and a page for those of /sys; and a file that fits into a chunk is sent as it was at one moment.
func (w *walker) dense(fd int, e *Entry) error {
	n, err := w.fill(fd, 0)
	if err != nil {
		return w.failed(e.Name, err)
	}
	switch {
	case n < len(w.chunk):
		e.Size = int64(n)
	case e.Size < int64(n):
		if e.Size, err = w.measure(fd, int64(n)); err != nil {
			return w.failed(e.Name, err)
		}
		n = 0 // the chunk is another one by then
	}
	if err := w.to.entry(e); err != nil {
		return err
	}
	if n > 0 {
		if err := w.to.data(0, w.chunk[:n]); err != nil {
			return err
		}
	}
	return w.span(fd, e, int64(n), e.Size)
}

// measure reads a file from an offset to its end and returns its size.
func (w *walker) measure(fd int, off int64) (int64, error) {
	for {
		n, err := w.fill(fd, off)
		if err != nil || n == 0 {
			return off, err
		}
		off += int64(n)
	}
}

// fill reads a chunk at an offset. It is short at the end of the file only.
func (w *walker) fill(fd int, off int64) (int, error) { return readAt(fd, w.chunk, off) }

func readAt(fd int, p []byte, off int64) (got int, err error) {
	for got < len(p) {
		n := 0
		err = retry(func() (err error) {
			n, err = unix.Pread(fd, p[got:], off+int64(got))
			return err
		})
		if err != nil || n == 0 {
			return got, err
		}
		got += n
	}
	return got, nil
}

// span sends a file's bytes from an offset to another.
func (w *walker) span(fd int, e *Entry, from, to int64) error {
	for from < to {
		want := w.chunk[:min(int64(len(w.chunk)), to-from)]
		n, err := readAt(fd, want, from)
		if err != nil {
			return w.failed(e.Name, err)
		}
		if n > 0 {
			if err := w.to.data(from, want[:n]); err != nil {
				return err
			}
		}
		if n < len(want) {
			w.note(e.Name, "became shorter while it was copied: zeros take the place of what is missing")
			return nil
		}
		from += int64(n)
	}
	return nil
}

// hasHoles reports whether a file has holes and its file system can say where. The number of its blocks does not tell:
// it counts those of extended attributes.
func hasHoles(fd int, size int64) bool {
	if size == 0 {
		return false
	}
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	return err == nil && hole < size
}

// sparse sends a file's data and leaves its holes out (lseek(2), SEEK_DATA).
func (w *walker) sparse(fd int, e *Entry) error {
	if err := w.to.entry(e); err != nil {
		return err
	}
	for at := int64(0); at < e.Size; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return w.failed(e.Name, err)
		}
		if at, err = unix.Seek(fd, from, unix.SEEK_HOLE); errors.Is(err, unix.ENXIO) {
			return nil // it was cut off meanwhile
		}
		if err != nil {
			return w.failed(e.Name, err)
		}
		if err := w.span(fd, e, from, min(at, e.Size)); err != nil {
			return err
		}
	}
	return nil
}

// source is a path that somebody wants to be copied.
type source struct {
	path      string
	directory bool
}

// findSource looks at what the path stands for. With follow, a symlink is replaced by what it points to.
func findSource(name string, follow bool, where string) (source, error) {
	failed := func(err error) error { return fmt.Errorf("reading %q %s: %w", name, where, bare(err)) }
	real := name
	if follow {
		var err error
		if real, err = filepath.EvalSymlinks(name); err != nil {
			return source{}, failed(err)
		}
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Lstat(real, &st) }); err != nil {
		return source{}, failed(err)
	}
	return source{real, kindOf(st.Mode) == Directory}, nil
}

// bare returns the cause of an error that names its path itself, for messages that name it already.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
