package sftp

import (
	"encoding/binary"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The attributes that are there (draft-ietf-secsh-filexfer-02, section 5).
const (
	hasSize     = 1 << 0
	hasOwner    = 1 << 1
	hasMode     = 1 << 2
	hasTimes    = 1 << 3
	hasExtended = 1 << 31
)

// permissions are the bits of a mode that chmod(2) takes.
const permissions = 0o7777

// attributes are what a request says of a file; flags says what of it.
type attributes struct {
	flags        uint32
	size         int64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32 // seconds since 1970
}

func (m *message) attributes() attributes {
	a := attributes{flags: m.uint32()}
	if a.flags&hasSize != 0 {
		a.size = m.offset()
	}
	if a.flags&hasOwner != 0 {
		a.uid, a.gid = m.uint32(), m.uint32()
	}
	if a.flags&hasMode != 0 {
		a.mode = m.uint32() & permissions
	}
	if a.flags&hasTimes != 0 {
		a.atime, a.mtime = m.uint32(), m.uint32()
	}
	if a.flags&hasExtended != 0 {
		for n := m.uint32(); n > 0 && !m.bad; n-- {
			m.bytes()
			m.bytes()
		}
	}
	return a
}

// modeOr returns the mode, or what it is without one.
func (a attributes) modeOr(mode uint32) uint32 {
	if a.flags&hasMode != 0 {
		return a.mode
	}
	return mode
}

func (a attributes) times() (atime, mtime time.Time) {
	return time.Unix(int64(a.atime), 0), time.Unix(int64(a.mtime), 0)
}

// appendAttributes appends what is known of a file.
func appendAttributes(b []byte, info fs.FileInfo) []byte {
	st := info.Sys().(*syscall.Stat_t)
	order := binary.BigEndian
	b = order.AppendUint32(b, hasSize|hasOwner|hasMode|hasTimes)
	b = order.AppendUint64(b, uint64(st.Size))
	b = order.AppendUint32(b, st.Uid)
	b = order.AppendUint32(b, st.Gid)
	b = order.AppendUint32(b, st.Mode)
	b = order.AppendUint32(b, uint32(st.Atim.Sec))
	return order.AppendUint32(b, uint32(st.Mtim.Sec))
}

// appendNoAttributes appends that nothing is known.
func appendNoAttributes(b []byte) []byte { return binary.BigEndian.AppendUint32(b, 0) }

// target is what attributes are given to.
type target interface {
	truncate(size int64) error
	chmod(mode uint32) error
	chtimes(atime, mtime time.Time) error
	chown(uid, gid int) error
}

// apply gives a to t, in the order of OpenSSH's server, and says what failed first.
func (a attributes) apply(t target) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if a.flags&hasSize != 0 {
		keep(t.truncate(a.size))
	}
	if a.flags&hasMode != 0 {
		keep(t.chmod(a.mode))
	}
	if a.flags&hasTimes != 0 {
		keep(t.chtimes(a.times()))
	}
	if a.flags&hasOwner != 0 {
		keep(t.chown(int(a.uid), int(a.gid)))
	}
	return first
}

// pathTarget is the file that a path leads to.
type pathTarget string

func (p pathTarget) truncate(size int64) error      { return os.Truncate(string(p), size) }
func (p pathTarget) chmod(mode uint32) error        { return syscall.Chmod(string(p), mode) }
func (p pathTarget) chtimes(at, mt time.Time) error { return os.Chtimes(string(p), at, mt) }
func (p pathTarget) chown(uid, gid int) error       { return os.Chown(string(p), uid, gid) }

// linkTarget is the file at a path itself, were it a symbolic link.
type linkTarget string

// truncate does nothing, as a link cannot be cut.
func (l linkTarget) truncate(int64) error { return syscall.EINVAL }

func (l linkTarget) chmod(mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, string(l), mode, unix.AT_SYMLINK_NOFOLLOW)
}

func (l linkTarget) chtimes(atime, mtime time.Time) error {
	times := []unix.Timespec{unix.NsecToTimespec(atime.UnixNano()), unix.NsecToTimespec(mtime.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, string(l), times, unix.AT_SYMLINK_NOFOLLOW)
}

func (l linkTarget) chown(uid, gid int) error { return os.Lchown(string(l), uid, gid) }

// fileTarget is an open file.
type fileTarget struct{ *os.File }

func (f fileTarget) truncate(size int64) error { return f.Truncate(size) }
func (f fileTarget) chmod(mode uint32) error   { return syscall.Fchmod(int(f.Fd()), mode) }
func (f fileTarget) chown(uid, gid int) error  { return f.Chown(uid, gid) }

func (f fileTarget) chtimes(atime, mtime time.Time) error {
	return unix.Futimes(int(f.Fd()), []unix.Timeval{unix.NsecToTimeval(atime.UnixNano()), unix.NsecToTimeval(mtime.UnixNano())})
}
