package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
	"github.com/banger-vm/banger/internal/vm/output"
)

// Streams are what a command in a guest is connected to.
type Streams struct {
	TTY     *exec.Size // nil runs without a terminal
	Stdin   io.Reader  // nil gives the command an empty input
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan exec.Size
	Signals <-chan syscall.Signal // passed on to the command
	Started func() error          // called when the guest is up and the command is about to start
}

// RunOptions say what to run in a new VM, and how.
type RunOptions struct {
	VMOptions
	Streams
	Detach  bool              // return when the command runs
	Created func(name string) // called when the VM has its name
}

// Run makes a VM, boots it and runs its command. It returns the command's exit code when the VM has ended; a VM that is
// to be removed is gone then. One that does not come up, or whose command cannot be started, is removed in any case.
func (e *Engine) Run(ctx context.Context, options RunOptions) (int, error) {
	options.Terminal, options.Input = options.TTY != nil, options.Stdin != nil
	i, starting, err := e.create(ctx, options.VMOptions)
	if err != nil {
		return 0, err
	}
	defer starting.Release()
	options.Created(i.Name)
	attached := !options.Detach && i.Workload != nil
	attachment, err := e.launch(ctx, i, monitor.Start{Attached: attached, Terminal: options.TTY})
	if err != nil {
		err = e.keepLog(err)
		starting.Release()
		return 0, errors.Join(err, e.forget(i))
	}
	starting.Release()
	switch {
	case attached:
		return e.attend(ctx, i, attachment, options.Streams)
	case options.Detach:
		return 0, e.leave(ctx, i, attachment)
	}
	return e.watchMachine(ctx, i, attachment, options.Streams)
}

// forget removes a VM that never came to anything.
func (e *Engine) forget(i *instance.Instance) error { return e.discard(context.Background(), i) }

// leave waits until the VM's command runs.
func (e *Engine) leave(ctx context.Context, i *instance.Instance, a *monitor.Attachment) error {
	err := a.Started(ctx)
	var start *monitor.StartError
	if errors.As(err, &start) || ctx.Err() != nil {
		_ = e.RemoveVM(context.WithoutCancel(ctx), i.Name, true)
	}
	return err
}

// attend is with the VM's command to its end. When ctx ends, the VM is ended too.
func (e *Engine) attend(ctx context.Context, i *instance.Instance, a *monitor.Attachment, s Streams) (int, error) {
	if err := s.Started(); err != nil {
		return 0, errors.Join(err, e.abandon(i))
	}
	code, err := a.Run(ctx, s.Stdin, s.Stdout, s.Stderr, s.Resize, s.Signals)
	var refused *frame.Refusal
	switch {
	case ctx.Err() != nil:
		return 0, errors.Join(context.Cause(ctx), e.abandon(i))
	case errors.As(err, &refused) && refused.Reason != monitor.CrashedVM:
		err = errors.Join(err, e.forget(i))
	case errors.Is(err, frame.ErrDisconnected):
		err = e.whyGone(i, err)
	case err != nil && code < 0:
		err = errors.Join(err, e.abandon(i)) // nobody takes the output any more
	}
	if err != nil {
		return code, fmt.Errorf("running %q in the VM: %w", strings.Join(i.Workload.Argv, " "), err)
	}
	return code, nil
}

// abandon ends a VM that nobody waits for, and removes it if it is to be removed.
func (e *Engine) abandon(i *instance.Instance) error {
	ctx := context.Background()
	if i.Runs() {
		if err := e.kill(ctx, i); err != nil {
			return err
		}
	}
	if i.Remove {
		return e.discard(ctx, i)
	}
	return nil
}

// whyGone says what became of a VM whose monitor hung up.
func (e *Engine) whyGone(i *instance.Instance, err error) error {
	_ = e.unlessEnded(i, "", err) // its end may take a moment
	last, ran := i.State()
	switch {
	case i.Remove:
		return errors.Join(fmt.Errorf("%w: the VM's monitor was killed", err), e.abandon(i))
	case ran && last.Error != "":
		return fmt.Errorf("%w: %s", err, last.Error)
	}
	return fmt.Errorf("%w: the VM's monitor was killed", err)
}

// machineStopLimit is how long a machine that is watched may take to stop when the user has enough.
const machineStopLimit = 30 * time.Second

