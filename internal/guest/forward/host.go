package forward

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

const (
	// maxReply bounds a guest's replies and announcements, in bytes.
	maxReply = 4 << 10
	// claimLimit is how long the agent may take to hand over a connection that it has announced.
	claimLimit = 10 * time.Second
	// unlistenLimit is how long Close of a listener waits for the guest to have closed its own.
	unlistenLimit = time.Second
)

// Dial connects to an address as the guest sees it. It takes stream over, and closes it when it fails. ctx is for the time
// until the connection stands.
//
//   - "tcp", HOST:PORT: names are the guest's to look up. An empty host is the guest itself, wherever its service listens:
//     127.0.0.1, ::1 or an address of the guest's own are tried in this order; "localhost" is the first two.
//   - "unix", PATH.
//   - "udp", HOST:PORT as for tcp: each Write sends a datagram, each Read returns one.
//
// The first two give a *Conn, which has CloseWrite; the last a *PacketConn. A connection that the guest cannot make is
// a *frame.Refusal that names the address; its reason is NotFound when nothing listens there.
func Dial(ctx context.Context, stream net.Conn, network, address string) (net.Conn, error) {
	if network == udp {
		return ConnectUDP(ctx, stream, address)
	}
	return Connect(ctx, stream, network, address)
}

// Connect is Dial for "tcp" and "unix".
func Connect(ctx context.Context, stream net.Conn, network, address string) (*Conn, error) {
	remote, err := ask(ctx, stream, doDial, endpoint{network, address})
	if err != nil {
		return nil, err
	}
	return newConn(stream, hostKinds(), namedAddr{network: network}, remoteOf(network, address, remote)), nil
}

// ConnectUDP is Dial for "udp".
func ConnectUDP(ctx context.Context, stream net.Conn, address string) (*PacketConn, error) {
	remote, err := ask(ctx, stream, doDial, endpoint{udp, address})
	if err != nil {
		return nil, err
	}
	return newPacketConn(stream, hostKinds(), remoteOf(udp, address, remote)), nil
}

// remoteOf prefers the address that the guest came to, which is one of several when a name was asked for.
func remoteOf(network, asked, came string) net.Addr {
	if network == unixSocket {
		return namedAddr{network, asked}
	}
	if addr := addrOf(network, came); addr.String() != "" {
		return addr
	}
	return namedAddr{network, asked}
}

// ask sends a request whose reply is a place. When it fails it closes stream.
func ask(ctx context.Context, stream net.Conn, do string, args any) (string, error) {
	var came place
	if err := frame.Ask(ctx, &bounded{stream, maxReply}, do, args, &came); err != nil {
		frame.HangUp(stream)
		return "", err
	}
	return came.Address, nil
}

// bounded is a stream of which so many bytes can be read.
type bounded struct {
	net.Conn
	left int
}

// Read reads, but not beyond the bound.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the guest's answer is longer than %d bytes", maxReply)
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// Listen has the guest listen on an address: "tcp" with HOST:PORT, where an empty host is every address and port 0 a free
// one, or "unix" with a PATH, where nothing may be and from where the socket is removed at the end. Each connection that
// the guest accepts is a *Conn whose RemoteAddr is the guest's peer. A listener holds a stream of its own, and one for each
// connection; open makes them. ctx is for the time until the guest listens.
//
// The guest lets 128 connections wait for Accept, each for half a minute, and then resets them. Closing the listener
// resets those that wait; those that Accept has returned go on.
func Listen(ctx context.Context, open func(context.Context) (net.Conn, error), network, address string, options ...Option,
) (net.Listener, error) {
	args := listenArgs{endpoint: endpoint{network, address}}
	for _, option := range options {
		option(&args)
	}
	stream, err := open(ctx)
	if err != nil {
		return nil, fmt.Errorf("listening on %q in the guest: %w", address, err)
	}
	came, err := ask(ctx, stream, doListen, args)
	if err != nil {
		return nil, err
	}
	l := &listener{stream: stream, open: open, network: network, addr: namedAddr{network, address}}
	if network == tcp {
		l.addr = addrOf(network, came)
	}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return l, nil
}

// listener is the host's end of a listener of the guest.
type listener struct {
	stream  net.Conn // of the request; carries arrivals
	open    func(context.Context) (net.Conn, error)
	network string
	addr    net.Addr
	ctx     context.Context // ended by Close
	cancel  context.CancelCauseFunc

	mu  sync.Mutex // held by whoever reads from stream
	end error      // nothing more can be read from stream
}

// Accept returns the next connection. It fails with net.ErrClosed after Close, and with another error when the guest is
// gone.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		a, err := l.next()
		if err != nil {
			return nil, frame.Cause(l.ctx, err)
		}
		conn, err := l.claim(a)
		if err == nil {
			return conn, nil
		}
		var late *frame.Refusal
		if errors.As(err, &late) || errors.Is(err, context.DeadlineExceeded) {
			continue // it has waited too long, and is gone
		}
		return nil, frame.Cause(l.ctx, err)
	}
}

// next reads the next arrival. Every error is final.
func (l *listener) next() (a arrival, err error) {
	if l.end == nil {
		a, l.end = readArrival(l.stream)
	}
	return a, l.end
}

// readArrival reads frames up to an arrival. The end of the listener is io.EOF.
func readArrival(stream io.Reader) (arrival, error) {
	var a arrival
	for {
		kind, payload, err := readSmall(stream)
		switch {
		case err != nil:
			return a, frame.Lost(err)
		case kind == frame.StdoutEOF:
			return a, io.EOF
		case kind == frame.Accepted:
			if err := json.Unmarshal(payload, &a); err != nil {
				return a, fmt.Errorf("reading what the guest says of a connection: %w", err)
			}
			return a, nil
		}
	}
}

// readSmall reads a frame that the guest has no reason to make long.
func readSmall(r io.Reader) (frame.Kind, []byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxReply {
		return 0, nil, fmt.Errorf("a frame of type %d has %d bytes", header[0], length)
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(r, payload)
	return frame.Kind(header[0]), payload, err
}

// claim has the guest hand over a connection.
func (l *listener) claim(a arrival) (*Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, claimLimit)
	defer cancel()
	stream, err := l.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("accepting a connection of the guest: %w", err)
	}
	if _, err := ask(ctx, stream, doAccept, claim{a.ID}); err != nil {
		return nil, err
	}
	return newConn(stream, hostKinds(), l.addr, addrOf(l.network, a.Remote)), nil
}

// Close has the guest stop listening, and waits until it has, for a second at most.
func (l *listener) Close() error {
	if l.ctx.Err() != nil {
		return net.ErrClosed
	}
	l.cancel(net.ErrClosed)
	_ = l.stream.SetDeadline(time.Now().Add(unlistenLimit))
	_ = frame.NewWriter(l.stream).Write(frame.StdinEOF, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.end == nil {
		_, _ = l.next()
	}
	frame.HangUp(l.stream)
	return nil
}

// Addr returns the address on which the guest listens.
func (l *listener) Addr() net.Addr { return l.addr }
