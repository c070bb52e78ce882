package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

const (
	// maxSocketPath is the longest path of a socket, in bytes: sun_path has 108 with the end (unix(7)).
	maxSocketPath = 107
	// aliveLimit is how long whoever listens already may take to accept.
	aliveLimit = 2 * time.Second
	// lockName is the file whose lock is held while a socket is looked at and replaced.
	lockName = ".lock"
)

// socket is the daemon's listener, whose path goes before it stops listening: a daemon that is started then finds no
// socket, or one of a daemon that lives.
type socket struct {
	*net.UnixListener
}

// Close removes the path and stops listening.
func (s socket) Close() error {
	_ = os.Remove(s.Addr().String())
	return s.UnixListener.Close()
}

// Listen makes the socket at path, of mode 0600 in a directory that only the user can enter, which it makes if it does
// not exist. The socket of a daemon that was killed is replaced; one that somebody listens on is a fault.Conflict.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		err := fmt.Errorf("listening on %q: the path of a socket has %d bytes at most", path, maxSocketPath)
		return nil, fault.New(fault.Usage, err, "choose a shorter one: --host unix:///PATH")
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	if err := engine.CheckPrivate(dir); err != nil {
		return nil, err
	}
	held, err := lock.Acquire(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	defer held.Release()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w", path, err)
	}
	listener.SetUnlinkOnClose(false)
	// Until the mode is set, the directory keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %q: %w", path, err), socket{listener}.Close())
	}
	return socket{listener}, nil
}

// removeStale removes a socket that nobody listens on.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening on %q: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		err := fmt.Errorf("listening on %q: there is something that is no socket", path)
		return fault.New(fault.Conflict, err, "remove it, or choose another path: --host unix:///PATH")
	}
	dialer := net.Dialer{Timeout: aliveLimit}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err == nil {
		_ = conn.Close()
	}
	err = fmt.Errorf("listening on %q: a daemon listens there already", path)
	return fault.New(fault.Conflict, err, "stop it first, or choose another path: --host unix:///PATH")
}
