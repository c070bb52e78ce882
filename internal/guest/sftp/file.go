package sftp

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"
)

// How a file is opened (draft-ietf-secsh-filexfer-02, section 6.3).
const (
	openRead   = 1 << 0
	openWrite  = 1 << 1
	openAppend = 1 << 2
	openCreate = 1 << 3
	openTrunc  = 1 << 4
	openExcl   = 1 << 5
)

// handle is an open file or directory.
type handle struct {
	file      *os.File
	appending bool
	directory bool
	begun     bool // of a directory: something of it has been read
}

// handles are what a client has opened. The kernel's limit on open files (RLIMIT_NOFILE) bounds them.
type handles struct {
	last uint32
	open map[uint32]*handle
}

// add returns the answer that names h.
func (t *handles) add(h *handle) answer {
	if t.open == nil {
		t.open = map[uint32]*handle{}
	}
	t.last++
	t.open[t.last] = h
	return answer{typeHandle, appendString(nil, binary.BigEndian.AppendUint32(nil, t.last))}
}

// of finds the handle that a request names, or nil.
func (t *handles) of(name []byte) *handle {
	if len(name) != 4 {
		return nil
	}
	return t.open[binary.BigEndian.Uint32(name)]
}

func (t *handles) closeAll() {
	for _, h := range t.open {
		_ = h.file.Close()
	}
}

// file reads the handle of a file, not of a directory.
func (s *server) file(m *message) (*handle, error) {
	h := s.open.of(m.bytes())
	if h == nil || h.directory {
		return nil, errors.Join(m.err(), errHandle)
	}
	return h, nil
}

func (s *server) openFile(m *message) (answer, error) {
	path, how, attr := m.string(), m.uint32(), m.attributes()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	// Not os.OpenFile's mode: os.FileMode has setuid elsewhere, and the kernel is asked for what the client asked for.
	fd, err := open(path, openFlags(how), attr.modeOr(0o666))
	if err != nil {
		return answer{}, err
	}
	return s.open.add(&handle{file: os.NewFile(uintptr(fd), path), appending: how&openAppend != 0}), nil
}

// open is open(2), again when a signal of Go's runtime interrupts it.
func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC|syscall.O_NOCTTY, mode)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

// openFlags translates as OpenSSH's server does (sftp-server.c, flags_from_portable).
func openFlags(how uint32) int {
	flags := syscall.O_RDONLY
	switch {
	case how&openRead != 0 && how&openWrite != 0:
		flags = syscall.O_RDWR
	case how&openWrite != 0:
		flags = syscall.O_WRONLY
	}
	for _, f := range []struct {
		asked uint32
		flag  int
	}{{openAppend, syscall.O_APPEND}, {openCreate, syscall.O_CREAT}, {openTrunc, syscall.O_TRUNC}, {openExcl, syscall.O_EXCL}} {
		if how&f.asked != 0 {
			flags |= f.flag
		}
	}
	return flags
}

func (s *server) close(m *message) (answer, error) {
	name := m.bytes()
	h := s.open.of(name)
	if h == nil {
		return answer{}, syscall.EBADF
	}
	delete(s.open.open, binary.BigEndian.Uint32(name))
	return answer{}, h.file.Close()
}

func (s *server) read(m *message) (answer, error) {
	h, err := s.file(m)
	if err != nil {
		return answer{}, err
	}
	offset, length := m.offset(), m.uint32()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	length = min(length, maxData)
	if cap(s.data) < int(4+length) {
		s.data = make([]byte, 4+length)
	}
	data := s.data[:4+length]
	n, err := h.file.ReadAt(data[4:], offset)
	if n == 0 && length > 0 {
		return answer{}, err // io.EOF at the end
	}
	binary.BigEndian.PutUint32(data, uint32(n))
	return answer{typeData, data[:4+n]}, nil
}

func (s *server) write(m *message) (answer, error) {
	h, err := s.file(m)
	if err != nil {
		return answer{}, err
	}
	offset, data := m.offset(), m.bytes()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	_, err = h.writer(offset).Write(data)
	return answer{}, err
}

// writer writes to the file from offset on, or at its end if it was opened for that.
func (h *handle) writer(offset int64) io.Writer {
	if h.appending {
		return h.file
	}
	return io.NewOffsetWriter(h.file, offset)
}

func (s *server) fstat(m *message) (answer, error) {
	h, err := s.file(m)
	if err != nil {
		return answer{}, err
	}
	info, err := h.file.Stat()
	if err != nil {
		return answer{}, err
	}
	return answer{typeAttrs, appendAttributes(nil, info)}, nil
}

func (s *server) fsetstat(m *message) (answer, error) {
	h, err := s.file(m)
	attr := m.attributes()
	if err := errors.Join(m.err(), err); err != nil {
		return answer{}, err
	}
	return answer{}, attr.apply(fileTarget{h.file})
}
