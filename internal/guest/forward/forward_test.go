package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// limit is how long anything in these tests may take, on a machine that is busy with others.
const limit = 2 * time.Minute

// agent is an agent's end of this package, at the other end of a channel.
type agent struct{ *channel.Session }

func newAgent(t *testing.T) agent {
	t.Helper()
	checkLeaks(t)
	near, far := socketPair(t)
	magic := [channel.MagicSize]byte([]byte("0123456789abcdef"))
	router := Handlers()
	var running atomic.Int64
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = channel.Serve(far, magic, func(stream net.Conn) {
			running.Add(1)
			defer running.Add(-1)
			router.Serve(stream)
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	session, err := channel.Dial(ctx, near, magic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Every handler must end by itself, not only with the session.
		deadline := time.Now().Add(limit)
		for running.Load() > 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if n := running.Load(); n > 0 {
			t.Errorf("the agent still serves %d streams although every connection was closed", n)
		}
		_, _ = session.Close(), far.Close()
		serving.Wait()
	})
	return agent{session}
}

// socketPair returns two connected Unix sockets.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	return ends[0], ends[1]
}

// checkLeaks fails the test if it leaves goroutines or sockets behind.
func checkLeaks(t *testing.T) {
	t.Helper()
	goroutines, sockets := runtime.NumGoroutine(), openSockets(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(30 * time.Second)
		for time.Now().Before(deadline) && (runtime.NumGoroutine() > goroutines || len(openSockets(t)) > len(sockets)) {
			time.Sleep(5 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines are left, there were %d:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		if open := openSockets(t); len(open) > len(sockets) {
			t.Errorf("%d sockets are open, there were %d: %v, then %v", len(open), len(sockets), sockets, open)
		}
	})
}

// openSockets returns the sockets of this process, by number.
func openSockets(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	sockets := map[string]string{}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // the directory itself is closed by now
			if strings.HasPrefix(target, "socket:") {
				sockets[e.Name()] = target
			}
		}
	}
	return sockets
}

func (a agent) dial(t *testing.T, network, address string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	stream, err := a.Open(ctx)
	if err != nil {
		t.Fatalf("opening a stream: %v", err)
	}
	conn, err := Dial(ctx, stream, network, address)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(limit))
	}
	return conn, err
}

func (a agent) mustDial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	conn, err := a.dial(t, network, address)
	if err != nil {
		t.Fatalf("dialling %s %q: %v", network, address, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// service listens and calls serve for each connection, which is closed afterwards.
func service(t *testing.T, network, address string, serve func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	return l.Addr()
}

// echo sends back what comes. It hides what would make the kernel splice, whose pipes Go keeps.
func echo(conn net.Conn) { _, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) }

// port returns ":PORT", which is the guest itself for Dial.
func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return ":" + port
}

func pattern(n int) []byte { return bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n] }

type closeWriter interface{ CloseWrite() error }

// exchange sends data, ends it, and returns all that comes back.
func exchange(conn net.Conn, data []byte) ([]byte, error) {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.(closeWriter).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	return got, errors.Join(err, <-sent)
}

func TestEcho(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "socket")
	local := service(t, "tcp", "127.0.0.1:0", echo)
	tests := []struct{ name, network, address string }{
		{"tcp", "tcp", local.String()},
		{"the guest itself", "tcp", port(local)},
		{"localhost", "tcp", "localhost" + port(local)},
		{"only on the IPv6 loopback", "tcp", port(service(t, "tcp", "[::1]:0", echo))},
		{"localhost on IPv6", "tcp", "localhost" + port(service(t, "tcp", "[::1]:0", echo))},
		{"unix", "unix", service(t, "unix", path, echo).String()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{0, 1, frame.ChunkSize, frame.ChunkSize + 1, 5 << 20} {
				conn := a.mustDial(t, test.network, test.address)
				got, err := exchange(conn, pattern(size))
				if err != nil || !bytes.Equal(got, pattern(size)) {
					t.Errorf("of %d bytes %d came back, %v", size, len(got), err)
				}
				_ = conn.Close()
			}
		})
	}
}

// TestOwnAddress: a service that listens on the address of a card alone.
func TestOwnAddress(t *testing.T) {
	own := ownAddresses()
	if len(own) == 0 {
		t.Skip("this machine has no network card with an address")
	}
	a := newAgent(t)
	conn := a.mustDial(t, "tcp", port(service(t, "tcp", net.JoinHostPort(own[0], "0"), echo)))
	if got, err := exchange(conn, pattern(100)); err != nil || len(got) != 100 {
		t.Errorf("of 100 bytes %d came back, %v", len(got), err)
	}
}

func TestRefused(t *testing.T) {
	a := newAgent(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	nowhere := free.Addr().String()
	tests := []struct {
		network, address string
		reason           frame.Reason
		text             string
	}{
		{"tcp", nowhere, frame.NotFound, "nothing listens on " + nowhere + " in the guest"},
		{"tcp", port(free.Addr()), frame.NotFound, "nothing listens on port " + port(free.Addr())[1:] + " in the guest"},
		{"unix", "/no/such/socket", frame.NotFound, "nothing listens on /no/such/socket in the guest"},
		{"tcp", "no-port", frame.Refused, "no-port"},
		{"udp", "no-port", frame.Refused, "no-port"},
		{"tcp", "127.0.0.1:99999", frame.Failed, "99999"},
		{"tcp", "no-such-host.invalid:80", frame.NotFound, "no-such-host.invalid"},
		{"sctp", "127.0.0.1:1", frame.Refused, "sctp"},
	}
	for _, test := range tests {
		_, err := a.dial(t, test.network, test.address)
		var refused *frame.Refusal
		if !errors.As(err, &refused) {
			t.Errorf("dialling %s %q gives %v, which is no refusal", test.network, test.address, err)
			continue
		}
		if refused.Reason != test.reason || !strings.Contains(refused.Message, test.text) {
			t.Errorf("dialling %s %q gives (%s) %q, not (%s) %q", test.network, test.address, refused.Reason, refused, test.reason, test.text)
		}
	}
}
