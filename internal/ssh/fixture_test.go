package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/forward"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/guest/sftp"
)

// The roles that the test's program plays beside that of the test.
const (
	roleProxy = "as-proxy" // OpenSSH's ProxyCommand: SOCKET DIR
	roleSFTP  = "as-sftp"  // the agent's sftp
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 4 && os.Args[1] == roleProxy:
		err = proxy(os.Args[2], os.Args[3])
	case len(os.Args) == 2 && os.Args[1] == roleSFTP:
		err = sftp.Serve(os.Stdin, os.Stdout)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// proxy serves SSH on standard input and output, with a guest that listens on a socket.
func proxy(socket, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	identity, err := LoadIdentity(context.Background(), dir, "*.banger")
	if err != nil {
		return err
	}
	open := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return Serve(context.Background(), Stdio(os.Stdin, os.Stdout), Options{
		Open: open, HostKey: identity.HostKey, SFTP: []string{self, roleSFTP},
	})
}

// client is OpenSSH with a guest whose processes run on this machine as the user of the test.
type client struct {
	t      testing.TB
	home   string // of the user in the guest
	dir    string // of the client
	config string
	env    []string
}

// newClient starts a guest, whose user is called tester, and configures OpenSSH for it. options are lines of
// ssh_config(5) that come first.
func newClient(t testing.TB, options ...string) *client {
	t.Helper()
	for _, tool := range []string{"ssh", "scp", "sftp"} {
		need(t, tool)
	}
	dir, err := os.MkdirTemp("", "ssh") // not t.TempDir: a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &client{t: t, home: filepath.Join(dir, "home"), dir: dir, config: filepath.Join(dir, "config")}
	if err := os.Mkdir(c.home, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent.sock")
	serveGuest(t, socket, c.home)
	if _, err := LoadIdentity(t.Context(), filepath.Join(dir, "ssh"), "*.banger"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lines := append(slices.Clone(options), "BatchMode yes", "LogLevel ERROR", "IdentityAgent none", "User tester", "StrictHostKeyChecking yes",
		"GlobalKnownHostsFile /dev/null", "UserKnownHostsFile "+dir+"/ssh/known_hosts", "Ciphers ^aes128-gcm@openssh.com",
		fmt.Sprintf("ProxyCommand %s %s %s %s/ssh", self, roleProxy, socket, dir), "ControlPath "+dir+"/control", "")
	if err := os.WriteFile(c.config, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// need fails without a program: the tests judge by OpenSSH's own.
func need(t testing.TB, tool string) {
	t.Helper()
	if _, err := osexec.LookPath(tool); err != nil {
		t.Fatalf("this test needs %s: run scripts/deps.sh test", tool)
	}
}

// serveGuest serves an agent on a socket.
func serveGuest(t testing.TB, socket, home string) {
	t.Helper()
	self := fmt.Sprintf("tester:x:%d:%d::%s:/bin/bash\n", os.Getuid(), os.Getgid(), home)
	guest := &exec.Guest{
		Config: exec.Config{Env: []string{"FROM_IMAGE=yes", "PATH=" + os.Getenv("PATH")}, User: "tester"},
		Etc:    fstest.MapFS{"passwd": {Data: []byte(self)}},
	}
	router := guest.Handlers()
	maps.Copy(router, forward.Handlers())
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go accept(l, router)
}

func accept(l net.Listener, router frame.Router) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go router.Serve(conn)
	}
}

// result is what a program printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// timeLimit is how long a program of a test may run.
const timeLimit = 60 * time.Second

// command is a program of OpenSSH, with its configuration.
func (c *client) command(ctx context.Context, tool string, args ...string) *osexec.Cmd {
	cmd := osexec.CommandContext(ctx, tool, append([]string{"-F", c.config}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a program of OpenSSH to its end.
func (c *client) run(stdin io.Reader, tool string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), timeLimit)
	defer cancel()
	cmd := c.command(ctx, tool, args...)
	return runCommand(c.t, ctx, cmd, stdin)
}

func runCommand(t testing.TB, ctx context.Context, cmd *osexec.Cmd, stdin io.Reader) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%v did not end within %v; it printed %q and %q", cmd.Args, timeLimit, stdout.String(), stderr.String())
	}
	var exit *osexec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %v: %v", cmd.Args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ssh runs a command line in the guest.
func (c *client) ssh(line string, options ...string) result {
	c.t.Helper()
	return c.run(nil, "ssh", append(options, "vm.banger", line)...)
}

// want compares what a program printed.
func (r result) want(t *testing.T, what string, want result) {
	t.Helper()
	if r != want {
		t.Errorf("%s gave %+v, want %+v", what, r, want)
	}
}

// pattern is a reader of size bytes that are not all the same.
func pattern(size int64) io.Reader { return io.LimitReader(&counter{}, size) }

type counter struct{ n uint32 }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n = c.n*1664525 + 1013904223
		b[i] = byte(c.n >> 24)
	}
	return len(b), nil
}

func sum(r io.Reader) string {
	h := sha256.New()
	_, _ = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// eventually waits until there is no reason to go on waiting.
func eventually(t testing.TB, reason func() string) {
	t.Helper()
	end := time.Now().Add(15 * time.Second)
	for text := reason(); text != ""; text = reason() {
		if time.Now().After(end) {
			t.Fatal(text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
