package remote

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/oci"
)

// stream is a connection that is no longer one of HTTP.
type stream struct {
	net.Conn
	in *bufio.Reader
}

// Read reads what the daemon sent after its answer.
func (s stream) Read(b []byte) (int, error) { return s.in.Read(b) }

// upgrade sends a request on a connection of its own, which becomes one of the protocol.
func (c *Client) upgrade(ctx context.Context, r request, protocol string) (stream, error) {
	asked, err := r.http(ctx)
	if err != nil {
		return stream{}, err
	}
	asked.Header.Set("Connection", "Upgrade")
	asked.Header.Set("Upgrade", protocol)
	conn, err := c.dial(ctx)
	if err != nil {
		return stream{}, lost(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { frame.HangUp(conn) })
	defer stop()
	s := stream{Conn: conn, in: bufio.NewReader(conn)}
	if err := s.begin(asked); err != nil {
		_ = conn.Close()
		return stream{}, answered(ctx, err)
	}
	return s, nil
}

// begin sends the request and reads the answer, which is an error if it is no upgrade.
func (s stream) begin(asked *http.Request) error {
	if err := asked.Write(s.Conn); err != nil {
		return broken{err}
	}
	answer, err := http.ReadResponse(s.in, asked)
	if err != nil {
		return broken{err}
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	defer func() { _ = answer.Body.Close() }()
	return refusal(answer)
}

// broken is a failure of the connection, and not the daemon's word.
type broken struct{ error }

func (b broken) Unwrap() error { return b.error }

func answered(ctx context.Context, err error) error {
	if b, isBroken := err.(broken); isBroken || ctx.Err() != nil {
		if isBroken {
			err = b.error
		}
		return lost(ctx, err)
	}
	return err
}

// Stream opens a stream to the agent of a VM that runs.
func (c *Client) Stream(ctx context.Context, name string) (net.Conn, error) {
	s, err := c.upgrade(ctx, post(nil, "vms", name, "stream"), api.UpgradeStream)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Exec runs a command in a VM that runs, and returns its exit code.
func (c *Client) Exec(ctx context.Context, name string, options engine.ExecOptions) (int, error) {
	s, err := c.upgrade(ctx, post(options.Begin(), "vms", name, "exec"), api.UpgradeFrames)
	if err != nil {
		return 0, err
	}
	return engine.AttendExec(ctx, s, name, options)
}

// ExecDetached starts a command in a VM that runs, and returns its process id there.
func (c *Client) ExecDetached(ctx context.Context, name string, command exec.Command) (int, error) {
	command.Detach = true
	var started api.Process
	err := c.ask(ctx, post(command, "vms", name, "exec"), &started)
	return started.PID, err
}

// Run makes a VM, boots it and runs its command, as the engine's Run does.
func (c *Client) Run(ctx context.Context, options engine.RunOptions) (code int, err error) {
	if options.Image, err = oci.Absolute(options.Image); err != nil {
		return 0, err
	}
	asked := post(options.Begin(), "run")
	if options.Detach {
		var begun api.Begun
		if err := c.follow(ctx, asked, &begun); err != nil {
			return 0, err
		}
		options.Created(begun.VM.Name)
		return 0, nil
	}
	begun, err := c.begin(ctx, asked, options.Created)
	if err != nil {
		return 0, err
	}
	return engine.Attend(ctx, c, begun, options.Streams)
}

// cleanupLimit is how long the daemon may take to remove a VM that nobody wants any more.
const cleanupLimit = 20 * time.Second

// begin has a VM made and booted. When ctx ends, it waits until nothing is left of the VM.
func (c *Client) begin(ctx context.Context, asked request, created func(string)) (*engine.Begun, error) {
	s, err := c.upgrade(ctx, asked, api.UpgradeRun)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, s.giveUp)
	var begun api.Begun
	e := events{from: s.in, report: c.config.Report, created: created}
	err = e.result(&begun)
	stop()
	if err != nil {
		_ = s.Close()
		return nil, e.why(ctx, err)
	}
	if begun.Attached {
		return &engine.Begun{VM: begun.VM, Conn: s}, nil
	}
	return &engine.Begun{VM: begun.VM}, s.Close()
}

// giveUp tells the daemon that nobody is there any more, and leaves it some time to say the last word.
func (s stream) giveUp() {
	_ = s.SetReadDeadline(time.Now().Add(cleanupLimit))
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
