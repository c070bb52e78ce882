package exec

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"time"
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
}

// Serve answers the request of one stream and closes it. If the host closes the stream first, the command is killed.
func (g *Guest) Serve(stream net.Conn) {
	defer func() { _ = stream.Close() }()
	frames := &frameWriter{w: stream}
	f, err := readFrame(stream)
	if err != nil {
		return
	}
	if err := g.answer(stream, frames, f); err != nil {
		_ = frames.writeJSON(frameError, err)
	}
}

func (g *Guest) answer(stream net.Conn, frames *frameWriter, f frame) *StartError {
	var r request
	if f.kind != frameRequest || json.Unmarshal(f.payload, &r) != nil {
		return startError(Refused, "the stream does not begin with a request")
	}
	if r.Version < 1 || r.Version > Version {
		return startError(Refused, "the guest's agent speaks version %d of the protocol, the host asks for %d", Version, r.Version)
	}
	switch {
	case r.Do == doHello:
		_ = frames.writeJSON(frameReply, g.Info)
	case r.Do == doPoweroff:
		return g.poweroff(frames)
	case r.Do == doWaitBoot:
		g.waitBoot(stream, frames)
	case r.Do == doExec && r.Command != nil:
		return g.exec(stream, frames, *r.Command)
	default:
		return startError(Refused, "the guest's agent does not know the request %q", r.Do)
	}
	return nil
}

// poweroff answers before the shutdown can end the agent.
func (g *Guest) poweroff(frames *frameWriter) *StartError {
	_ = frames.writeJSON(frameReply, struct{}{})
	if err := g.Poweroff(); err != nil {
		return startError(Failed, "powering off: %v", err)
	}
	return nil
}

// waitBoot answers when the guest has booted, and waits no longer than the host does.
func (g *Guest) waitBoot(stream io.Reader, frames *frameWriter) {
	if g.WaitBoot != nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			_, _ = io.Copy(io.Discard, stream)
			cancel()
		}()
		g.WaitBoot(ctx)
	}
	_ = frames.writeJSON(frameReply, struct{}{})
}

// exec runs cmd to its end.
func (g *Guest) exec(stream net.Conn, frames *frameWriter, cmd Command) *StartError {
	p, err := g.start(cmd)
	if err != nil {
		return err
	}
	go func() {
		p.obey(stream)
		p.abandon(stream)
	}()
	go p.feed(func(n int) {
		_ = frames.write(frameConsumed, binary.BigEndian.AppendUint32(nil, uint32(n)))
	})
	result := p.finish(frames)
	_ = frames.writeJSON(frameExit, result)
	return nil
}

// obey carries out what the host's frames say until the host is gone or breaks the rules.
func (p *process) obey(stream net.Conn) {
	for {
		f, err := readFrame(stream)
		if err != nil {
			return
		}
		switch f.kind {
		case frameStdin:
			if !p.input.push(f.payload) {
				return
			}
		case frameStdinEOF:
			p.input.end()
		case frameResize:
			var size Size
			if json.Unmarshal(f.payload, &size) == nil {
				p.resize(size)
			}
		case frameSignal:
			if len(f.payload) == 1 {
				p.signal(f.payload[0])
			}
		}
	}
}

// graceful is how long a command whose host is gone has between SIGHUP and SIGKILL.
const graceful = 2 * time.Second
