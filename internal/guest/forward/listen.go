package forward

import (
	"context"
	"errors"
	"net"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// listen makes a socket that listens in the guest.
func listen(at listenArgs) (net.Listener, *frame.Refusal) {
	var l net.Listener
	var err error
	switch at.Network {
	case tcp:
		l, err = listenTCP(at.Address)
	case unixSocket:
		l, err = listenUnix(at)
	default:
		return nil, frame.Refuse(frame.Refused, "the guest's agent does not know the network %q", at.Network)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && at.Network == unixSocket:
		return nil, frame.Refuse(frame.Failed, "listening on %s in the guest: there is a file already", at.Address)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, frame.Refuse(frame.Failed, "listening on %s in the guest: the port is in use there", at.Address)
	case err != nil:
		return nil, frame.Refuse(frame.Failed, "listening on %s in the guest: %v", at.Address, err)
	}
	return l, nil
}

// listenTCP knows localhost without a name service.
func listenTCP(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// listenUnix makes a Unix socket that at no time has other permissions or another owner than asked for.
func listenUnix(at listenArgs) (net.Listener, error) {
	mode := uint32(0o600)
	if at.Mode != nil {
		mode = *at.Mode & 0o777
	}
	// The file gets the permissions of the socket's own inode (net/unix/af_unix.c, unix_bind_bsd), less the umask.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), mode) })
		return errors.Join(err, failed)
	}}
	var l net.Listener
	err := as(at.Owner, func() (err error) {
		l, err = config.Listen(context.Background(), unixSocket, at.Address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ownedListener{l, at.Owner}, nil
}

// ownedListener is a Unix socket of a user's.
type ownedListener struct {
	net.Listener
	owner *owner
}

// Close also removes the socket's file: with the user's rights, who may have put a link in the way.
func (l *ownedListener) Close() error { return as(l.owner, l.Listener.Close) }

// as runs do with a user's rights to files and without a umask. The kernel keeps both for each thread; the one that is
// used ends with its goroutine.
func as(who *owner, do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := become(who); err != nil {
			result <- err
			return
		}
		result <- do()
	}()
	return <-result
}

// become changes the thread's file system user and group (setfsuid(2), which reports no failure) and its umask.
func become(who *owner) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	unix.Umask(0)
	if who == nil {
		return nil
	}
	uid, gid := int(who.UID), int(who.GID)
	_, _ = unix.SetfsgidRetGid(gid)
	_, _ = unix.SetfsuidRetUid(uid)
	if now, _ := unix.SetfsgidRetGid(-1); now != gid {
		return syscall.EPERM
	}
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {
		return syscall.EPERM
	}
	return nil
}
