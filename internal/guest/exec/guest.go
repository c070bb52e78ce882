package exec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Config is what the image says about its command, with the names of the OCI image config.
type Config struct {
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
}

// Guest is the agent's half: it answers the requests of streams. Its value is immutable and safe for concurrent use.
type Guest struct {
	Info   Info
	Config Config
	Etc    fs.FS // the guest's /etc, for passwd and group
	// Poweroff begins the shutdown of the guest and returns.
	Poweroff func() error
	// WaitBoot returns when the guest has booted, or when ctx ends. It is nil in a guest that has nothing to wait for.
	WaitBoot func(ctx context.Context)

	shells []string // where to look for a shell besides the user's own; nil is usualShells
}

// Handlers returns what answers this package's requests.
func (g *Guest) Handlers() frame.Router {
	return frame.Router{doExec: g.exec, doHello: g.hello, doPoweroff: g.poweroff, doWaitBoot: g.waitBoot, doUser: g.user}
}

func (g *Guest) hello(stream net.Conn, _ []byte) *frame.Refusal {
	frame.Answer(stream, g.Info)
	return nil
}

// poweroff answers before the shutdown can end the agent.
func (g *Guest) poweroff(stream net.Conn, _ []byte) *frame.Refusal {
	frame.Answer(stream, struct{}{})
	if err := g.Poweroff(); err != nil {
		return frame.Refuse(frame.Failed, "powering off: %v", err)
	}
	return nil
}

// waitBoot answers when the guest has booted, and waits no longer than the host does.
func (g *Guest) waitBoot(stream net.Conn, _ []byte) *frame.Refusal {
	if g.WaitBoot != nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			_, _ = io.Copy(io.Discard, stream)
			cancel()
		}()
		g.WaitBoot(ctx)
	}
	frame.Answer(stream, struct{}{})
	return nil
}

// exec runs a command to its end. If the host closes the stream first, the command is killed.
func (g *Guest) exec(stream net.Conn, args []byte) *frame.Refusal {
	var asked wireCommand
	if refused := frame.Decode(args, &asked); refused != nil {
		return refused
	}
	cmd := asked.command()
	if cmd.Detach {
		return g.detach(stream, cmd)
	}
	frames := frame.NewWriter(stream)
	p, err := g.start(cmd)
	if err != nil {
		return err
	}
	_ = frames.Write(frame.Started, nil)
	go func() {
		p.obey(stream)
		p.abandon(stream)
	}()
	go p.feed(func(n int) {
		_ = frames.Write(frame.Consumed, binary.BigEndian.AppendUint32(nil, uint32(n)))
	})
	result := p.finish(frames)
	_ = frames.WriteJSON(frame.Exit, result)
	return nil
}

// detach starts a command and leaves it alone.
func (g *Guest) detach(stream net.Conn, cmd Command) *frame.Refusal {
	pid, refused := g.startDetached(cmd)
	if refused != nil {
		return refused
	}
	frame.Answer(stream, detached{pid})
	return nil
}

// obey carries out what the host's frames say until the host is gone or breaks the rules.
func (p *process) obey(stream net.Conn) {
	frames := frame.NewReader(stream)
	for {
		f, err := frames.Next()
		if err != nil {
			return
		}
		switch f.Kind {
		case frame.Stdin:
			if !p.input.push(f.Payload) {
				return
			}
		case frame.StdinEOF:
			p.input.end()
		case frame.Resize:
			var size Size
			if json.Unmarshal(f.Payload, &size) == nil {
				p.resize(size)
			}
		case frame.Signal:
			if len(f.Payload) == 1 {
				p.signal(f.Payload[0])
			}
		}
	}
}

// graceful is how long a command whose host is gone has between SIGHUP and SIGKILL.
const graceful = 2 * time.Second
