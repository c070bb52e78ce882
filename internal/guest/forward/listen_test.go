package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

func (a agent) listen(t *testing.T, network, address string, options ...Option) net.Listener {
	t.Helper()
	l, err := Listen(t.Context(), a.Open, network, address, options...)
	if err != nil {
		t.Fatalf("listening on %s %q in the guest: %v", network, address, err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// serveAll accepts connections until the listener is closed.
func serveAll(l net.Listener, serve func(net.Conn)) *sync.WaitGroup {
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	return &serving
}

func TestListen(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "socket")
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "localhost:0"}, {"tcp", "[::1]:0"}, {"unix", path}} {
		t.Run(strings.Join(at[:], " "), func(t *testing.T) {
			l := a.listen(t, at[0], at[1])
			peers := make(chan string, 32)
			serving := serveAll(l, func(conn net.Conn) {
				peers <- conn.RemoteAddr().String()
				_, _ = io.Copy(conn, conn)
			})
			var group sync.WaitGroup
			for i := range 16 {
				group.Go(func() {
					conn, err := net.Dial(at[0], l.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = conn.Close() }()
					size := 1 + i*100_000
					if got, err := exchange(conn, pattern(size)); len(got) != size || err != nil {
						t.Errorf("of %d bytes %d came back, %v", size, len(got), err)
					}
					if peer := <-peers; at[0] == "tcp" && !strings.Contains(peer, ":") {
						t.Errorf("the peer's address is %q", peer)
					}
				})
			}
			group.Wait()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			serving.Wait()
			if conn, err := net.Dial(at[0], l.Addr().String()); err == nil {
				_ = conn.Close()
				t.Errorf("the guest still listens on %v after Close", l.Addr())
			}
		})
	}
}

func TestListenRemoteAddr(t *testing.T) {
	a := newAgent(t)
	l := a.listen(t, "tcp", "127.0.0.1:0")
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got, want := conn.RemoteAddr().String(), peer.LocalAddr().String(); got != want {
		t.Errorf("the peer is %s, not %s", got, want)
	}
	if got, want := conn.LocalAddr().String(), l.Addr().String(); got != want {
		t.Errorf("the local address is %s, not %s", got, want)
	}
}

// TestListenAgain: after Close has returned, the same address is free.
func TestListenAgain(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "socket")
	for i := range 50 {
		if err := a.listen(t, "unix", path).Close(); err != nil {
			t.Fatalf("closing for the %d. time: %v", i, err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("the socket is still there: %v", err)
		}
	}
}

func TestListenRefused(t *testing.T) {
	a := newAgent(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := a.listen(t, "tcp", "127.0.0.1:0").Addr().String()
	for _, test := range []struct{ network, address, text string }{
		{"tcp", taken, "the port is in use there"},
		{"unix", file, "there is a file already"},
		{"unix", "/no/such/directory/socket", "no such file"},
		{"tcp", "192.0.2.1:0", "192.0.2.1"},
		{"udp", "127.0.0.1:0", "udp"},
		{"tcp", "none", "none"},
	} {
		_, err := Listen(t.Context(), a.Open, test.network, test.address)
		var refused *frame.Refusal
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("listening on %s %q gives %v, which does not say %q", test.network, test.address, err, test.text)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a file that was in the way is gone: %v", err)
	}
}

// TestListenOwner: the socket has its owner and permissions from the first moment, and is removed with the owner's rights.
func TestListenOwner(t *testing.T) {
	a := newAgent(t)
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	dir := t.TempDir()
	if uid == 0 {
		uid, gid = 12345, 23456
		openUp(t, dir)
	}
	path := filepath.Join(dir, "socket")
	l := a.listen(t, "unix", path, Owner(uid, gid), Mode(0o666))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Uid != uid || stat.Gid != gid || info.Mode() != fs.ModeSocket|0o666 {
		t.Errorf("the socket is %v of %d:%d, not rw-rw-rw- of %d:%d", info.Mode(), stat.Uid, stat.Gid, uid, gid)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// openUp lets every user make files in a directory of the test.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != os.TempDir() && len(d) > 1; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
}

// TestListenOwnerIsNoRoot: a socket of a user's is made and removed where the user may do so, and nowhere else.
func TestListenOwnerIsNoRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can act for another user")
	}
	a := newAgent(t)
	dir := t.TempDir()
	if _, err := Listen(t.Context(), a.Open, "unix", filepath.Join(dir, "socket"), Owner(12345, 12345)); err == nil {
		t.Error("a user's socket was made in a directory of root's")
	}
	// The user puts a link to root's directory in the place of the one with the socket.
	openUp(t, dir)
	secret, own := filepath.Join(dir, "secret"), filepath.Join(dir, "own")
	for _, d := range []string{secret, own} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(own, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(secret, "socket")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := a.listen(t, "unix", filepath.Join(own, "socket"), Owner(12345, 12345))
	if err := errors.Join(os.Rename(own, own+".old"), os.Symlink(secret, own)); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("removing the user's socket removed a file of root's: %v", err)
	}
}

// TestListenMode: without options only root may connect, whatever the agent's umask.
func TestListenMode(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "socket")
	a.listen(t, "unix", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
}

