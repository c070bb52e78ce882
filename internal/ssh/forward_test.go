package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// freePort returns a port of this machine on which nothing listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// background runs ssh -N with options until the test's end.
func (c *client) background(options ...string) *bytes.Buffer {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	cmd := c.command(ctx, "ssh", append(options, "-N", "-o", "ExitOnForwardFailure=yes", "vm.banger")...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return &said
}

// echoes serves connections whose answer is what they sent, once that has ended, and a mark.
func echoes(t *testing.T, network, address string) net.Listener {
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
				data, _ := io.ReadAll(conn)
				_, _ = conn.Write(append(data, "|end"...))
			}()
		}
	}()
	return l
}

// exchange sends data to an address, ends that direction, and returns what comes back. It tries until something listens.
func exchange(t *testing.T, network, address string, data []byte) []byte {
	t.Helper()
	var conn net.Conn
	eventually(t, func() string {
		var err error
		if conn, err = net.Dial(network, address); err != nil {
			return fmt.Sprintf("nothing listens: %v", err)
		}
		return ""
	})
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(timeLimit))
	go func() {
		_, _ = conn.Write(data)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("reading the answer: %v after %d bytes", err, len(got))
	}
	return got
}

// marked is what comes back of data.
func marked(data []byte) []byte { return slices.Concat(data, []byte("|end")) }

func testEcho(t *testing.T, network, address string) {
	t.Helper()
	for _, size := range []int64{0, 1, 3_000_000} {
		data, _ := io.ReadAll(pattern(size))
		if got := exchange(t, network, address, data); !bytes.Equal(got, marked(data)) {
			t.Errorf("of %d bytes and the end of them, %d came back", size, len(got))
		}
	}
}

func TestLocalForward(t *testing.T) {
	c := newClient(t)
	tcp, port := echoes(t, "tcp", "127.0.0.1:0"), freePort(t)
	guestSocket, hostSocket := filepath.Join(c.home, "echo.sock"), filepath.Join(c.dir, "host.sock")
	echoes(t, "unix", guestSocket)
	c.background("-L", port+":"+tcp.Addr().String(), "-L", hostSocket+":"+guestSocket)
	t.Run("tcp", func(t *testing.T) { testEcho(t, "tcp", "127.0.0.1:"+port) })
	t.Run("unix", func(t *testing.T) { testEcho(t, "unix", hostSocket) })
}

func TestRemoteForward(t *testing.T) {
	c := newClient(t)
	tcp, port := echoes(t, "tcp", "127.0.0.1:0"), freePort(t)
	guestSocket, hostSocket := filepath.Join(c.home, "guest.sock"), filepath.Join(c.dir, "host.sock")
	echoes(t, "unix", hostSocket)
	c.background("-R", port+":"+tcp.Addr().String(), "-R", guestSocket+":"+hostSocket)
	t.Run("tcp", func(t *testing.T) { testEcho(t, "tcp", "127.0.0.1:"+port) })
	t.Run("unix", func(t *testing.T) {
		testEcho(t, "unix", guestSocket)
		if info, err := os.Stat(guestSocket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket in the guest is %v (%v), want it to be its user's alone", info.Mode(), err)
		}
	})
}

// TestRemoteForwardIsCancelled: the guest listens no longer than the client wants it to, and a port that is in use is said
// to be.
func TestRemoteForwardIsCancelled(t *testing.T) {
	c := newClient(t, "ControlMaster auto", "ControlPersist 20")
	defer c.run(nil, "ssh", "-O", "exit", "vm.banger")
	c.ssh("true")
	tcp := echoes(t, "tcp", "127.0.0.1:0")
	got := c.run(nil, "ssh", "-O", "forward", "-R", "0:"+tcp.Addr().String(), "vm.banger")
	port := strings.TrimSpace(got.stdout)
	if got.code != 0 || port == "" || port == "0" {
		t.Fatalf("asking for a free port gave %+v", got)
	}
	testEcho(t, "tcp", "127.0.0.1:"+port)
	if got := c.run(nil, "ssh", "-O", "forward", "-R", port+":"+tcp.Addr().String(), "vm.banger"); got.code == 0 {
		t.Error("listening twice on one port succeeded")
	}
	if got := c.run(nil, "ssh", "-O", "cancel", "-R", "0:"+tcp.Addr().String(), "vm.banger"); got.code != 0 {
		t.Fatalf("cancelling gave %+v", got)
	}
	eventually(t, func() string {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = conn.Close()
			return "the guest still listens after the forwarding was cancelled"
		}
		return ""
	})
}

// TestForwardsEndWithTheClient: nothing listens in the guest when the client has left, and no socket is left.
func TestForwardsEndWithTheClient(t *testing.T) {
	c := newClient(t)
	socket := filepath.Join(c.home, "guest.sock")
	cmd := c.command(t.Context(), "ssh", "-N", "-R", socket+":/nonexistent", "vm.banger")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	there := func(want bool) func() string {
		return func() string {
			if _, err := os.Lstat(socket); (err == nil) != want {
				return fmt.Sprintf("whether there is a socket in the guest is not %v", want)
			}
			return ""
		}
	}
	eventually(t, there(true))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, there(false))
}