// watchMachine shows the console of a VM without a command until it ends. The first signal stops it in good order.
func (e *Engine) watchMachine(ctx context.Context, i *instance.Instance, a *monitor.Attachment, s Streams) (int, error) {
	if err := errors.Join(a.Started(ctx), s.Started()); err != nil {
		return 0, errors.Join(err, e.abandon(i))
	}
	go func() {
		if _, asked := <-s.Signals; asked {
			_, _ = e.client(i).Stop(ctx, machineStopLimit)
		}
	}()
	ended := func() bool { return !i.Runs() }
	err := output.Follow(ctx, i.Path(instance.ConsoleLog), output.All, ended, s.Stdout)
	if ctx.Err() != nil {
		return 0, errors.Join(context.Cause(ctx), e.abandon(i))
	}
	if err != nil {
		return 0, errors.Join(err, e.abandon(i))
	}
	last, ran := i.State()
	if ran && last.Error != "" {
		return last.ExitCode, errors.New(last.Error)
	}
	return last.ExitCode, nil
}

// Stream opens a stream to the agent of a VM that runs.
func (e *Engine) Stream(ctx context.Context, name string) (net.Conn, error) {
	i, err := e.instance(name)
	if err != nil {
		return nil, err
	}
	return e.stream(ctx, i)
}

func (e *Engine) stream(ctx context.Context, i *instance.Instance) (net.Conn, error) {
	if !i.Runs() {
		return nil, notRunning("reaching", i.Name, e.look(ctx, i).State)
	}
	return e.client(i).Stream(ctx)
}

// ExecOptions say what to run in a VM that runs. What is left empty is the VM's own.
type ExecOptions struct {
	exec.Command
	Streams
}

// Exec runs a command in a VM that runs, and returns its exit code.
func (e *Engine) Exec(ctx context.Context, name string, options ExecOptions) (int, error) {
	i, err := e.instance(name)
	if err != nil {
		return 0, err
	}
	stream, err := e.stream(ctx, i)
	if err != nil {
		return 0, err
	}
	if err := options.Started(); err != nil {
		_ = stream.Close()
		return 0, err
	}
	command := commandIn(i, options.Command)
	command.TTY, command.Stdin = options.Streams.TTY, options.Streams.Stdin != nil
	s := options.Streams
	code, err := exec.Run(ctx, stream, command, s.Stdin, s.Stdout, s.Stderr, s.Resize, s.Signals)
	if err != nil {
		return code, fmt.Errorf("running %q in the VM %q: %w", strings.Join(command.Argv, " "), name, err)
	}
	return code, nil
}

// commandIn completes a command by what the VM's own has.
func commandIn(i *instance.Instance, command exec.Command) exec.Command {
	command.User = orDefault(command.User, i.User)
	command.Dir = orDefault(command.Dir, i.Config.Dir)
	command.Env = append(append([]string{}, i.Env...), command.Env...)
	return command
}

// LogOptions choose a part of what a VM has printed.
type LogOptions struct {
	Console bool      // what its serial port printed, instead of its command
	Tail    int       // lines from the end; negative is all
	Since   time.Time // of the command's output; the zero Time is all
	Follow  bool      // until the VM ends
}

// Logs writes what a VM's command, or its console, has printed.
func (e *Engine) Logs(ctx context.Context, name string, options LogOptions, stdout, stderr io.Writer) error {
	i, err := e.instance(name)
	if err != nil {
		return err
	}
	var ended func() bool
	if options.Follow {
		ended = func() bool { return !i.Runs() }
	}
	if options.Console {
		if !options.Since.IsZero() {
			err := errors.New("the console has no times to choose by")
			return fault.New(fault.Usage, err, "leave --since or --console out")
		}
		return output.Follow(ctx, i.Path(instance.ConsoleLog), options.Tail, ended, stdout)
	}
	want := output.Selection{Since: options.Since, Tail: options.Tail, Ended: ended}
	return output.Read(ctx, i.Path(instance.OutputLog), want, func(r output.Record) error {
		to := stdout
		if r.Stream == output.Stderr {
			to = stderr
		}
		_, err := to.Write(r.Data())
		return err
	})
}

// ExecDetached starts a command in a VM that runs, and returns its process id there.
func (e *Engine) ExecDetached(ctx context.Context, name string, command exec.Command) (int, error) {
	i, err := e.instance(name)
	if err != nil {
		return 0, err
	}
	stream, err := e.stream(ctx, i)
	if err != nil {
		return 0, err
	}
	pid, err := exec.Start(ctx, stream, commandIn(i, command))
	if err != nil {
		return 0, fmt.Errorf("starting %q in the VM %q: %w", strings.Join(command.Argv, " "), name, err)
	}
	return pid, nil
}