// TestBacklog: connections that nobody accepts are bounded, and are reset when the listener is closed; those behind them
// are not lost while it is open.
func TestBacklog(t *testing.T) {
	a := newAgent(t)
	l := a.listen(t, "tcp", "127.0.0.1:0")
	peers := make([]net.Conn, backlog+20)
	for i := range peers {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		peers[i] = conn
	}
	for i := range 30 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatalf("accepting the %d. connection: %v", i, err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	served := 0
	for _, conn := range peers {
		_ = conn.SetReadDeadline(time.Now().Add(limit))
		switch got, err := io.ReadAll(conn); {
		case string(got) == "x" && err == nil:
			served++
		case !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("a connection that was not accepted reads %q, %v; want a reset", got, err)
		}
	}
	if served != 30 {
		t.Errorf("of 30 connections that were accepted %d were served", served)
	}
}

// TestAcceptClosed: Accept ends with Close, with and without somebody in it.
func TestAcceptClosed(t *testing.T) {
	a := newAgent(t)
	l := a.listen(t, "tcp", "127.0.0.1:0")
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond)
	_ = l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept during Close gives %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close gives %v", err)
	}
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second Close gives %v", err)
	}
}

// TestAcceptGuestGone: Accept fails when the guest is gone, but not as if the listener had been closed.
func TestAcceptGuestGone(t *testing.T) {
	a := newAgent(t)
	l := a.listen(t, "tcp", "127.0.0.1:0")
	time.AfterFunc(20*time.Millisecond, func() { _ = a.Close() })
	if _, err := l.Accept(); !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("Accept from a guest that is gone gives %v", err)
	}
}

// TestAcceptedLiveOn: a connection outlives its listener.
func TestAcceptedLiveOn(t *testing.T) {
	a := newAgent(t)
	l := a.listen(t, "tcp", "127.0.0.1:0")
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = peer.Close() }()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = l.Close()
	go echo(conn)
	if got, err := exchangeSome(peer, "still here"); got != "still here" || err != nil {
		t.Errorf("after the listener's end %q came back, %v", got, err)
	}
}

func exchangeSome(conn net.Conn, text string) (string, error) {
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	got := make([]byte, len(text))
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	_, err := io.ReadFull(conn, got)
	return string(got), err
}

// TestUnknownClaim: a connection is handed over once, and only if there is one.
func TestUnknownClaim(t *testing.T) {
	a := newAgent(t)
	for _, args := range []any{claim{0}, claim{1 << 60}} {
		stream, err := a.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = ask(t.Context(), stream, doAccept, args)
		var refused *frame.Refusal
		if !errors.As(err, &refused) || refused.Reason != frame.NotFound {
			t.Errorf("claiming %v gives %v", args, err)
		}
	}
}

// TestListenerOfLiar: a guest that announces nonsense makes Accept fail or wait, and nothing else.
func TestListenerOfLiar(t *testing.T) {
	checkLeaks(t)
	opener := func(serve func(frames *frame.Writer, do string)) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer func() { _ = far.Close() }()
				f, err := frame.Read(far)
				if err != nil {
					return
				}
				do := doListen
				if strings.Contains(string(f.Payload), doAccept) {
					do = doAccept
				}
				serve(frame.NewWriter(far), do)
				_, _ = io.Copy(io.Discard, far)
			}()
			return near, nil
		}
	}
	tests := []struct {
		name  string
		serve func(frames *frame.Writer, do string)
	}{
		{"a frame that is too long", func(w *frame.Writer, _ string) {
			_ = w.WriteJSON(frame.Reply, place{"127.0.0.1:1"})
			_ = w.Write(frame.Accepted, pattern(maxReply+1))
		}},
		{"no JSON", func(w *frame.Writer, _ string) {
			_ = w.WriteJSON(frame.Reply, place{"127.0.0.1:1"})
			_ = w.Write(frame.Accepted, []byte("{"))
		}},
		{"connections that it does not hand over", func(w *frame.Writer, do string) {
			if do == doAccept {
				_ = w.WriteJSON(frame.Error, frame.Refuse(frame.NotFound, "no"))
				return
			}
			_ = w.WriteJSON(frame.Reply, place{strings.Repeat("x", 1000)})
			for range 100 {
				_ = w.WriteJSON(frame.Accepted, arrival{1, strings.Repeat("\x1b[31m", 100)})
			}
			_ = w.Write(frame.StdoutEOF, nil)
		}},
	}
	for _, test := range tests {
		l, err := Listen(t.Context(), opener(test.serve), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if strings.Contains(l.Addr().String(), "x") {
			t.Errorf("%s: the listener's address is %q", test.name, l.Addr())
		}
		if conn, err := l.Accept(); err == nil {
			t.Errorf("%s: Accept gives a connection of %v", test.name, conn.RemoteAddr())
		}
		_ = l.Close()
	}
	long := opener(func(w *frame.Writer, _ string) { _ = w.Write(frame.Reply, pattern(frame.MaxPayload)) })
	if _, err := Listen(t.Context(), long, "tcp", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxReply)) {
		t.Errorf("a reply of %d bytes gives %v", frame.MaxPayload, err)
	}
}
