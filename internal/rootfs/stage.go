package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

const (
	// maxLinks is how many names ext4 allows a file (EXT4_LINK_MAX in fs/ext4/ext4.h).
	maxLinks = 65000
	// stageChunk is how many bytes of a file are read at once: enough that the calls cost little, and little memory.
	stageChunk = 1 << 20
)

var (
	errNotEmpty = errors.New("the directory is not empty")
	errMoved    = errors.New("the directory was moved while it was filled")
)

// Stage makes the tree's files in dir, an existing and empty directory, as the calling user, for mkfs.ext4 -d to copy.
// Names, contents, holes, hard links, symlink targets and FIFOs are the tree's. Owners, modes, times and extended
// attributes are not: files are 0600 and directories 0700, so that the caller can read them. Devices are left out,
// because a user cannot make them.
//
// Nothing is made outside of dir, whatever the tree's symlinks say: each name is made relative to an open directory
// which Stage has made before, and never over an existing one. A path may be longer than PATH_MAX. On an error, which
// names the path, and when ctx ends, dir keeps what was made so far. A full disk is a fault.NoSpace.
func Stage(ctx context.Context, t *Tree, dir string) error {
	root, err := openEmpty(dir)
	if err != nil {
		return fmt.Errorf("staging into %q: %w", dir, err)
	}
	s := &stager{ctx: ctx, root: root, first: make(map[*Node]string)}
	defer s.close()
	if err := s.open(".", "/"); err != nil {
		return fmt.Errorf("staging into %q: %w", dir, err)
	}
	return t.Walk(func(name string, n *Node) error {
		if err := s.stage(name, n); err != nil {
			return withKind(fmt.Errorf("staging %q: %w", name, err))
		}
		return nil
	})
}

// withKind gives an error that the user can do something about its kind.
func withKind(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fault.New(fault.NoSpace, err, "free some space, or set BANGER_HOME to a directory on another disk")
	case errors.Is(err, unix.EMLINK):
		return fault.New(fault.Unsupported, err, "the image gives one file more names than a file system allows")
	}
	return err
}

// openEmpty returns dir opened, if it is a directory with nothing in it.
func openEmpty(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return f, nil
	}
	if err == nil {
		err = errNotEmpty
	}
	_ = f.Close()
	return nil, err
}

// stager follows a walk through a tree with one open directory, the one in which the next name is made.
type stager struct {
	ctx   context.Context
	root  *os.File
	dir   int              // descriptor of the last of way; O_PATH
	way   []stagedDir      // from the root to the current directory; empty before the root is opened
	first map[*Node]string // the first name made of each node that has several
	chunk []byte           // for copying, made when it is first needed
}

// stagedDir is a directory that was made. Its number tells on the way back whether it is still where it was.
type stagedDir struct {
	path     string // in the tree
	dev, ino uint64
}

func (s *stager) close() {
	if len(s.way) > 0 {
		_ = unix.Close(s.dir)
	}
	_ = s.root.Close()
}

// stage makes one name. The walk names a directory before what is in it, so the parent is on the way.
func (s *stager) stage(name string, n *Node) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if name == "/" {
		return nil
	}
	slash := strings.LastIndexByte(name, '/')
	if err := s.back(max(slash, 1)); err != nil {
		return err
	}
	base := name[slash+1:]
	if n.Kind != Directory && n.Links > 1 {
		return s.makeLinked(name, base, n)
	}
	return s.make(name, base, n)
}

