package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// Client talks to the monitor of one VM.
type Client struct {
	Name   string // of the VM, for messages
	Socket string // path
}

// Status asks how the VM is.
func (c Client) Status(ctx context.Context) (Status, error) {
	a, err := c.ask(ctx, request{Do: doStatus})
	if err != nil {
		return Status{}, err
	}
	if a.Status == nil {
		return Status{}, c.strange()
	}
	return *a.Status, nil
}

// Stop has the VM shut down in good order, killed if that takes longer than limit, and waits for its end.
func (c Client) Stop(ctx context.Context, limit time.Duration) (instance.State, error) {
	return c.end(ctx, request{Do: doStop, Limit: limit})
}

// Kill ends the VM at once, as if its power was cut.
func (c Client) Kill(ctx context.Context) (instance.State, error) {
	return c.end(ctx, request{Do: doKill})
}

// Wait waits for the end of the VM.
func (c Client) Wait(ctx context.Context) (instance.State, error) {
	return c.end(ctx, request{Do: doWait})
}

// Signal sends a signal to the VM's command.
func (c Client) Signal(ctx context.Context, number int) error {
	_, err := c.ask(ctx, request{Do: doSignal, Signal: number})
	return err
}

// AddPorts publishes ports: all of them or, on an error, none.
func (c Client) AddPorts(ctx context.Context, specs []string) ([]port.Published, error) {
	a, err := c.ask(ctx, request{Do: doPorts, Add: specs})
	return a.Ports, err
}

// RemovePorts stops publishing ports, and returns those that were.
func (c Client) RemovePorts(ctx context.Context, specs []string) ([]port.Published, error) {
	a, err := c.ask(ctx, request{Do: doPorts, Remove: specs})
	return a.Ports, err
}

func (c Client) end(ctx context.Context, r request) (instance.State, error) {
	a, err := c.ask(ctx, r)
	if err != nil {
		return instance.State{}, err
	}
	if a.State == nil {
		return instance.State{}, c.strange()
	}
	return *a.State, nil
}

// strange is the error for an answer to another question.
func (c Client) strange() error {
	return fmt.Errorf("asking the monitor of the VM %q: it gave an answer of another version of banger", c.Name)
}

// Stream opens a stream to the guest's agent.
func (c Client) Stream(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The stream belongs to the agent from the byte after the answer on: nothing may be read ahead.
	if _, err := exchange(ctx, conn, &lines{conn: conn}, request{Do: doStream}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialLimit is how long a monitor that has just been started may take to listen.
const dialLimit = time.Second

func (c Client) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	for deadline := time.Now().Add(dialLimit); ; time.Sleep(dialLimit / 100) {
		conn, err := dialer.DialContext(ctx, "unix", c.Socket)
		if err == nil {
			return conn, nil
		}
		absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
		if !absent || time.Now().After(deadline) || ctx.Err() != nil {
			return nil, fmt.Errorf("reaching the monitor of the VM %q: %w", c.Name, err)
		}
	}
}

func (c Client) ask(ctx context.Context, r request) (answer, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	return exchange(ctx, conn, &lines{conn: conn, ahead: bufio.NewReader(conn)}, r)
}

// exchange sends a request and reads one answer.
func exchange(ctx context.Context, conn net.Conn, from *lines, r request) (answer, error) {
	stop := context.AfterFunc(ctx, func() { frame.HangUp(conn) })
	defer stop()
	r.Version = version
	if err := writeLine(conn, r); err != nil {
		return answer{}, frame.Cause(ctx, gone(err))
	}
	a, err := from.answer()
	return a, frame.Cause(ctx, err)
}

// maxLine bounds a line of the protocol, in bytes.
const maxLine = 1 << 20

func writeLine(conn net.Conn, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(text, '\n'))
	return err
}

// lines reads lines from a connection: through ahead or, where that is nil, a byte at a time and not one too many.
type lines struct {
	conn  net.Conn
	ahead *bufio.Reader
}

func (l *lines) read(value any) error {
	line, err := l.line()
	if err != nil {
		return err
	}
	return json.Unmarshal(line, value)
}

func (l *lines) line() ([]byte, error) {
	if l.ahead != nil {
		return l.ahead.ReadBytes('\n')
	}
	var line []byte
	for b := make([]byte, 1); len(line) < maxLine; {
		if _, err := l.conn.Read(b); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return line, nil
		}
		line = append(line, b[0])
	}
	return nil, fault.New(fault.Failure, fmt.Errorf("a line has more than %d bytes", maxLine), "")
}

func (l *lines) answer() (answer, error) {
	var a answer
	if err := l.read(&a); err != nil {
		return a, gone(err)
	}
	if a.Error != nil {
		return a, a.Error.err()
	}
	return a, nil
}
