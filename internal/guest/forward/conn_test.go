package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestHalfClose: the end of one direction leaves the other alone, whichever is first.
func TestHalfClose(t *testing.T) {
	a := newAgent(t)
	t.Run("the client first", func(t *testing.T) {
		address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			got, _ := io.ReadAll(conn)
			time.Sleep(20 * time.Millisecond)
			_, _ = fmt.Fprintf(conn, "got %d", len(got))
		})
		got, err := exchange(a.mustDial(t, "tcp", address.String()), pattern(100_000))
		if string(got) != "got 100000" || err != nil {
			t.Errorf("after the end of the input came %q, %v", got, err)
		}
	})
	t.Run("the service first", func(t *testing.T) {
		received := make(chan []byte, 1)
		address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			_ = conn.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(conn)
			received <- got
		})
		conn := a.mustDial(t, "tcp", address.String())
		if got, err := io.ReadAll(conn); len(got) > 0 || err != nil {
			t.Errorf("the service wrote nothing, and %q came, %v", got, err)
		}
		if _, err := conn.Write(pattern(100_000)); err != nil {
			t.Errorf("writing after the service's end of data: %v", err)
		}
		_ = conn.Close() // like a TCP connection's it loses nothing
		if got := <-received; !bytes.Equal(got, pattern(100_000)) {
			t.Errorf("the service got %d bytes of 100000", len(got))
		}
	})
}

// TestIdleDirection: a direction in which nothing moves does not hold the other one up.
func TestIdleDirection(t *testing.T) {
	a := newAgent(t)
	const size = 8 << 20 // more than every buffer on the way
	done := make(chan struct{})
	address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = conn.Write(pattern(size)) // without reading anything
		<-done
	})
	conn := a.mustDial(t, "tcp", address.String())
	go func() { _, _ = conn.Write(pattern(size)) }() // never ends
	if n, err := io.CopyN(io.Discard, conn, size); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
	close(done)
}

// TestReset: a connection that is broken on one side is broken on the other, and does not look like one that ended.
func TestReset(t *testing.T) {
	a := newAgent(t)
	t.Run("by the service", func(t *testing.T) {
		address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 4))
			_ = conn.(*net.TCPConn).SetLinger(0)
		})
		conn := a.mustDial(t, "tcp", address.String())
		_, _ = conn.Write([]byte("work"))
		if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reading gives %q, %v; want a reset", got, err)
		}
	})
	t.Run("by the host", func(t *testing.T) {
		failed := make(chan error, 1)
		address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
			_, err := io.ReadAll(conn)
			failed <- err
		})
		conn := a.mustDial(t, "tcp", address.String())
		_, _ = conn.Write([]byte("half a request"))
		conn.(*Conn).Abort()
		select {
		case err := <-failed:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the service's reading ends with %v; want a reset", err)
			}
		case <-time.After(limit):
			t.Error("the service does not notice")
		}
	})
}

// TestEarlyAnswer: a service that answers without reading everything, and closes, as an HTTP server does with a body that
// is too large. The answer arrives.
func TestEarlyAnswer(t *testing.T) {
	a := newAgent(t)
	address := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		_, _ = io.ReadFull(conn, make([]byte, 10))
		_, _ = io.WriteString(conn, "too large")
		_ = conn.(*net.TCPConn).CloseWrite()
		time.Sleep(50 * time.Millisecond)
	})
	conn := a.mustDial(t, "tcp", address.String())
	go func() { _, _ = conn.Write(pattern(32 << 20)) }()
	got := make([]byte, 9)
	if _, err := io.ReadFull(conn, got); string(got) != "too large" {
		t.Errorf("the answer is %q, %v", got, err)
	}
}

