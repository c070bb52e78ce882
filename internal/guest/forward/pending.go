package forward

import (
	"errors"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

const (
	// backlog is how many connections of one listener may wait for the host.
	backlog = 128
	// waitLimit is how long one of them waits.
	waitLimit = 30 * time.Second
	// retryInterval is how long a listener pauses when the guest has no file descriptors or memory left.
	retryInterval = 100 * time.Millisecond
)

// pending is a connection that waits for the host to claim it.
type pending struct {
	conn     net.Conn
	listener *guestListener
	timer    *time.Timer
}

// add lets conn wait, and returns its id.
func (g *guest) add(conn net.Conn, l *guestListener) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastID++
	id := g.lastID
	g.pending[id] = &pending{conn, l, time.AfterFunc(waitLimit, func() { g.expire(id) })}
	return id
}

// take removes and returns a connection; nil if it does not wait.
func (g *guest) take(id uint64) *pending {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pending[id]
	if p == nil {
		return nil
	}
	delete(g.pending, id)
	p.timer.Stop()
	<-p.listener.room
	return p
}

func (g *guest) expire(id uint64) {
	if p := g.take(id); p != nil {
		reset(p.conn)
	}
}

// drop resets what waits at l.
func (g *guest) drop(l *guestListener) {
	g.mu.Lock()
	var ids []uint64
	for id, p := range g.pending {
		if p.listener == l {
			ids = append(ids, id)
		}
	}
	g.mu.Unlock()
	for _, id := range ids {
		g.expire(id)
	}
}

// guestListener is a socket that listens in the guest for the host.
type guestListener struct {
	guest  *guest
	socket net.Listener
	stream net.Conn // carries the announcements
	frames *frame.Writer
	room   chan struct{} // has an element for each connection that waits
	closed chan struct{}
}

func newGuestListener(g *guest, socket net.Listener, stream net.Conn) *guestListener {
	return &guestListener{
		guest: g, socket: socket, stream: stream, frames: frame.NewWriter(stream),
		room: make(chan struct{}, backlog), closed: make(chan struct{}),
	}
}

// announce accepts connections and tells the host, as long as there is room.
func (l *guestListener) announce() {
	for {
		select {
		case l.room <- struct{}{}:
		case <-l.closed:
			return
		}
		conn, err := l.socket.Accept()
		if err != nil {
			<-l.room
			if errors.Is(err, net.ErrClosed) || !l.pause() {
				return
			}
			continue
		}
		a := arrival{Remote: conn.RemoteAddr().String()}
		a.ID = l.guest.add(conn, l)
		if l.frames.WriteJSON(frame.Accepted, a) != nil {
			return
		}
	}
}

// pause waits before the next attempt. It is false when the listener was closed.
func (l *guestListener) pause() bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-l.closed:
		return false
	}
}

// close ends announce.
func (l *guestListener) close() {
	close(l.closed)
	_ = l.socket.Close()
	_ = l.stream.SetWriteDeadline(time.Now().Add(unlistenLimit)) // the host may not read any more
}
