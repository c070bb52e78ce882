package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/forward"
)

// retryInterval is how long a listener pauses when the process has no file descriptors left.
const retryInterval = 50 * time.Millisecond

// tcpPort is a published TCP port.
type tcpPort struct {
	set      *Set
	guest    uint16
	listener *net.TCPListener
	ctx      context.Context // ended by stop
	cancel   context.CancelFunc
	running  sync.WaitGroup
	room     chan struct{} // has an element for each connection
}

func (s *Set) listenTCP(spec Spec) (publication, error) {
	address := spec.address()
	l, err := net.ListenTCP(network(TCP, address.Addr()), net.TCPAddrFromAddrPort(address))
	if err != nil {
		return publication{}, err
	}
	p := &tcpPort{set: s, guest: spec.Guest, listener: l, room: make(chan struct{}, maxConnections)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.serve)
	open := l.Addr().(*net.TCPAddr).AddrPort()
	return publication{Published{open, spec.Guest, TCP}, p}, nil
}

func (p *tcpPort) stop() {
	p.cancel()
	_ = p.listener.Close()
	p.running.Wait()
}

// serve accepts connections until the listener is closed.
func (p *tcpPort) serve() {
	for {
		select {
		case p.room <- struct{}{}:
		case <-p.ctx.Done():
			return
		}
		client, err := p.listener.AcceptTCP()
		if err == nil {
			p.running.Go(func() { p.carry(client) })
			continue
		}
		<-p.room
		if errors.Is(err, net.ErrClosed) {
			return
		}
		time.Sleep(retryInterval)
	}
}

// carry connects a client with the guest. Where there is no service the client gets RST, as without banger between.
func (p *tcpPort) carry(client *net.TCPConn) {
	defer func() { <-p.room }()
	conn, err := p.connect()
	if err != nil {
		p.set.report(fmt.Errorf("connecting %v to port %d of the guest: %w", client.RemoteAddr(), p.guest, err))
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	forward.Join(p.ctx, conn, client)
}

func (p *tcpPort) connect() (*forward.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialLimit)
	defer cancel()
	stream, err := p.set.config.Open(ctx)
	if err != nil {
		return nil, err
	}
	return forward.Connect(ctx, stream, string(TCP), guestAddress(p.guest))
}

// guestAddress is a port of the guest on whichever of its addresses.
func guestAddress(port uint16) string { return fmt.Sprintf(":%d", port) }
