package forward

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Handlers returns what answers this package's requests in the guest.
func Handlers() frame.Router {
	g := &guest{pending: map[uint64]*pending{}}
	return frame.Router{doDial: g.dial, doListen: g.listen, doAccept: g.accept}
}

// guest is the agent's half: the connections that wait for the host to claim them.
type guest struct {
	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]*pending
}

// dial connects, and then copies until the connection has ended.
func (g *guest) dial(stream net.Conn, args []byte) *frame.Refusal {
	var to endpoint
	if refused := frame.Decode(args, &to); refused != nil {
		return refused
	}
	if to.Network == udp {
		return dialUDP(stream, to.Address)
	}
	conn := newConn(stream, guestKinds(), nil, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conn.watch(cancel)
	socket, refused := connect(ctx, to)
	if refused != nil {
		_ = stream.SetReadDeadline(time.Unix(1, 0)) // ends watch
		return refused
	}
	frame.Answer(stream, place{socket.RemoteAddr().String()})
	Join(context.Background(), conn, socket)
	return nil
}

func dialUDP(stream net.Conn, address string) *frame.Refusal {
	socket, refused := connectUDP(context.Background(), address)
	if refused != nil {
		return refused
	}
	frame.Answer(stream, place{socket.RemoteAddr().String()})
	return relay(newPacketConn(stream, guestKinds(), nil), socket, address)
}

// listen announces connections until the host ends the listener.
func (g *guest) listen(stream net.Conn, args []byte) *frame.Refusal {
	var at listenArgs
	if refused := frame.Decode(args, &at); refused != nil {
		return refused
	}
	socket, refused := listen(at)
	if refused != nil {
		return refused
	}
	frame.Answer(stream, place{socket.Addr().String()})
	l := newGuestListener(g, socket, stream)
	var announcing sync.WaitGroup
	announcing.Go(l.announce)
	awaitEnd(stream)
	l.close()
	announcing.Wait()
	g.drop(l)
	_ = l.frames.Write(frame.StdoutEOF, nil)
	return nil
}

// awaitEnd returns when the host has ended its listener or is gone.
func awaitEnd(stream net.Conn) {
	for {
		kind, _, err := readSmall(stream)
		if err != nil || kind == frame.StdinEOF {
			return
		}
	}
}

// accept hands a connection over, and copies until it has ended.
func (g *guest) accept(stream net.Conn, args []byte) *frame.Refusal {
	var which claim
	if refused := frame.Decode(args, &which); refused != nil {
		return refused
	}
	p := g.take(which.ID)
	if p == nil {
		return frame.Refuse(frame.NotFound, "connection %d of the guest has waited too long, or is none", which.ID)
	}
	frame.Answer(stream, place{})
	Join(context.Background(), newConn(stream, guestKinds(), nil, nil), p.conn)
	return nil
}
