package channel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

// synInterval is how often the host repeats its SYN until the agent answers.
const synInterval = 500 * time.Millisecond

// Session is the host's end of a channel. It is safe for concurrent use.
type Session struct {
	conn  net.Conn
	magic [MagicSize]byte
	nonce nonce
	mux   *yamux.Session

	acked  chan struct{} // closed by the reader at the ACK
	ended  chan struct{} // closed by the reader at its end
	cause  error         // why the reader ended; set before ended is closed
	input  *io.PipeWriter
	output *io.PipeReader
	once   sync.Once

	received atomic.Uint64
}

// Dial begins a session with the agent at the other end of conn, which is the socket of the VMM's virtio-serial port.
// It repeats its request until the agent answers or ctx ends, so that it may be called before the guest has booted.
// The session owns conn, and Dial closes it when it fails. A socket serves one session at a time: while another
// process is connected to the VMM, Dial gets no answer.
func Dial(ctx context.Context, conn net.Conn, magic [MagicSize]byte) (*Session, error) {
	s := &Session{conn: conn, magic: magic, acked: make(chan struct{}), ended: make(chan struct{})}
	s.output, s.input = io.Pipe()
	if _, err := rand.Read(s.nonce[:]); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("making a nonce: %w", err)
	}
	go s.read()
	if err := s.handshake(ctx); err != nil {
		s.hangUp()
		return nil, fmt.Errorf("waiting for the guest's agent: %w", err)
	}
	return s, nil
}

// handshake sends SYN until the reader has met the ACK, then begins the session.
func (s *Session) handshake(ctx context.Context) error {
	tick := time.NewTicker(synInterval)
	defer tick.Stop()
	for {
		if err := s.send(kindSYN, synInterval); err != nil && !isTimeout(err) {
			return err
		}
		select {
		case <-s.acked:
			return s.begin()
		case <-s.ended:
			return s.cause
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// begin starts the multiplexer after the ACK.
func (s *Session) begin() error {
	if err := s.send(kindGo, writeTimeout); err != nil {
		return err
	}
	mux, err := yamux.Client(&pipe{PipeReader: s.output, write: s.conn.Write, close: s.hangUp}, muxConfig(closeTimeout))
	s.mux = mux
	return err
}

// send writes one record, waiting for the VMM no longer than limit. A record that is cut off by the limit does no
// harm: the agent finds the next one.
func (s *Session) send(k kind, limit time.Duration) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(limit))
	defer func() { _ = s.conn.SetWriteDeadline(time.Time{}) }()
	_, err := s.conn.Write(record{kind: k, nonce: s.nonce}.encode(s.magic))
	return err
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// read passes on what the agent sends after its ACK and drops everything before: that was for an earlier session.
func (s *Session) read() {
	s.cause = s.demultiplex()
	close(s.ended) // before the multiplexer learns of it, which closes Done
	_ = s.input.CloseWithError(s.cause)
}

func (s *Session) demultiplex() error {
	scan := scanner{magic: s.magic}
	buffer := make([]byte, 64<<10)
	open := false
	var rules filter
	for {
		n, err := s.conn.Read(buffer)
		s.received.Add(uint64(n))
		for piece := buffer[:n]; len(piece) > 0; {
			data, r, rest, found := scan.next(piece)
			if open && len(data) > 0 {
				if err := rules.check(data); err != nil {
					return err
				}
				_, _ = s.input.Write(data) // fails only when the session is closed, which is known elsewhere
			}
			if found && open && r.kind == kindHello {
				return errAgentGone
			}
			if found && !open && r.kind == kindACK && r.nonce == s.nonce {
				open = true
				close(s.acked)
			}
			piece = rest
		}
		if err != nil {
			return fmt.Errorf("reading from the guest's channel: %w", err)
		}
	}
}

// Open opens a stream, for which the agent calls its handler. The caller closes it.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	opened := make(chan result, 1)
	go func() {
		conn, err := s.mux.Open()
		opened <- result{conn, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("opening a stream to the guest: %w", r.err)
		}
		return r.conn, nil
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, fmt.Errorf("opening a stream to the guest: %w", context.Cause(ctx))
	}
}

// Received returns how many bytes have come from the guest: a number that grows is a sign of life.
func (s *Session) Received() uint64 { return s.received.Load() }

// Done is closed when the session has ended, by Close or because the other side is gone.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Err returns why the session has ended, or nil while it lasts.
func (s *Session) Err() error {
	select {
	case <-s.ended:
		return s.cause
	default:
		return nil
	}
}

// Close ends the session: the agent ends what runs on its streams. It closes the socket.
func (s *Session) Close() error {
	// The multiplexer's writes hold no lock here, so the record may land within a frame. The agent finds it there too.
	_ = s.send(kindEnd, synInterval)
	return s.mux.Close()
}

// hangUp closes the socket, which ends the reader.
func (s *Session) hangUp() {
	s.once.Do(func() {
		_ = s.output.Close()
		_ = s.conn.Close()
	})
}
