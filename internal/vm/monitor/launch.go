package monitor

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// Launch starts a monitor, which boots the VM, and returns when that has booted: attached to its command if start says
// so, else when the command runs. command is how this program is started as a monitor. When ctx ends before that, the VM
// is ended.
func Launch(ctx context.Context, runner *system.CommandRunner, command []string, i *instance.Instance, start Start) (*Attachment, error) {
	conn, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(i.Path(instance.MonitorLog), os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		_, _ = conn.Close(), theirs.Close()
		return nil, fmt.Errorf("making the monitor's log: %w", err)
	}
	err = runner.Detach(command, log, theirs)
	_, _ = log.Close(), theirs.Close()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("starting the monitor of the VM %q: %w", i.Name, err)
	}
	from := &lines{conn: conn}
	if _, err := exchange(ctx, conn, from, request{Do: doStart, Start: &start}); err != nil {
		waitForEnd(conn)
		return nil, err
	}
	return &Attachment{conn: conn, from: from}, nil
}

// pair returns two ends of a new connection.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a connection to the monitor: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "client")
	conn, err := net.FileConn(mine)
	_ = mine.Close()
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("making a connection to the monitor: %w", err)
	}
	return conn, theirs, nil
}

// waitForEnd waits until the monitor has ended, with all that it cleans up.
func waitForEnd(conn net.Conn) {
	_, _ = io.Copy(io.Discard, conn)
	_ = conn.Close()
}

// Attachment is the connection that started a monitor, once its machine has booted.
type Attachment struct {
	conn net.Conn
	from *lines
}

// Attached returns the Attachment of a connection that Conn gave away, perhaps in another process.
func Attached(conn net.Conn) *Attachment { return &Attachment{conn: conn, from: &lines{conn: conn}} }

// Conn gives the connection away, which carries the frames of the VM's command if somebody is attached to that.
func (a *Attachment) Conn() net.Conn { return a.conn }

// Started waits until the VM's command runs, and leaves it to itself.
func (a *Attachment) Started(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { frame.HangUp(a.conn) })
	defer stop()
	_, err := a.from.answer()
	if err != nil {
		waitForEnd(a.conn)
		return frame.Cause(ctx, err)
	}
	return a.conn.Close()
}

// Run connects the caller's streams to the VM's command, and returns its exit code when the monitor has ended: nothing
// is left of the machine then. A command that cannot be started is a *frame.Refusal beside docker's exit code. When ctx
// ends, Run returns at once; the VM lives on.
func (a *Attachment) Run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, resize <-chan exec.Size, signals <-chan syscall.Signal) (int, error) {
	held := &held{Conn: a.conn}
	end, err := exec.Attach(ctx, held, stdin, stdout, stderr, resize, signals)
	code := end.ExitCode()
	if code >= 0 && ctx.Err() == nil {
		stop := context.AfterFunc(ctx, func() { frame.HangUp(a.conn) })
		defer stop()
		waitForEnd(a.conn)
		return code, err
	}
	_ = a.conn.Close()
	return code, err
}

// held is a connection that stays open when the command has ended, to be told of the monitor's end.
type held struct{ net.Conn }

// Close leaves the connection as it is.
func (h *held) Close() error { return nil }