func TestSocks(t *testing.T) {
	need(t, "curl")
	c := newClient(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "from the guest") }))
	defer server.Close()
	port := freePort(t)
	c.background("-D", port)
	_, serverPort, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, url := range []string{server.URL, "http://localhost:" + serverPort} {
		var got result
		eventually(t, func() string {
			cmd := osexec.Command("curl", "-sS", "--max-time", "10", "--socks5-hostname", "127.0.0.1:"+port, url)
			if got = runCommand(t, t.Context(), cmd, nil); got.code == 97 || got.code == 7 { // no proxy yet
				return fmt.Sprintf("curl: %+v", got)
			}
			return ""
		})
		got.want(t, "curl of "+url, result{"from the guest", "", 0})
	}
}

// TestStandardForward: -W connects standard input and output, and a connection that is refused is said to be.
func TestStandardForward(t *testing.T) {
	c := newClient(t)
	tcp := echoes(t, "tcp", "127.0.0.1:0")
	c.run(strings.NewReader("hello"), "ssh", "-W", tcp.Addr().String(), "vm.banger").want(t, "-W", result{"hello|end", "", 0})
	got := c.run(nil, "ssh", "-o", "LogLevel=INFO", "-W", "127.0.0.1:"+freePort(t), "vm.banger")
	if got.code != 255 || !strings.Contains(got.stderr, "nothing listens") {
		t.Errorf("-W to a port where nothing listens gave %+v, want 255 and the reason", got)
	}
}

// TestJump: a guest is a way to others.
func TestJump(t *testing.T) {
	c := newClient(t)
	socket := filepath.Join(c.dir, "agent.sock")
	inner := serveConnections(t, socket, filepath.Join(c.dir, "ssh"))
	_, port, _ := net.SplitHostPort(inner.Addr().String())
	got := c.run(nil, "ssh", "-o", "ProxyCommand=ssh -F "+c.config+" -W %h:%p vm.banger", "-o", "HostKeyAlias=inner.banger", "-p", port, "127.0.0.1", "echo inside")
	got.want(t, "a jump", result{"inside\n", "", 0})
}

// serveConnections serves SSH on a port, as a machine that can only be reached from the guest.
func serveConnections(t *testing.T, socket, dir string) net.Listener {
	t.Helper()
	identity, err := LoadIdentity(t.Context(), dir, "*.banger")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	open := func(context.Context) (net.Conn, error) { return net.Dial("unix", socket) }
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = Serve(t.Context(), conn, Options{Open: open, HostKey: identity.HostKey}) }()
		}
	}()
	return l
}

// TestManyConnections: connections through one client do not wait for one that nobody reads.
func TestManyConnections(t *testing.T) {
	c := newClient(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // whom nobody answers
	tcp, port, stuckPort := echoes(t, "tcp", "127.0.0.1:0"), freePort(t), freePort(t)
	c.background("-L", port+":"+tcp.Addr().String(), "-L", stuckPort+":"+l.Addr().String())
	exchange(t, "tcp", "127.0.0.1:"+port, nil)
	for range 3 {
		stuck, err := net.Dial("tcp", "127.0.0.1:"+stuckPort)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stuck.Close() }()
		go func() { _, _ = io.Copy(stuck, pattern(100<<20)) }()
	}
	time.Sleep(500 * time.Millisecond) // until everything between is full
	data, _ := io.ReadAll(pattern(1_000_000))
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if got := exchange(t, "tcp", "127.0.0.1:"+port, data); !bytes.Equal(got, marked(data)) {
				t.Errorf("%d bytes came back of %d", len(got), len(data))
			}
		})
	}
	all.Wait()
}

// TestAgentForwarding: the guest sees the keys of the client's agent, as long as the client is there.
func TestAgentForwarding(t *testing.T) {
	for _, tool := range []string{"ssh-agent", "ssh-add", "ssh-keygen"} {
		need(t, tool)
	}
	c := newClient(t)
	socket, key := filepath.Join(c.dir, "keys.sock"), filepath.Join(c.dir, "key")
	agent := osexec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	eventually(t, func() string {
		if _, err := os.Stat(socket); err != nil {
			return "ssh-agent does not listen"
		}
		return ""
	})
	c.env = []string{"SSH_AUTH_SOCK=" + socket}
	c.tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "the-key", "-f", key)
	c.tool("ssh-add", "-q", key)
	got := c.ssh("ssh-add -l; echo $SSH_AUTH_SOCK; stat -c %a $SSH_AUTH_SOCK", "-A", "-o", "IdentityAgent=SSH_AUTH_SOCK")
	lines := strings.Split(got.stdout, "\n")
	if got.code != 0 || len(lines) < 3 || !strings.Contains(lines[0], "the-key") || lines[2] != "600" {
		t.Fatalf("the forwarded agent gave %+v, want its key", got)
	}
	eventually(t, func() string {
		if _, err := os.Lstat(lines[1]); err == nil {
			return "the agent's socket is still there although the client has left"
		}
		return ""
	})
	if got := c.ssh("echo ${SSH_AUTH_SOCK-none}"); strings.Contains(got.stdout, "banger-agent") {
		t.Errorf("without -A the guest has an agent too: %+v", got)
	}
}

// tool runs a program of OpenSSH that has no configuration.
func (c *client) tool(name string, args ...string) {
	c.t.Helper()
	cmd := osexec.Command(name, args...)
	cmd.Env = append(os.Environ(), c.env...)
	if got := runCommand(c.t, c.t.Context(), cmd, nil); got.code != 0 {
		c.t.Fatalf("%s %q gave %+v", name, args, got)
	}
}
