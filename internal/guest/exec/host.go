package exec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Run runs cmd at the other end of stream, which it closes. It copies stdin to the command and the command's output to
// stdout and stderr, and returns the exit code as docker gives it: the command's own, 128 plus the number of the signal
// that ended it, or 126 and 127 beside a *StartError.
//
// resize and signals may be nil; what they deliver is passed on until Run returns. When ctx ends the command is killed
// and Run returns -1 with ctx's cause. Any other error comes with -1 too. A read of stdin that is under way at the end
// is not interrupted: what it gets is lost.
func Run(ctx context.Context, stream net.Conn, cmd Command, stdin io.Reader, stdout, stderr io.Writer, resize <-chan Size, signals <-chan syscall.Signal) (int, error) {
	defer closeAtEnd(ctx, stream)()
	c := &call{frames: &frameWriter{w: stream}, input: newWindow(stdinWindow), done: make(chan struct{})}
	defer close(c.done)
	defer c.input.close()
	cmd.Stdin = cmd.Stdin && stdin != nil
	if err := c.frames.writeJSON(frameRequest, request{Version: Version, Do: doExec, Command: &cmd}); err != nil {
		return -1, cause(ctx, lost(err))
	}
	if cmd.Stdin {
		go c.sendInput(stdin)
	}
	go c.sendEvents(resize, signals)
	code, err := c.receive(stream, stdout, stderr)
	if code >= 0 {
		return code, err
	}
	return -1, cause(ctx, err)
}

// closeAtEnd closes stream when ctx ends or when the function that it returns is called. A stream that is closed can
// still be read to its end, so the end of ctx also ends the reading.
func closeAtEnd(ctx context.Context, stream net.Conn) func() {
	stop := context.AfterFunc(ctx, func() {
		_ = stream.SetReadDeadline(time.Unix(1, 0))
		_ = stream.Close()
	})
	return func() {
		stop()
		_ = stream.Close()
	}
}

// call is the host's half of a running command.
type call struct {
	frames *frameWriter
	input  *window
	done   chan struct{}
}

// receive handles the agent's frames until the last one. The code is negative if there is none.
func (c *call) receive(r io.Reader, stdout, stderr io.Writer) (int, error) {
	for {
		f, err := readFrame(r)
		if err != nil {
			return -1, lost(err)
		}
		switch f.kind {
		case frameStdout:
			_, err = stdout.Write(f.payload)
		case frameStderr:
			_, err = stderr.Write(f.payload)
		case frameConsumed:
			err = c.credit(f.payload)
		case frameExit:
			return decodeExit(f.payload)
		case frameError:
			refused := decodeStartError(f.payload)
			return refused.Code(), refused
		}
		if err != nil {
			return -1, fmt.Errorf("passing on the command's output: %w", err)
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
	buffer := make([]byte, chunkSize)
	for c.input.wait(chunkSize) {
		n, err := stdin.Read(buffer)
		c.input.add(-n)
		if n > 0 && c.frames.write(frameStdin, buffer[:n]) != nil {
			return
		}
		if err != nil {
			_ = c.frames.write(frameStdinEOF, nil)
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
			_ = c.frames.writeJSON(frameResize, size)
		case sig, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			_ = c.frames.write(frameSignal, []byte{byte(sig)})
		case <-c.done:
			return
		}
	}
}

func decodeExit(payload []byte) (int, error) {
	var e exit
	if err := json.Unmarshal(payload, &e); err != nil {
		return -1, fmt.Errorf("reading the exit code: %w", err)
	}
	return e.code(), nil
}

func decodeStartError(payload []byte) *StartError {
	var e StartError
	if err := json.Unmarshal(payload, &e); err != nil || e.Message == "" {
		return startError(Failed, "the guest's agent reported an error without a text")
	}
	return &e
}

// lost wraps the failure of a stream.
func lost(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrDisconnected
	}
	return fmt.Errorf("%w: %w", ErrDisconnected, err)
}

// cause returns why ctx ended, if it did: the failure err is then only its consequence.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Hello asks the agent about itself. It closes stream.
func Hello(ctx context.Context, stream net.Conn) (Info, error) {
	var info Info
	if err := ask(ctx, stream, doHello, &info); err != nil {
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
	err := ask(patient, stream, doWaitBoot, &nothing)
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
	if err := ask(ctx, stream, doPoweroff, &nothing); err != nil {
		return fmt.Errorf("asking the guest to power off: %w", err)
	}
	return nil
}

// ask sends a request without a command and decodes the reply.
func ask(ctx context.Context, stream net.Conn, do string, reply any) error {
	defer closeAtEnd(ctx, stream)()
	frames := &frameWriter{w: stream}
	if err := frames.writeJSON(frameRequest, request{Version: Version, Do: do}); err != nil {
		return cause(ctx, lost(err))
	}
	f, err := readFrame(stream)
	switch {
	case err != nil:
		return cause(ctx, lost(err))
	case f.kind == frameError:
		return decodeStartError(f.payload)
	case f.kind != frameReply:
		return fmt.Errorf("the agent answered with a frame of type %d", f.kind)
	}
	return json.Unmarshal(f.payload, reply)
}