// back goes up until the current directory's path in the tree has length bytes. Of the directories on the way, one
// has, and it is the parent of what comes next.
func (s *stager) back(length int) error {
	for len(s.way[len(s.way)-1].path) > length {
		if err := s.up(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stager) up() error {
	parent := s.way[len(s.way)-2]
	fd, err := openDir(s.dir, "..")
	if err != nil {
		return err
	}
	if got, err := stagedAt(fd, parent.path); err != nil || got != parent {
		_ = unix.Close(fd)
		return errors.Join(errMoved, err)
	}
	_ = unix.Close(s.dir)
	s.dir, s.way = fd, s.way[:len(s.way)-1]
	return nil
}

// open makes the directory base of the current one, or "." of the root, the current one. Its path in the tree is name.
func (s *stager) open(base, name string) error {
	from := s.dir
	if len(s.way) == 0 {
		from = int(s.root.Fd())
	}
	fd, err := openDir(from, base)
	if err != nil {
		return err
	}
	dir, err := stagedAt(fd, name)
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	if len(s.way) > 0 {
		_ = unix.Close(s.dir)
	}
	s.dir, s.way = fd, append(s.way, dir)
	return nil
}

// openDir opens the directory name of the directory dir, and no symlink.
func openDir(dir int, name string) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func stagedAt(fd int, path string) (stagedDir, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return stagedDir{path, st.Dev, st.Ino}, err
}

// make makes a node that has one name, or the first name of one that has several.
func (s *stager) make(name, base string, n *Node) error {
	switch n.Kind {
	case Directory:
		if err := unix.Mkdirat(s.dir, base, 0o700); err != nil {
			return err
		}
		return s.open(base, name)
	case Regular:
		return s.makeFile(base, n)
	case Symlink:
		return unix.Symlinkat(n.Target, s.dir, base)
	case FIFO:
		return unix.Mknodat(s.dir, base, unix.S_IFIFO|0o600, 0)
	case CharDevice, BlockDevice:
		return nil
	}
	return errEntryType
}

// makeLinked makes one of several names of a node.
func (s *stager) makeLinked(name, base string, n *Node) error {
	if n.Links > maxLinks {
		return fmt.Errorf("a file with %d names: %w", n.Links, unix.EMLINK)
	}
	if n.Kind == CharDevice || n.Kind == BlockDevice {
		return nil
	}
	first, ok := s.first[n]
	if !ok {
		s.first[n] = name
		return s.make(name, base, n)
	}
	dir, err := s.openStaged(path.Dir(first))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	return unix.Linkat(dir, path.Base(first), s.dir, base, 0)
}

// openStaged opens a directory of the tree that has been made, one name after the other because the path may be longer
// than the kernel takes.
func (s *stager) openStaged(name string) (int, error) {
	fd, err := openDir(int(s.root.Fd()), ".")
	for part := range strings.SplitSeq(name, "/") {
		if err != nil || part == "" {
			continue
		}
		parent := fd
		fd, err = openDir(parent, part)
		_ = unix.Close(parent)
	}
	return fd, err
}

func (s *stager) makeFile(base string, n *Node) error {
	f, err := s.create(base)
	if err != nil {
		return err
	}
	err = s.copyTo(f, n)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (s *stager) create(base string) (*os.File, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	for {
		fd, err := unix.Openat(s.dir, base, flags, 0o600)
		if err == nil {
			return os.NewFile(uintptr(fd), base), nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// copyTo writes the content of n to the empty file f and leaves out what is zero.
func (s *stager) copyTo(f *os.File, n *Node) error {
	if n.Size == 0 {
		return nil
	}
	if err := f.Truncate(n.Size); err != nil {
		return err
	}
	for _, x := range n.Extents {
		if err := s.copyExtent(f, n.Source, x); err != nil {
			return err
		}
	}
	return nil
}

func (s *stager) copyExtent(f *os.File, source io.ReaderAt, x layer.Extent) error {
	if s.chunk == nil {
		s.chunk = make([]byte, stageChunk)
	}
	for at, end := x.Logical, x.Logical+x.Length; at < end; {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		chunk := s.chunk[:min(stageChunk-at%blockSize, end-at)] // ends at a block's end, if not at the extent's
		if _, err := readExtent(source, x, at, chunk); err != nil {
			return err
		}
		if err := writeData(f, chunk, at); err != nil {
			return err
		}
		at += int64(len(chunk))
	}
	return nil
}

// writeData writes p at offset off of f, except for the blocks of which p has nothing but zeros. f has zeros there.
func writeData(f io.WriterAt, p []byte, off int64) error {
	for len(p) > 0 {
		zero, n := LeadingBlocks(p, off)
		if !zero {
			if _, err := f.WriteAt(p[:n], off); err != nil {
				return err
			}
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// LeadingBlocks returns the length in bytes of the part of p, which is at offset off of its file, that consists of blocks
// of zeros or of others, and which of the two. Blocks have 4096 bytes, but for the first and the last of p.
func LeadingBlocks(p []byte, off int64) (zero bool, n int) {
	for n < len(p) {
		block := p[n:]
		block = block[:min(int64(len(block)), blockSize-(off+int64(n))%blockSize)]
		if empty := isZero(block); n == 0 {
			zero = empty
		} else if empty != zero {
			break
		}
		n += len(block)
	}
	return zero, n
}

func isZero(block []byte) bool {
	var zeros [blockSize]byte
	return bytes.Equal(block, zeros[:len(block)])
}
