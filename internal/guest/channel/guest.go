package channel

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Port is the agent's end of the pipe: a virtio-serial port (OpenPort), or a net.Conn. Read waits for data and does
// not report the absence of a host. SetWriteDeadline ends a Write that is under way.
type Port interface {
	io.ReadWriter
	SetWriteDeadline(time.Time) error
}

// Serve answers hosts on port and calls handler, in a goroutine of its own, for each stream that one opens; the handler
// closes the stream. A new host ends the session of the one before, whose streams then fail. Serve returns when reading
// from port fails, and never returns nil.
func Serve(port Port, magic [MagicSize]byte, handler func(net.Conn)) error {
	g := &server{port: port, magic: magic, handler: handler}
	if err := g.send(record{kind: kindHello}); err != nil {
		return fmt.Errorf("writing to the channel's port: %w", err)
	}
	defer g.end()
	scan := scanner{magic: magic}
	buffer := make([]byte, 64<<10)
	for {
		n, err := port.Read(buffer)
		for piece := buffer[:n]; len(piece) > 0; {
			data, r, rest, found := scan.next(piece)
			g.deliver(data)
			if found {
				g.handle(r)
			}
			piece = rest
		}
		if err != nil {
			return fmt.Errorf("reading from the channel's port: %w", err)
		}
	}
}

// server is the state of Serve. All but the port's writing side belongs to the goroutine that reads.
type server struct {
	port    Port
	magic   [MagicSize]byte
	handler func(net.Conn)
	nonce   nonce // of the session that was acknowledged last; zero when there is none
	session *session

	writing sync.Mutex // held over each write to the port, so that records and frames do not mix
}

// session is one host's session.
type session struct {
	input *io.PipeWriter
	mux   *yamux.Session

	mu   sync.Mutex
	over bool // no more writes
}

// deliver passes data to the session, if there is one.
func (g *server) deliver(data []byte) {
	if g.session != nil && len(data) > 0 {
		_, _ = g.session.input.Write(data) // fails only when the multiplexer has given up, and then nobody wants it
	}
}

// handle acts on one record.
func (g *server) handle(r record) {
	switch {
	case r.kind == kindSYN && r.nonce != g.nonce:
		g.end()
		g.nonce = r.nonce
		// An error shows in the next read.
		_ = g.send(record{kind: kindACK, nonce: r.nonce})
	case r.kind == kindGo && r.nonce == g.nonce && g.session == nil:
		g.begin()
	case r.kind == kindEnd && r.nonce == g.nonce:
		g.end()
	}
}

// begin starts the session that was acknowledged.
func (g *server) begin() {
	s := &session{}
	output, input := io.Pipe()
	s.input = input
	conn := &pipe{PipeReader: output, write: func(b []byte) (int, error) { return g.write(s, b) }, close: func() {}}
	mux, err := yamux.Server(conn, muxConfig(0))
	if err != nil {
		return // the configuration is a constant, and valid
	}
	s.mux = mux
	g.session = s
	go g.accept(s)
}

// accept hands the streams of s out. When the multiplexer gives up by itself, the host is told.
func (g *server) accept(s *session) {
	for {
		stream, err := s.mux.Accept()
		if err != nil {
			break
		}
		go g.handler(stream)
	}
	// Under the lock: the hello cannot come after the acknowledgement of the next session.
	g.writing.Lock()
	defer g.writing.Unlock()
	if !s.stop() {
		_, _ = g.port.Write(record{kind: kindHello}.encode(g.magic))
	}
}

// end ends the session at hand: its streams fail and a write of it that is under way is given up.
func (g *server) end() {
	s := g.session
	g.session, g.nonce = nil, nonce{}
	if s == nil {
		return
	}
	s.stop()
	_ = g.port.SetWriteDeadline(time.Unix(1, 0))
	_ = s.input.Close()
	_ = s.mux.Close()
	g.writing.Lock()
	defer g.writing.Unlock()
	_ = g.port.SetWriteDeadline(time.Time{})
}

// stop forbids further writes and tells whether they were forbidden before.
func (s *session) stop() (before bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.over = s.over, true
	return before
}

// write writes b for session s.
func (g *server) write(s *session, b []byte) (int, error) {
	g.writing.Lock()
	defer g.writing.Unlock()
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over {
		return 0, net.ErrClosed
	}
	return g.port.Write(b)
}

// send writes a record.
func (g *server) send(r record) error {
	g.writing.Lock()
	defer g.writing.Unlock()
	_, err := g.port.Write(r.encode(g.magic))
	return err
}