// TestDeadlines: what a deadline interrupts goes on afterwards, at whatever byte that was.
func TestDeadlines(t *testing.T) {
	stream, peer := net.Pipe()
	defer func() { _ = peer.Close() }()
	conn := newConn(stream, hostKinds(), nil, nil)
	defer conn.Abort()
	t.Run("reading", func(t *testing.T) {
		var sent bytes.Buffer
		frames := frame.NewWriter(&sent)
		_ = frames.Write(99, []byte("of a later version"))
		_ = frames.Write(frame.Stdout, []byte("hello"))
		_ = frames.Write(frame.StdoutEOF, nil)
		go func() {
			for _, b := range sent.Bytes() {
				_, _ = peer.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
		}()
		var got []byte
		interrupted := 0
		for b := make([]byte, 100); ; {
			_ = conn.SetReadDeadline(time.Now().Add(300 * time.Microsecond))
			n, err := conn.Read(b)
			got = append(got, b[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if err != nil {
				interrupted++
			}
		}
		if string(got) != "hello" || interrupted == 0 {
			t.Errorf("with %d interruptions %q was read, not hello", interrupted, got)
		}
	})
	t.Run("writing", func(t *testing.T) {
		const size = 3*frame.ChunkSize + 7
		received := make(chan []byte)
		go func() {
			var data []byte
			for {
				f, err := slowFrame(peer)
				if err != nil || f.Kind == frame.StdinEOF {
					received <- data
					return
				}
				data = append(data, f.Payload...)
			}
		}()
		interrupted := 0
		for left := pattern(size); len(left) > 0; {
			_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Millisecond))
			n, err := conn.Write(left)
			left = left[n:]
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if err != nil {
				interrupted++
			}
		}
		_ = conn.SetWriteDeadline(time.Time{})
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got := <-received; !bytes.Equal(got, pattern(size)) || interrupted == 0 {
			t.Errorf("with %d interruptions %d bytes of %d arrived", interrupted, len(got), size)
		}
	})
}

// slowFrame reads a frame piece by piece.
func slowFrame(r io.Reader) (frame.Frame, error) { return frame.Read(slowReader{r}) }

type slowReader struct{ io.Reader }

func (s slowReader) Read(b []byte) (int, error) {
	time.Sleep(500 * time.Microsecond)
	return s.Reader.Read(b[:min(len(b), 1000)])
}

// TestClosed: what waits ends with net.ErrClosed, and so does what comes later.
func TestClosed(t *testing.T) {
	a := newAgent(t)
	hold := make(chan struct{})
	address := service(t, "tcp", "127.0.0.1:0", func(net.Conn) { <-hold })
	defer close(hold)
	conn := a.mustDial(t, "tcp", address.String())
	endless := pattern(64 << 20)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading while the connection is closed gives %v", err)
		}
	})
	waiting.Go(func() {
		if _, err := conn.Write(endless); !errors.Is(err, net.ErrClosed) {
			t.Errorf("writing while the connection is closed gives %v", err)
		}
	})
	time.Sleep(50 * time.Millisecond)
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	waiting.Wait()
	for name, do := range map[string]func() error{
		"Read":       func() error { _, err := conn.Read(make([]byte, 1)); return err },
		"Write":      func() error { _, err := conn.Write([]byte("x")); return err },
		"CloseWrite": conn.(closeWriter).CloseWrite, "Close": conn.Close,
		"SetDeadline": func() error { return conn.SetDeadline(time.Time{}) },
	} {
		if err := do(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s of a closed connection gives %v", name, err)
		}
	}
}

// TestGuestGone: every connection fails when the session with the guest ends.
func TestGuestGone(t *testing.T) {
	a := newAgent(t)
	conn := a.mustDial(t, "tcp", service(t, "tcp", "127.0.0.1:0", echo).String())
	time.AfterFunc(20*time.Millisecond, func() { _ = a.Close() })
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading from a guest that is gone gives %v", err)
	}
}

// TestHTTP: Go's server and client, with connections that are kept, on either end.
func TestHTTP(t *testing.T) {
	a := newAgent(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer server.Close()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return a.dial(t, "tcp", server.Listener.Addr().String())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for _, size := range []int{0, 10, 3 << 20} {
		answer, err := client.Post("http://guest/", "text/plain", bytes.NewReader(pattern(size)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || !bytes.Equal(got, pattern(size)) {
			t.Errorf("of %d bytes %d came back, %v", size, len(got), err)
		}
	}
}

// TestManyConnections: a thousand short connections, 16 at a time, leave nothing behind (see newAgent).
func TestManyConnections(t *testing.T) {
	a := newAgent(t)
	address := service(t, "tcp", "127.0.0.1:0", echo).String()
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 1000 / 16 {
				conn, err := a.dial(t, "tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := exchange(conn, []byte("ping"))
				if string(got) != "ping" || err != nil {
					t.Errorf("%q came back, %v", got, err)
				}
				_ = conn.Close()
			}
		})
	}
	group.Wait()
}

// TestSlowReaders: 16 connections whose clients read nothing do not slow another one down.
func TestSlowReaders(t *testing.T) {
	a := newAgent(t)
	flood := service(t, "tcp", "127.0.0.1:0", func(conn net.Conn) { _, _ = conn.Write(pattern(16 << 20)) }).String()
	echoing := service(t, "tcp", "127.0.0.1:0", echo).String()
	measure := func() time.Duration {
		conn := a.mustDial(t, "tcp", echoing)
		start := time.Now()
		if got, err := exchange(conn, pattern(4<<20)); err != nil || len(got) != 4<<20 {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
		return time.Since(start)
	}
	alone := measure()
	for range 16 {
		a.mustDial(t, "tcp", flood)
	}
	time.Sleep(50 * time.Millisecond)
	if took := measure(); took > 5*time.Second+5*alone {
		t.Errorf("4 MiB took %v beside connections that do not move, and %v without", took, alone)
	}
}

// TestAllocations: moving data allocates nothing for each chunk.
func TestAllocations(t *testing.T) {
	stream, peer := socketPair(t)
	defer func() { _, _ = stream.Close(), peer.Close() }()
	from, to := newConn(stream, hostKinds(), nil, nil), newConn(peer, guestKinds(), nil, nil)
	data := pattern(frame.ChunkSize)
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := from.Write(data); err != nil {
			t.Fatal(err)
		}
		for left := len(data); left > 0; {
			b, err := to.next()
			if err != nil {
				t.Fatal(err)
			}
			left -= len(b)
		}
	})
	if allocations > 0 {
		t.Errorf("a chunk takes %v allocations", allocations)
	}
}
