package port

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/guest/forward"
)

// limit is how long anything in these tests may take, on a machine that is busy with others.
const limit = 2 * time.Minute

// newSet returns a Set whose guest is this machine, behind a channel as a VM's. At the end of the test nothing may be left.
func newSet(t *testing.T) *Set {
	t.Helper()
	checkLeaks(t)
	near, far := net.Pipe()
	magic := [channel.MagicSize]byte([]byte("0123456789abcdef"))
	router := forward.Handlers()
	var serving sync.WaitGroup
	serving.Go(func() { _ = channel.Serve(far, magic, func(s net.Conn) { serving.Go(func() { router.Serve(s) }) }) })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	session, err := channel.Dial(ctx, near, magic)
	if err != nil {
		t.Fatal(err)
	}
	set := New(Config{Open: session.Open})
	t.Cleanup(func() {
		set.Close()
		_, _ = session.Close(), far.Close()
		serving.Wait()
	})
	return set
}

// checkLeaks fails the test if it leaves goroutines or sockets behind.
func checkLeaks(t *testing.T) {
	t.Helper()
	goroutines, sockets := runtime.NumGoroutine(), openSockets(t)
	t.Cleanup(func() {
		deadline := time.Now().Add(30 * time.Second)
		for time.Now().Before(deadline) && (runtime.NumGoroutine() > goroutines || openSockets(t) > sockets) {
			time.Sleep(5 * time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines are left, there were %d:\n%s", n, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		if n := openSockets(t); n > sockets {
			t.Errorf("%d sockets are open, there were %d", n, sockets)
		}
	})
}

func openSockets(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// add publishes one port, written as format and args say.
func add(t *testing.T, s *Set, format string, args ...any) Published {
	t.Helper()
	specs, err := Parse(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Add(specs...)
	if err != nil || len(list) != 1 {
		t.Fatalf("publishing %v gives %v, %v", specs, list, err)
	}
	return list[0]
}

// service listens on a loopback address and calls serve for each connection, which is closed afterwards. It returns the port.
func service(t *testing.T, serve func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
	return l.Addr().(*net.TCPAddr).Port
}

// echo sends back what comes. It hides what would make the kernel splice, whose pipes Go keeps.
func echo(conn net.Conn) { _, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}) }

func pattern(n int) []byte { return bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n] }

func dial(t *testing.T, network string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(limit))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// exchange sends data, ends it, and returns all that comes back.
func exchange(conn net.Conn, data []byte) ([]byte, error) {
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	return got, errors.Join(err, <-sent)
}

func TestTCP(t *testing.T) {
	s := newSet(t)
	guest := service(t, echo)
	for _, ip := range []string{"", "127.0.0.1::", "127.0.0.2::", "0.0.0.0::", "[::1]::", "[::]::"} {
		p := add(t, s, "%s%d", ip, guest)
		if ip == "" && p.Address.Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("without an address the port is open on %v", p.Address)
		}
		for _, size := range []int{0, 1, 3 << 20} {
			got, err := exchange(dial(t, "tcp", p.Address), pattern(size))
			if err != nil || !bytes.Equal(got, pattern(size)) {
				t.Errorf("%v: of %d bytes %d came back, %v", p, size, len(got), err)
			}
		}
	}
}

// TestCurl: Go's server in the guest, curl on the host.
func TestCurl(t *testing.T) {
	s := newSet(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	defer server.Close()
	p := add(t, s, "%d", server.Listener.Addr().(*net.TCPAddr).Port)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, pattern(5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("curl", "-sS", "--noproxy", "*", "--data-binary", "@"+file, fmt.Sprintf("http://%v/", p.Address)).Output()
	if err != nil || !bytes.Equal(out, pattern(5<<20)) {
		t.Errorf("curl gets %d bytes of %d back, %v", len(out), 5<<20, err)
	}
}

// TestNoService: clients find their connections reset, and the caller is told why, but not of each.
func TestNoService(t *testing.T) {
	s := newSet(t)
	reports := make(chan error, 100)
	s.config.Report = func(err error) { reports <- err }
	p := add(t, s, "1")
	start := time.Now()
	for range 50 {
		conn, err := net.Dial("tcp", p.Address.String())
		if err == nil { // the reset may be quicker
			_, err = io.ReadAll(conn)
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a client without a service gets %v; want a reset", err)
		}
	}
	if n, seconds := len(reports), int(time.Since(start)/reportInterval); n > seconds+1 {
		t.Errorf("there are %d reports in %d seconds", n, seconds)
	}
	if err := <-reports; !strings.Contains(err.Error(), "nothing listens on port 1 in the guest") {
		t.Errorf("the report is %v", err)
	}
}

// TestReset: a service that resets its connection resets the client's.
func TestReset(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "%d", service(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte("half"))
		_, _ = io.ReadFull(conn, make([]byte, 4))
		_ = conn.(*net.TCPConn).SetLinger(0)
	}))
	conn := dial(t, "tcp", p.Address)
	_, _ = io.ReadFull(conn, make([]byte, 4))
	_, _ = conn.Write([]byte("half"))
	if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the service's reset a client reads %q, %v; want a reset", got, err)
	}
}

