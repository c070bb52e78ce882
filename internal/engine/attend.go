package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
	"github.com/banger-vm/banger/internal/vm/output"
)

// Host is what being with a VM to its end asks for. An Engine has it, and so has the client of one that is elsewhere.
type Host interface {
	FindVM(ctx context.Context, name string) (VM, error)
	StopVM(ctx context.Context, name string, limit time.Duration) error
	WaitVM(ctx context.Context, name string) (int, error)
	KillVM(ctx context.Context, name string) error
	RemoveVM(ctx context.Context, name string, force bool) error
	Logs(ctx context.Context, name string, options LogOptions, stdout, stderr io.Writer) error
}

// Attend is with a VM that host has begun to its end, and returns the exit code. A VM whose command cannot be started is
// removed. When ctx ends the VM is ended too.
func Attend(ctx context.Context, host Host, b *Begun, s Streams) (int, error) {
	a := attendance{host: host, vm: b.VM}
	if err := s.Started(); err != nil {
		if b.Conn != nil {
			_ = b.Conn.Close()
		}
		return 0, errors.Join(err, a.abandon())
	}
	if b.Conn == nil {
		return a.watchMachine(ctx, s)
	}
	return a.run(ctx, b.Conn, s)
}

// attendance is somebody's being with a VM.
type attendance struct {
	host Host
	vm   instance.Config
}

// run is with the VM's command.
func (a attendance) run(ctx context.Context, conn net.Conn, s Streams) (int, error) {
	code, err := monitor.Attached(conn).Run(ctx, s.Stdin, s.Stdout, s.Stderr, s.Resize, s.Signals)
	var refused *frame.Refusal
	switch {
	case ctx.Err() != nil:
		return 0, errors.Join(context.Cause(ctx), a.abandon())
	case errors.As(err, &refused) && refused.Reason == monitor.CrashedVM:
		err = errors.New(refused.Message) // not a command that could not be started, which has an exit code of its own
	case refused != nil:
		err = errors.Join(err, a.forget())
	case errors.Is(err, frame.ErrDisconnected):
		err = a.whyGone(err)
	case err != nil && code < 0:
		err = errors.Join(err, a.abandon()) // nobody takes the output any more
	}
	if err != nil {
		return code, fmt.Errorf("running %q in the VM: %w", strings.Join(a.vm.Workload.Argv, " "), err)
	}
	return code, nil
}

// abandon ends a VM that nobody waits for, and removes it if it is to be removed.
func (a attendance) abandon() error {
	err := a.host.KillVM(context.Background(), a.vm.Name)
	if kind := fault.KindOf(err); err != nil && kind != fault.NotRunning && kind != fault.NotFound {
		return err
	}
	if a.vm.Remove {
		return a.forget()
	}
	return nil
}

// forget removes the VM.
func (a attendance) forget() error {
	err := a.host.RemoveVM(context.Background(), a.vm.Name, true)
	if fault.KindOf(err) == fault.NotFound {
		return nil // it has removed itself
	}
	return err
}

// whyGone says what became of a VM whose monitor hung up.
func (a attendance) whyGone(err error) error {
	v, unknown := a.ended()
	switch {
	case unknown != nil && fault.KindOf(unknown) != fault.NotFound:
		return fmt.Errorf("%w: %w", err, unknown)
	case v.Runs():
		return fmt.Errorf("%w: the VM runs on", err)
	case a.vm.Remove:
		return errors.Join(fmt.Errorf("%w: the VM's monitor was killed", err), a.abandon())
	case v.Last != nil && v.Last.Ended != nil && v.Last.Error != "":
		return fmt.Errorf("%w: %s", err, v.Last.Error)
	}
	return fmt.Errorf("%w: the VM's monitor was killed", err)
}

// endLimit is how long the end of a VM may take once its monitor has hung up.
const endLimit = time.Second

// ended looks at the VM once it has ended, or after a while.
func (a attendance) ended() (VM, error) {
	for wait, until := time.Millisecond, time.Now().Add(endLimit); ; wait *= 2 {
		v, err := a.host.FindVM(context.Background(), a.vm.Name)
		if err != nil || !v.Runs() || time.Now().After(until) {
			return v, err
		}
		time.Sleep(wait)
	}
}

// machineStopLimit is how long a machine that is watched may take to stop when the user has enough.
const machineStopLimit = 30 * time.Second

// watchMachine shows the console of a VM without a command until it ends. The first signal stops it in good order.
func (a attendance) watchMachine(ctx context.Context, s Streams) (int, error) {
	code := a.awaitEnd(ctx)
	go func() {
		if _, asked := <-s.Signals; asked {
			_ = a.host.StopVM(ctx, a.vm.Name, machineStopLimit)
		}
	}()
	console := LogOptions{Console: true, Tail: output.All, Follow: true}
	err := a.host.Logs(ctx, a.vm.Name, console, s.Stdout, s.Stderr)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil && fault.KindOf(err) != fault.NotFound { // one that removes itself may be gone already
		return 0, errors.Join(err, a.abandon())
	}
	v, err := a.host.FindVM(ctx, a.vm.Name)
	switch {
	case fault.KindOf(err) == fault.NotFound, err == nil && v.Last == nil:
		return <-code, nil
	case err != nil:
		return 0, err
	case v.Last.Error != "":
		return v.Last.ExitCode, errors.New(v.Last.Error)
	}
	return v.Last.ExitCode, nil
}

// awaitEnd gives the exit code of the machine. One that is removed with its end leaves nothing else to learn it from.
func (a attendance) awaitEnd(ctx context.Context) <-chan int {
	end := make(chan int, 1)
	go func() {
		code, err := a.host.WaitVM(ctx, a.vm.Name)
		if err != nil {
			code = 1
		}
		end <- code
	}()
	return end
}

// AttendExec is with a command of a VM that was begun by BeginExec, and returns its exit code. It closes stream.
func AttendExec(ctx context.Context, stream net.Conn, name string, options ExecOptions) (int, error) {
	s := options.Streams
	if err := s.Started(); err != nil {
		_ = stream.Close()
		return 0, err
	}
	end, err := exec.Attach(ctx, stream, s.Stdin, s.Stdout, s.Stderr, s.Resize, s.Signals)
	if err != nil {
		return end.ExitCode(), fmt.Errorf("running %q in the VM %q: %w", strings.Join(options.Argv, " "), name, err)
	}
	return end.ExitCode(), nil
}
