package registrytest

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// Wire is a network between a client and a server, which can go dead: a connection on it stays open then, and carries
// nothing any more, as when a cable is pulled or a gateway forgets it.
type Wire struct {
	Address  string // localhost:PORT
	server   string
	listener net.Listener

	mu          sync.Mutex
	dead        int   // how many of the next connections go dead
	after       int64 // bytes to the client
	connections []net.Conn
}

// NewWire starts one to a server's HOST:PORT, which ends with the test. The first connections, as many as dead says, go
// dead after some bytes to the client.
func NewWire(t testing.TB, server string, dead int, after int64) *Wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{
		Address: strings.Replace(listener.Addr().String(), "127.0.0.1", "localhost", 1), server: server, listener: listener,
		dead: dead, after: after,
	}
	go w.accept()
	t.Cleanup(w.close)
	return w
}

// Connections is how many there were.
func (w *Wire) Connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.connections) / 2
}

func (w *Wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		w.mu.Lock()
		w.connections = append(w.connections, client, server)
		limit := int64(-1)
		if w.dead > 0 {
			w.dead--
			limit = w.after
		}
		w.mu.Unlock()
		l := &line{left: limit}
		go l.carry(client, server, true)
		go l.carry(server, client, false)
	}
}

func (w *Wire) close() {
	_ = w.listener.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.connections {
		_ = c.Close()
	}
}

// line is a connection on a wire.
type line struct {
	mu   sync.Mutex
	left int64 // bytes to the client until it goes dead; negative: it does not
}

// carry copies until an end closes, or forgets what it reads once the line is dead.
func (l *line) carry(to, from net.Conn, counted bool) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		if l.pass(n, counted) {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if l.pass(0, counted) {
				_ = to.Close()
			}
			return
		}
	}
}

// pass reports whether the line carries n more bytes.
func (l *line) pass(n int, counted bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left < 0 {
		return true
	}
	if counted {
		l.left = max(l.left-int64(n), 0)
	}
	return l.left > 0
}