// TestGuestSilent: while the guest answers nothing, another port works, and everything can be closed.
func TestGuestSilent(t *testing.T) {
	s := newSet(t)
	works := add(t, s, "%d", service(t, echo))
	open := s.config.Open
	silent := New(Config{Open: func(ctx context.Context) (net.Conn, error) {
		if ctx.Value(t) != nil {
			return open(ctx)
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	p := add(t, silent, "80")
	q := add(t, silent, "80/udp")
	for range 20 {
		dial(t, "tcp", p.Address)
		_, _ = dial(t, "udp", q.Address).Write([]byte("x"))
	}
	if got, err := exchange(dial(t, "tcp", works.Address), []byte("x")); string(got) != "x" || err != nil {
		t.Errorf("%q came back, %v", got, err)
	}
	time.Sleep(20 * time.Millisecond)
	closeInTime(t, silent)
}

// TestGuestFrozen: while the guest takes nothing from a channel that is full, ports can be listed and removed, and their
// clients learn of it.
func TestGuestFrozen(t *testing.T) {
	checkLeaks(t)
	near, far := net.Pipe()
	magic := [channel.MagicSize]byte([]byte("0123456789abcdef"))
	frozen := &freezer{Conn: far, thawed: make(chan struct{})}
	router := forward.Handlers()
	var serving sync.WaitGroup
	serving.Go(func() { _ = channel.Serve(frozen, magic, func(s net.Conn) { serving.Go(func() { router.Serve(s) }) }) })
	session, err := channel.Dial(t.Context(), near, magic)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Open: session.Open})
	p := add(t, s, "%d", service(t, echo))
	q := add(t, s, "%d/udp", packetService(t))
	client, datagrams := dial(t, "tcp", p.Address), dial(t, "udp", q.Address)
	checkEcho(t, datagrams, 10)
	if got, err := exchangeSome(client, "before"); got != "before" {
		t.Fatal(err)
	}
	frozen.now.Store(true)
	written := make(chan error, 1)
	go func() {
		_, err := client.Write(pattern(32 << 20))
		written <- err
	}()
	_, _ = datagrams.Write([]byte("x"))
	time.Sleep(200 * time.Millisecond) // the channel fills up
	done := make(chan error, 1)
	go func() {
		_, err := s.Remove(Spec{Guest: p.Guest, Protocol: TCP}, Spec{Guest: q.Guest, Protocol: UDP})
		s.List()
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("removing the ports takes more than 10 s")
	}
	if err := <-written; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of a port that was removed gets %v; want a reset", err)
	}
	_ = session.Close()
	close(frozen.thawed)
	_ = far.Close()
	serving.Wait()
}

// freezer is a port of the guest that is not read from meanwhile.
type freezer struct {
	net.Conn
	now    atomic.Bool
	thawed chan struct{}
}

func (f *freezer) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.now.Load() {
		<-f.thawed
	}
	return n, err
}

// closeInTime closes a Set, whatever goes on in it.
func closeInTime(t *testing.T, s *Set) {
	t.Helper()
	done := make(chan struct{})
	go func() { s.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("closing takes more than 30 s")
	}
}

