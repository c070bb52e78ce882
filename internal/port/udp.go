package port

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banger-vm/banger/internal/guest/forward"
)

const (
	// maxFlows bounds the clients of one UDP port. A new one takes the place of the one that has been silent longest.
	maxFlows = 256
	// A flow's datagrams on their way to the guest; more are dropped.
	maxQueued      = 64
	maxQueuedBytes = 256 << 10
)

// udpPort is a published UDP port.
type udpPort struct {
	set     *Set
	guest   uint16
	socket  *net.UDPConn
	ctx     context.Context // ended by stop
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
}

// flow is the datagrams between one client and the guest.
type flow struct {
	port   *udpPort
	client netip.AddrPort
	ctx    context.Context
	cancel context.CancelFunc

	queue  chan []byte
	queued atomic.Int64 // bytes in queue
	last   atomic.Int64 // when a datagram passed, in nanoseconds since 1970
}

func (s *Set) listenUDP(spec Spec) (publication, error) {
	address := spec.address()
	socket, err := net.ListenUDP(network(UDP, address.Addr()), net.UDPAddrFromAddrPort(address))
	if err != nil {
		return publication{}, err
	}
	p := &udpPort{set: s, guest: spec.Guest, socket: socket, flows: map[netip.AddrPort]*flow{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.running.Go(p.serve)
	open := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	return publication{Published{open, spec.Guest, UDP}, p}, nil
}

func (p *udpPort) stop() {
	p.cancel()
	_ = p.socket.Close()
	p.running.Wait()
}

// serve sorts datagrams into flows until the socket is closed. It waits for none of them.
func (p *udpPort) serve() {
	buffer := make([]byte, forward.MaxDatagram)
	for {
		n, client, err := p.socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an earlier answer that a client refused
		}
		if f := p.flow(client); f != nil {
			f.push(buffer[:n])
		}
	}
}

// flow returns the flow of a client. It is nil when there are too many: the datagram is lost, and the longest silent
// flow ends.
func (p *udpPort) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil {
		return f
	}
	if len(p.flows) >= maxFlows {
		p.silent().cancel()
		return nil
	}
	f := &flow{port: p, client: client, queue: make(chan []byte, maxQueued)}
	f.ctx, f.cancel = context.WithCancel(p.ctx)
	f.touch()
	p.flows[client] = f
	p.running.Go(f.run)
	return f
}

// silent returns the flow whose last datagram is longest ago.
func (p *udpPort) silent() *flow {
	var oldest *flow
	for _, f := range p.flows {
		if oldest == nil || f.last.Load() < oldest.last.Load() {
			oldest = f
		}
	}
	return oldest
}

func (p *udpPort) remove(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.flows, f.client)
}

func (f *flow) touch() { f.last.Store(time.Now().UnixNano()) }

// push queues a copy of a datagram, unless too much is queued already.
func (f *flow) push(datagram []byte) {
	if f.queued.Load()+int64(len(datagram)) > maxQueuedBytes {
		return
	}
	select {
	case f.queue <- append([]byte{}, datagram...):
		f.queued.Add(int64(len(datagram)))
	default:
	}
}

// run carries datagrams both ways until the flow is silent, the guest has nobody who takes them, or the port is closed.
func (f *flow) run() {
	defer f.port.remove(f)
	defer f.cancel()
	conn, err := f.connect()
	if err == nil {
		stop := context.AfterFunc(f.ctx, conn.Abort)
		defer stop()
		var receiving sync.WaitGroup
		receiving.Go(func() { err = f.receive(conn) })
		f.send(conn)
		conn.Abort()
		receiving.Wait()
	}
	if f.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		f.port.set.report(fmt.Errorf("passing datagrams of %v to port %d of the guest: %w", f.client, f.port.guest, err))
	}
}

func (f *flow) connect() (*forward.PacketConn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialLimit)
	defer cancel()
	stream, err := f.port.set.config.Open(ctx)
	if err != nil {
		return nil, err
	}
	return forward.ConnectUDP(ctx, stream, guestAddress(f.port.guest))
}

// send passes on what is queued.
func (f *flow) send(conn *forward.PacketConn) {
	check := time.NewTicker(f.port.set.idle / 4)
	defer check.Stop()
	for {
		select {
		case datagram := <-f.queue:
			f.queued.Add(-int64(len(datagram)))
			f.touch()
			if _, err := conn.Write(datagram); err != nil {
				return
			}
		case now := <-check.C:
			if now.UnixNano()-f.last.Load() > int64(f.port.set.idle) {
				return
			}
		case <-f.ctx.Done():
			return
		}
	}
}

// receive passes on what the guest answers.
func (f *flow) receive(conn *forward.PacketConn) error {
	defer f.cancel()
	for {
		datagram, err := conn.ReadPacket()
		if err != nil {
			return err
		}
		f.touch()
		_, _ = f.port.socket.WriteToUDPAddrPort(datagram, f.client) // what the network does not take is lost
	}
}
