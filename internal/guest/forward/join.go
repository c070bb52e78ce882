package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Join copies between conn and socket, both ways, until both directions have ended, and closes both. An end of data in one
// direction is passed on as such (CloseWrite) and leaves the other direction alone. A connection that is reset, or whose
// other side is gone, resets the other one. So does the end of ctx.
func Join(ctx context.Context, conn *Conn, socket net.Conn) {
	j := &joint{conn: conn, socket: socket}
	stop := context.AfterFunc(ctx, j.abort)
	defer stop()
	var both sync.WaitGroup
	both.Go(j.send)
	j.receive()
	both.Wait()
	_ = socket.Close()
	conn.Abort()
}

// joint is a connection joined with a socket.
type joint struct {
	conn   *Conn
	socket net.Conn

	mu       sync.Mutex
	sent     bool // nothing more comes from the socket
	received bool // nothing more goes to the socket
	deaf     bool // the socket takes nothing any more
}

// abort resets both sides, which ends every Read and Write on them.
func (j *joint) abort() {
	j.conn.Abort()
	reset(j.socket)
}

// reset closes a socket so that its peer gets an error instead of what looks like a complete answer.
func reset(socket net.Conn) {
	if socket, ok := socket.(*net.TCPConn); ok {
		_ = socket.SetLinger(0) // RST instead of FIN
	}
	_ = socket.Close()
}

// send copies from the socket.
func (j *joint) send() {
	_, err := j.conn.ReadFrom(j.socket)
	if err == nil {
		err = j.conn.CloseWrite()
	}
	if err != nil {
		j.abort()
		return
	}
	j.note(func() { j.sent = true })
}

// receive copies to the socket, and goes on reading afterwards: only that tells that the other side is gone.
func (j *joint) receive() {
	deaf := false
	for {
		b, err := j.conn.next()
		switch {
		case errors.Is(err, io.EOF):
			j.shutSocket()
			j.conn.drain()
			j.conn.Abort() // ends a write to somebody who is gone
			_ = j.socket.Close()
			return
		case err != nil:
			j.abort()
			return
		case deaf: // goes nowhere, as long as data comes from the socket
		default:
			if _, err := j.socket.Write(b); err != nil {
				deaf = true
				j.note(func() { j.deaf = true })
			}
		}
	}
}

// shutSocket passes the end of data on.
func (j *joint) shutSocket() {
	if socket, ok := j.socket.(interface{ CloseWrite() error }); ok {
		_ = socket.CloseWrite() // fails when the peer is gone, which shows elsewhere
	}
	j.note(func() { j.received = true })
}

// note changes the state and ends the connection when that was the last thing that it waited for.
func (j *joint) note(change func()) {
	j.mu.Lock()
	change()
	clean, lost := j.sent && j.received, j.sent && j.deaf
	j.mu.Unlock()
	switch {
	case lost:
		j.abort()
	case clean:
		j.conn.Abort() // both directions have ended: nothing is lost
	}
}