// TestClose: connections in every state end with the Set, and nothing is left (see newSet).
func TestClose(t *testing.T) {
	s := newSet(t)
	idle := add(t, s, "%d", service(t, echo))
	flood := add(t, s, "%d", service(t, func(conn net.Conn) { _, _ = conn.Write(pattern(16 << 20)) }))
	deaf := add(t, s, "%d", service(t, func(net.Conn) { time.Sleep(time.Second) }))
	flow := add(t, s, "%d/udp", packetService(t))
	var clients []net.Conn
	for range 5 {
		clients = append(clients, dial(t, "tcp", idle.Address), dial(t, "tcp", flood.Address))
		stuck := dial(t, "tcp", deaf.Address)
		go func() { _, _ = stuck.Write(pattern(16 << 20)) }()
		_, _ = dial(t, "udp", flow.Address).Write([]byte("x"))
	}
	time.Sleep(100 * time.Millisecond)
	closeInTime(t, s)
	for _, c := range clients {
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a client's connection ends with %v; want a reset", err)
		}
	}
	if _, err := net.Dial("tcp", idle.Address.String()); err == nil {
		t.Error("the port is still open")
	}
	if _, err := s.Add(Spec{Guest: 1, Protocol: TCP}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("publishing in a closed Set gives %v", err)
	}
}

// TestManyConnections: a thousand short connections, 16 at a time.
func TestManyConnections(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "%d", service(t, echo))
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for range 1000 / 16 {
				conn, err := net.Dial("tcp", p.Address.String())
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := exchange(conn, []byte("ping")); string(got) != "ping" || err != nil {
					t.Errorf("%q came back, %v", got, err)
				}
				_ = conn.Close()
			}
		})
	}
	group.Wait()
}

// TestParallel: 16 clients at once, of whom one half reads nothing for a while.
func TestParallel(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "%d", service(t, echo))
	const size = 2 << 20
	release := make(chan struct{})
	var quick, slow sync.WaitGroup
	for i := range 16 {
		conn := dial(t, "tcp", p.Address)
		group := &quick
		if i%2 == 0 {
			group = &slow
		}
		group.Go(func() {
			go func() { _, _ = conn.Write(pattern(size)) }()
			if group == &slow {
				<-release
			}
			got := make([]byte, size)
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, pattern(size)) {
				t.Errorf("what came back of %d bytes differs, %v", size, err)
			}
		})
	}
	quick.Wait()
	close(release)
	slow.Wait()
}

func TestRemove(t *testing.T) {
	s := newSet(t)
	guest := service(t, echo)
	first := add(t, s, "%d", guest)
	second := add(t, s, "127.0.0.2::%d", guest)
	third := add(t, s, "%d/udp", guest)
	list := func(want ...Published) {
		t.Helper()
		if got := s.List(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("published are %v, not %v", got, want)
		}
	}
	list(first, second, third)
	conn := dial(t, "tcp", first.Address)
	if _, err := s.Remove(Spec{Guest: 1, Protocol: TCP}); fault.KindOf(err) != fault.NotFound || !strings.Contains(fault.HintOf(err), first.String()) {
		t.Errorf("removing what is not published gives %v, kind %d, hint %q", err, fault.KindOf(err), fault.HintOf(err))
	}
	if _, err := s.Remove(Spec{Guest: uint16(guest), Protocol: UDP}, Spec{Guest: 1, Protocol: TCP}); err == nil {
		t.Error("removing two ports of which one is not published succeeds")
	}
	list(first, second, third)
	exact := Spec{IP: second.Address.Addr(), Host: second.Address.Port(), Guest: uint16(guest), Protocol: TCP}
	if removed, err := s.Remove(exact); err != nil || fmt.Sprint(removed) != fmt.Sprint([]Published{second}) {
		t.Errorf("removing %v removes %v, %v", exact, removed, err)
	}
	list(first, third)
	if got, err := exchangeSome(conn, "still here"); got != "still here" {
		t.Errorf("a connection of another port is gone: %v", err)
	}
	if _, err := s.Remove(Spec{Guest: uint16(guest), Protocol: TCP}); err != nil {
		t.Error(err)
	}
	list(third)
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection of a port that was removed ends with %v", err)
	}
}

func exchangeSome(conn net.Conn, text string) (string, error) {
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	return string(got), err
}

// TestAllOrNothing: of several ports of which one is taken none is published.
func TestAllOrNothing(t *testing.T) {
	s := newSet(t)
	taken := add(t, s, "1")
	spec := Spec{Guest: 2, Protocol: TCP}
	if _, err := s.Add(spec, Spec{Host: taken.Address.Port(), Guest: 3, Protocol: TCP}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("publishing a port that is taken gives %v", err)
	}
	if got := s.List(); len(got) != 1 {
		t.Errorf("published are %v, of which only the first was published before", got)
	}
}
