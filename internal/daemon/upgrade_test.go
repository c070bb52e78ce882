package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// leaving is a guest that has ended: it takes nothing more, and its last words are still on their way.
type leaving struct {
	net.Conn
	refused, closed chan struct{}
	words           []byte
}

// Write refuses.
func (l *leaving) Write([]byte) (int, error) {
	close(l.refused)
	return 0, errors.New("the guest has ended")
}

// Read gives the last words some time after a write was refused, unless the stream has been closed by then.
func (l *leaving) Read(b []byte) (int, error) {
	<-l.refused
	select {
	case <-l.closed:
		return 0, net.ErrClosed
	case <-time.After(50 * time.Millisecond):
	}
	if len(l.words) == 0 {
		return 0, io.EOF
	}
	n := copy(b, l.words)
	l.words = l.words[n:]
	return n, nil
}

// Close closes.
func (l *leaving) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

// TestLastWords: what a guest says before it closes reaches a client that still sends.
func TestLastWords(t *testing.T) {
	near, far := net.Pipe()
	guest := &leaving{refused: make(chan struct{}), closed: make(chan struct{}), words: []byte("exit code 3")}
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		join(t.Context(), &upgraded{Conn: far, in: bufio.NewReader(far)}, guest)
	}()
	if _, err := near.Write([]byte("input")); err != nil {
		t.Fatal(err)
	}
	_ = near.SetReadDeadline(time.Now().Add(30 * time.Second))
	got := make([]byte, 100)
	n, err := near.Read(got)
	if err != nil || string(got[:n]) != "exit code 3" {
		t.Errorf("read %q (%v), want the guest's last words", got[:n], err)
	}
	_ = near.Close()
	<-joined
}

// TestJoinEnds: the end of either side, or of the context, is that of the other.
func TestJoinEnds(t *testing.T) {
	for name, end := range map[string]func(client, guest net.Conn, cancel func()){
		"client":  func(client, _ net.Conn, _ func()) { _ = client.Close() },
		"guest":   func(_, guest net.Conn, _ func()) { _ = guest.Close() },
		"context": func(_, _ net.Conn, cancel func()) { cancel() },
	} {
		client, near := net.Pipe()
		guest, far := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		joined := make(chan struct{})
		go func() {
			defer close(joined)
			join(ctx, &upgraded{Conn: near, in: bufio.NewReader(near)}, far)
		}()
		end(client, guest, cancel)
		for side, conn := range map[string]net.Conn{"client": client, "guest": guest} {
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the end of the %s, the %s is still connected (%v)", name, side, err)
			}
		}
		<-joined
		cancel()
	}
}
