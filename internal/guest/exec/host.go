package exec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Run runs cmd at the other end of stream, which it closes. It copies stdin to the command and the command's output to
// stdout and stderr, and returns the exit code as docker gives it: the command's own, 128 plus the number of the signal
// that ended it, or 126 and 127 beside a *frame.Refusal.
//
// resize and signals may be nil; what they deliver is passed on until Run returns. When ctx ends the command is killed
// and Run returns -1 with ctx's cause. Any other error comes with -1 too. A read of stdin that is under way at the end
// is not interrupted: what it gets is lost.
func Run(ctx context.Context, stream net.Conn, cmd Command, stdin io.Reader, stdout, stderr io.Writer, resize <-chan Size, signals <-chan syscall.Signal) (int, error) {
	end, err := RunToEnd(ctx, stream, cmd, stdin, stdout, stderr, resize, signals)
	return end.ExitCode(), err
}

// RunToEnd is Run for those who tell a command that a signal ended from one that exits with 128 and its number.
func RunToEnd(ctx context.Context, stream net.Conn, cmd Command, stdin io.Reader, stdout, stderr io.Writer, resize <-chan Size, signals <-chan syscall.Signal) (End, error) {
	cmd.Stdin, cmd.Detach = cmd.Stdin && stdin != nil, false
	if err := Begin(frame.NewWriter(stream), cmd); err != nil {
		_ = stream.Close()
		return End{Code: -1}, frame.Cause(ctx, err)
	}
	if !cmd.Stdin {
		stdin = nil
	}
	return Attach(ctx, stream, stdin, stdout, stderr, resize, signals)
}

// Begin asks the agent to run cmd. The frames that follow are the caller's to handle: frame.Started or frame.Error
// comes first.
func Begin(to *frame.Writer, cmd Command) error { return frame.Begin(to, doExec, toWire(cmd)) }

// Attach is RunToEnd for a command that has been asked for. A nil stdin sends nothing.
func Attach(ctx context.Context, stream net.Conn, stdin io.Reader, stdout, stderr io.Writer, resize <-chan Size, signals <-chan syscall.Signal) (End, error) {
	defer closeAtEnd(ctx, stream)()
	c := &call{frames: frame.NewWriter(stream), input: newWindow(stdinWindow), done: make(chan struct{})}
	defer close(c.done)
	defer c.input.close()
	if stdin != nil {
		go c.sendInput(stdin)
	}
	go c.sendEvents(resize, signals)
	end, err := c.receive(stream, stdout, stderr)
	if end.ExitCode() >= 0 {
		return end, err
	}
	return End{Code: -1}, frame.Cause(ctx, err)
}

// Start starts cmd at the other end of stream, which it closes, and returns the process id that the command has in the
// guest. The command reads nothing, writes to nowhere, has no terminal, and goes on whatever becomes of the host. A
// command that cannot be started is a *frame.Refusal.
func Start(ctx context.Context, stream net.Conn, cmd Command) (pid int, err error) {
	cmd.Detach, cmd.Stdin, cmd.TTY = true, false, nil
	var started detached
	if err := frame.Call(ctx, stream, doExec, toWire(cmd), &started); err != nil {
		return 0, err
	}
	return started.PID, nil
}

// closeAtEnd closes stream when ctx ends or when the function that it returns is called.
func closeAtEnd(ctx context.Context, stream net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { frame.HangUp(stream) })
	return func() {
		stop()
		_ = stream.Close()
	}
}

// call is the host's half of a running command.
type call struct {
	frames *frame.Writer
	input  *window
	done   chan struct{}
}

// receive handles the agent's frames until the last one. The code is negative if there is none.
func (c *call) receive(r io.Reader, stdout, stderr io.Writer) (End, error) {
	frames := frame.NewReader(r)
	for {
		f, err := frames.Next()
		if err != nil {
			return End{Code: -1}, frame.Lost(err)
		}
		switch f.Kind {
		case frame.Stdout:
			_, err = stdout.Write(f.Payload)
		case frame.Stderr:
			_, err = stderr.Write(f.Payload)
		case frame.Consumed:
			err = c.credit(f.Payload)
		case frame.Exit:
			return DecodeEnd(f.Payload)
		case frame.Error:
			refused := frame.DecodeRefusal(f.Payload)
			return End{Code: Code(refused)}, refused
		}
		if err != nil {
			return End{Code: -1}, fmt.Errorf("passing on the command's output: %w", err)
		}
	}
}

func (c *call) credit(payload []byte) error {
	if len(payload) != 4 {
		return fmt.Errorf("an acknowledgement has %d bytes instead of 4", len(payload))
	}
	c.input.add(int(binary.BigEndian.Uint32(payload)))
	return nil
}

// sendInput sends stdin, never more than a window ahead of the command.
func (c *call) sendInput(stdin io.Reader) {
	buffer := make([]byte, frame.ChunkSize)
	for c.input.wait(frame.ChunkSize) {
		n, err := stdin.Read(buffer)
		c.input.add(-n)
		if n > 0 && c.frames.Write(frame.Stdin, buffer[:n]) != nil {
			return
		}
		if err != nil {
			_ = c.frames.Write(frame.StdinEOF, nil)
			return
		}
	}
}

// sendEvents passes on sizes and signals until the command has ended. A channel that is closed is left alone.
func (c *call) sendEvents(resize <-chan Size, signals <-chan syscall.Signal) {
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			_ = c.frames.WriteJSON(frame.Resize, size)
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			_ = c.frames.Write(frame.Signal, []byte{byte(sig)})
		case <-c.done:
			return
		}
	}
}

// DecodeEnd reads the payload of a frame of kind Exit.
func DecodeEnd(payload []byte) (End, error) {
	var e End
	if err := json.Unmarshal(payload, &e); err != nil {
		return End{Code: -1}, fmt.Errorf("reading the exit code: %w", err)
	}
	if e.Signal < 0 || e.Signal > maxSignal || e.Signal == 0 && (e.Code < 0 || e.Code > 255) {
		return End{Code: -1}, fmt.Errorf("the guest's agent reported an end that cannot be: %.100q", payload)
	}
	return e, nil
}

// Hello asks the agent about itself. It closes stream.
func Hello(ctx context.Context, stream net.Conn) (Info, error) {
	var info Info
	if err := frame.Call(ctx, stream, doHello, nil, &info); err != nil {
		return Info{}, fmt.Errorf("greeting the guest's agent: %w", err)
	}
	return info, nil
}

// WaitBoot waits until the guest has booted: until systemd has no more jobs of the boot, however they went. A guest without
// systemd does not make it wait. When limit is over WaitBoot returns nil too; when ctx ends it returns ctx's cause. It
// closes stream.
func WaitBoot(ctx context.Context, stream net.Conn, limit time.Duration) error {
	patient, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var nothing struct{}
	err := frame.Call(patient, stream, doWaitBoot, nil, &nothing)
	switch {
	case ctx.Err() != nil: // even with an answer: the guest gives one too when it finds the stream closed
		return fmt.Errorf("waiting for the guest to boot: %w", context.Cause(ctx))
	case err == nil, patient.Err() != nil:
		return nil
	}
	return fmt.Errorf("waiting for the guest to boot: %w", err)
}

// Poweroff asks the guest to shut down and returns when it has agreed to; the VM ends some time after. It closes stream.
func Poweroff(ctx context.Context, stream net.Conn) error {
	var nothing struct{}
	if err := frame.Call(ctx, stream, doPoweroff, nil, &nothing); err != nil {
		return fmt.Errorf("asking the guest to power off: %w", err)
	}
	return nil
}
