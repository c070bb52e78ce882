package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a program that runs beside banger, such as a virtual machine monitor.
type Process struct {
	pid  int
	done chan struct{}
	err  error        // of os/exec, once done is closed
	fail func() error // gives err the form that callers see
}

// Start starts c and returns while it runs. What it prints goes to stdout and stderr. The program is terminated, then
// killed, when ctx ends; it also dies when banger does, however banger dies.
func (r *CommandRunner) Start(ctx context.Context, c Command, stdout, stderr io.Writer) (*Process, error) {
	cmd, err := r.command(ctx, c, stdout, stderr)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &Process{done: make(chan struct{})}
	p.fail = func() error { return failure(ctx, c, Result{}, p.err) }
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so the thread has to wait as well (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, failure(ctx, c, Result{}, err)
	}
	return p, nil
}

// PID returns the process id. It may be another process's once Done is closed.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns its error, as Run does.
func (p *Process) Wait() error {
	<-p.done
	return p.fail()
}

// Kill ends the process at once. Killing one that has ended does nothing.
func (p *Process) Kill() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// Detach starts argv as a process that outlives this one: in a session of its own, in the root directory, with nothing
// of this process but its environment. What it prints goes to output, and passed is its descriptor 3. The caller closes both.
func (r *CommandRunner) Detach(argv []string, output, passed *os.File) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{passed}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keepDescriptors(); err != nil {
		return fmt.Errorf("starting %q: %w", argv[0], err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %q: %w", argv[0], err)
	}
	// Whoever started it may live long, and is to leave no zombie.
	go func() { _ = cmd.Wait() }()
	return nil
}

// keepDescriptors keeps what this process has inherited, such as the pipe of a shell that waits for its end, from those
// that it starts. Its own are kept already.
func keepDescriptors() error {
	err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return nil // kernels before 5.11
	}
	return err
}
