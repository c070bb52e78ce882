package ssh

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is the size that pipes to and from the client get, in bytes: the largest that an ordinary user may ask for
// (pipe(7), /proc/sys/fs/pipe-max-size).
const pipeSize = 1 << 20

// Stdio makes one connection of standard input and output, or whatever in and out are. It owns both.
func Stdio(in, out *os.File) net.Conn {
	for _, f := range []*os.File{in, out} {
		// A packet of SSH is half as large as a pipe; larger pipes spare the changes between the processes. Where it
		// is no pipe, or there are too many, it stays as it is.
		_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	}
	return stdio{in, out}
}

// stdio has no deadlines: SSH needs none.
type stdio struct{ in, out *os.File }

func (s stdio) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s stdio) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s stdio) Close() error                { return errors.Join(s.out.Close(), s.in.Close()) }

func (s stdio) LocalAddr() net.Addr              { return stdioAddr{} }
func (s stdio) RemoteAddr() net.Addr             { return stdioAddr{} }
func (s stdio) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (s stdio) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (s stdio) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// stdioAddr is the address of what has none.
type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }
