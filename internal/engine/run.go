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
	begun, err := e.Begin(ctx, options.Begin())
	if err != nil || options.Detach {
		return 0, err
	}
	return Attend(ctx, e, begun, options.Streams)
}

// Begin returns the part of the options that Engine.Begin takes.
func (o RunOptions) Begin() BeginOptions {
	begin := BeginOptions{VMOptions: o.VMOptions, Detach: o.Detach, Size: o.TTY, Created: o.Created}
	begin.Terminal, begin.Input = o.TTY != nil, o.Stdin != nil
	return begin
}

// BeginOptions say what to run in a new VM.
type BeginOptions struct {
	VMOptions
	Detach  bool              `json:"detach,omitempty"`
	Size    *exec.Size        `json:"size,omitempty"` // of the command's terminal, if it has one
	Created func(name string) `json:"-"`              // called when the VM has its name
}

// Begun is a VM that was made and has booted.
type Begun struct {
	VM   instance.Config
	Conn net.Conn // to the VM's command, for Attend; nil where there is none, and where it is left to itself
}

// Begin makes a VM and boots it, for a caller who is with it to its end (see Attend) or, where it is detached, leaves it
// when its command runs. One that does not come up is removed.
func (e *Engine) Begin(ctx context.Context, options BeginOptions) (*Begun, error) {
	i, starting, err := e.create(ctx, options.VMOptions, true)
	if err != nil {
		return nil, err
	}
	defer starting.Release()
	options.Created(i.Name)
	attached := !options.Detach && i.Workload != nil
	attachment, err := e.launch(ctx, i, monitor.Start{Attached: attached, Terminal: options.Size})
	if err != nil {
		err = e.keepLog(err)
		starting.Release()
		return nil, errors.Join(err, e.discard(context.Background(), i))
	}
	starting.Release()
	if attached {
		return &Begun{VM: i.Config, Conn: attachment.Conn()}, nil
	}
	return &Begun{VM: i.Config}, e.leave(ctx, i, attachment)
}

// leave waits until the VM's command runs or, where it has none, until it has booted.
func (e *Engine) leave(ctx context.Context, i *instance.Instance, a *monitor.Attachment) error {
	err := a.Started(ctx)
	var start *monitor.StartError
	if errors.As(err, &start) || ctx.Err() != nil {
		_ = e.RemoveVM(context.WithoutCancel(ctx), i.Name, true)
	}
	return err
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
	if err := e.checkAnswers(ctx, i, "reaching"); err != nil {
		return nil, err
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
	stream, err := e.BeginExec(ctx, name, options.Begin())
	if err != nil {
		return 0, err
	}
	return AttendExec(ctx, stream, name, options)
}

// Begin returns the command as BeginExec takes it.
func (o ExecOptions) Begin() exec.Command {
	command := o.Command
	command.TTY, command.Stdin, command.Detach = o.Streams.TTY, o.Streams.Stdin != nil, false
	return command
}

// BeginExec asks for a command in a VM that runs. The frames of the connection are the caller's, see AttendExec.
func (e *Engine) BeginExec(ctx context.Context, name string, command exec.Command) (net.Conn, error) {
	i, err := e.instance(name)
	if err != nil {
		return nil, err
	}
	stream, err := e.stream(ctx, i)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { frame.HangUp(stream) })
	defer stop()
	if err := exec.Begin(frame.NewWriter(stream), commandIn(i, command)); err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("asking the VM %q for a command: %w", name, frame.Cause(ctx, err))
	}
	return stream, nil
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
