package ssh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

func TestCommands(t *testing.T) {
	c := newClient(t)
	tests := []struct {
		name    string
		options []string
		line    string
		stdin   string
		want    result
	}{
		{name: "output and error apart", line: "echo out; echo err >&2", want: result{"out\n", "err\n", 0}},
		{name: "a shell reads the line", line: `x='a  b'; echo "$x" | tr a c`, want: result{"c  b\n", "", 0}},
		{name: "code 1", line: "exit 1", want: result{"", "", 1}},
		{name: "code 254", line: "exit 254", want: result{"", "", 254}},
		{name: "no such program", line: "exec 2>&-; no-such-program", want: result{"", "", 127}},
		{name: "killed", line: "kill -KILL $$", want: result{"", "", 255}},
		{name: "killed by what has no name in SSH", line: "kill -STKFLT $$", want: result{"", "", 255}},
		{name: "input", line: "cat", stdin: "hello", want: result{"hello", "", 0}},
		{name: "no input", options: []string{"-n"}, line: "cat", want: result{"", "", 0}},
		{name: "input that nobody reads", line: "true", stdin: strings.Repeat("x", 3<<20), want: result{"", "", 0}},
		{name: "home", line: "pwd; echo $HOME $USER", want: result{c.home + "\n" + c.home + " tester\n", "", 0}},
		{name: "image's environment", line: "echo $FROM_IMAGE", want: result{"yes\n", "", 0}},
		{name: "environment", options: []string{"-o", "SetEnv=FOO=1 BAR=two"}, line: "echo $FOO $BAR", want: result{"1 two\n", "", 0}},
		{name: "programs can tell that it is SSH", line: "echo ${SSH_CONNECTION:+yes} ${SSH_CLIENT:+yes}", want: result{"yes yes\n", "", 0}},
		{name: "no terminal", line: "test -t 1 || echo none", want: result{"none\n", "", 0}},
		{name: "unknown user", options: []string{"-l", "nobody-here"}, line: "true",
			want: result{"", "banger: finding user \"nobody-here\": the image's /etc/passwd has no such name\r\n", 1}},
		{name: "numeric user", options: []string{"-l", fmt.Sprint(os.Getuid())}, line: "id -u", want: result{fmt.Sprintln(os.Getuid()), "", 0}},
		{name: "unknown subsystem", options: []string{"-s"}, line: "netconf", want: result{"", "subsystem request failed on channel 0\r\n", 255}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.run(strings.NewReader(test.stdin), "ssh", append(test.options, "vm.banger", test.line)...).want(t, test.line, test.want)
		})
	}
}

// TestShell: without a command the input is the user's login shell's.
func TestShell(t *testing.T) {
	c := newClient(t)
	got := c.run(strings.NewReader("echo $0\nshopt -q login_shell && echo login\nexit 3\n"), "ssh", "vm.banger")
	got.want(t, "a shell", result{"-bash\nlogin\n", "", 3})
}

func TestEveryExitCode(t *testing.T) {
	c := newClient(t, "ControlMaster auto", "ControlPersist 20")
	for code := range 256 {
		if got := c.ssh(fmt.Sprintf("exit %d", code)); got.code != code {
			t.Errorf("exit %d gave %+v", code, got)
		}
	}
	c.run(nil, "ssh", "-O", "exit", "vm.banger")
}

// TestSendEnv: variables of the client are passed on, however odd their values are.
func TestSendEnv(t *testing.T) {
	c := newClient(t, "SendEnv ODD_*")
	odd := " a\tb=c\nd'\"$x`ä "
	c.env = []string{"ODD_ONE=" + odd, "ODD_EMPTY="}
	c.ssh(`printf "%s|${ODD_EMPTY-unset}|" "$ODD_ONE"`).want(t, "the variables", result{odd + "||", "", 0})
}

// TestBulk sends 100 MB through cat and back.
func TestBulk(t *testing.T) {
	const size = 100_000_000
	c := newClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
	defer cancel()
	cmd := c.command(ctx, "ssh", "vm.banger", "cat")
	cmd.Stdin = pattern(size)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := sum(out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("cat: %v", err)
	}
	if want := sum(pattern(size)); got != want {
		t.Error("what came back from cat is not what was sent")
	}
}

// TestUpload: the end of the input reaches the command, and its result comes after all of it was taken.
func TestUpload(t *testing.T) {
	c := newClient(t)
	const size = 20_000_000
	c.run(pattern(size), "ssh", "vm.banger", "cat > f && sha256sum < f").want(t, "the upload", result{sum(pattern(size)) + "  -\n", "", 0})
}

// TestReaderGoesAway: a command whose output nobody reads any more gets SIGPIPE, instead of running for ever.
func TestReaderGoesAway(t *testing.T) {
	c := newClient(t)
	for _, line := range []string{"yes", "trap '' PIPE; yes"} {
		ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
		defer cancel()
		cmd := c.command(ctx, "ssh", "vm.banger", "echo $$ >pid; "+line)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(out, make([]byte, 100))
		_ = out.Close()
		_ = cmd.Wait()
		if ctx.Err() != nil {
			t.Errorf("%s went on although nobody read its output", line)
		}
		c.waitGone("pid")
	}
}

// waitGone waits for the end of the process group whose leader's number is in a file of the guest's home.
func (c *client) waitGone(file string) {
	c.t.Helper()
	pid := c.pid(file)
	eventually(c.t, func() string {
		if syscall.Kill(-pid, 0) == nil {
			return fmt.Sprintf("the process group %d still runs", pid)
		}
		return ""
	})
}

// pid reads a process id from a file of the guest's home, once it is there.
func (c *client) pid(file string) (pid int) {
	c.t.Helper()
	eventually(c.t, func() string {
		text, _ := os.ReadFile(filepath.Join(c.home, file))
		if _, err := fmt.Sscanf(string(text), "%d\n", &pid); err != nil {
			return fmt.Sprintf("the command did not write its process id to %s: %q", file, text)
		}
		return ""
	})
	return pid
}

// TestManySessions: sixteen commands through one connection, with output that nobody takes in some of them, do not wait
// for each other.
func TestManySessions(t *testing.T) {
	c := newClient(t, "ControlMaster auto", "ControlPersist 20")
	defer c.run(nil, "ssh", "-O", "exit", "vm.banger")
	c.ssh("true").want(t, "the first session", result{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 4 {
		stuck := c.command(ctx, "ssh", "vm.banger", "cat /dev/zero")
		if _, err := stuck.StdoutPipe(); err != nil { // which nobody reads
			t.Fatal(err)
		}
		if err := stuck.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cancel(); _ = stuck.Wait() }()
	}
	time.Sleep(500 * time.Millisecond) // until their windows are full
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			const size = 2_000_000
			got := c.run(pattern(size), "ssh", "vm.banger", fmt.Sprintf("sha256sum; exit %d", i))
			got.want(t, "a parallel session", result{sum(pattern(size)) + "  -\n", "", i})
		})
	}
	all.Wait()
}

// TestClientGoesAway: whatever ends the client, the command gets SIGHUP.
func TestClientGoesAway(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			c := newClient(t)
			cmd := c.command(t.Context(), "ssh", "vm.banger", `trap "echo caught >hup; exit" HUP; echo $$ >pid; while :; do sleep 0.05; done`)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			c.pid("pid")
			_ = cmd.Process.Signal(sig)
			_ = cmd.Wait()
			c.waitGone("pid")
			if text, err := os.ReadFile(filepath.Join(c.home, "hup")); string(text) != "caught\n" {
				t.Errorf("the command did not get SIGHUP (%v)", err)
			}
		})
	}
}

// TestClosedSession: closing one session of several ends its command alone.
func TestClosedSession(t *testing.T) {
	c := newClient(t, "ControlMaster auto", "ControlPersist 20")
	defer c.run(nil, "ssh", "-O", "exit", "vm.banger")
	c.ssh("true")
	cmd := c.command(t.Context(), "ssh", "vm.banger", "echo $$ >pid; exec sleep 100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.pid("pid")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	c.waitGone("pid")
	c.ssh("echo still here").want(t, "another session", result{"still here\n", "", 0})
}

// terminal is a client on a terminal of its own.
type terminal struct {
	t    testing.TB
	file *os.File
	mu   sync.Mutex
	seen bytes.Buffer
	done chan int // the exit code
}

func (c *client) terminal(size *pty.Winsize, args ...string) *terminal {
	c.t.Helper()
	cmd := c.command(c.t.Context(), "ssh", args...)
	cmd.Env = append(cmd.Env, "TERM=vt100")
	file, err := pty.StartWithSize(cmd, size)
	if err != nil {
		c.t.Fatal(err)
	}
	term := &terminal{t: c.t, file: file, done: make(chan int, 1)}
	go func() {
		_, _ = io.Copy(term, file)
		_ = cmd.Wait()
		term.done <- cmd.ProcessState.ExitCode()
	}()
	c.t.Cleanup(func() { _ = file.Close() })
	return term
}

// Write takes what the terminal shows.
func (term *terminal) Write(b []byte) (int, error) {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.seen.Write(b)
}

func (term *terminal) text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return term.seen.String()
}

func (term *terminal) await(text string) {
	term.t.Helper()
	eventually(term.t, func() string {
		if shown := term.text(); !strings.Contains(shown, text) {
			return fmt.Sprintf("the terminal does not show %q, but %q", text, shown)
		}
		return ""
	})
}

func (term *terminal) typed(text string) { _, _ = term.file.WriteString(text) }

func TestTerminal(t *testing.T) {
	c := newClient(t)
	term := c.terminal(&pty.Winsize{Rows: 33, Cols: 101}, "vm.banger")
	term.typed("PS1=; stty size; echo $TERM; tty\n")
	term.await("33 101\r\nvt100\r\n/dev/pts/")
	if err := pty.Setsize(term.file, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		term.typed("stty size\n")
		time.Sleep(50 * time.Millisecond)
		if !strings.Contains(term.text(), "40 120\r\n") {
			return "the new size of the terminal did not arrive: " + term.text()
		}
		return ""
	})
	term.typed("sleep 100\n")
	time.Sleep(500 * time.Millisecond)
	term.typed("\x03echo interrupted $?\n")
	term.await("interrupted 130")
	term.typed("exit 7\n")
	select {
	case code := <-term.done:
		if code != 7 {
			t.Errorf("the shell exited with 7, ssh with %d", code)
		}
	case <-time.After(timeLimit):
		t.Error("ssh did not end after the shell")
	}
}

// TestTerminalWithoutOne: -tt asks for a terminal although the client has none.
func TestTerminalWithoutOne(t *testing.T) {
	c := newClient(t)
	got := c.run(strings.NewReader("ignored\n"), "ssh", "-tt", "vm.banger", "stty -echo; tty >/dev/null && echo terminal; exit 4")
	if !strings.Contains(got.stdout, "terminal\r\n") || got.code != 4 {
		t.Errorf("got %+v, want a terminal and the code 4", got)
	}
}

// TestKeepAlive: a client that asks whether we are here gets an answer, also while the command is silent.
func TestKeepAlive(t *testing.T) {
	c := newClient(t, "ServerAliveInterval 1", "ServerAliveCountMax 1")
	c.ssh("sleep 4; echo alive").want(t, "a silent command", result{"alive\n", "", 0})
}

// TestRekey: keys are changed in the middle of the data, again and again.
func TestRekey(t *testing.T) {
	c := newClient(t, "RekeyLimit 1M")
	const size = 20_000_000
	c.run(pattern(size), "ssh", "vm.banger", "tee f | sha256sum; sha256sum <f >&2").
		want(t, "rekeying", result{sum(pattern(size)) + "  -\n", sum(pattern(size)) + "  -\n", 0})
}

// TestStop: the server ends with its context, also before a client that says nothing and stays.
func TestStop(t *testing.T) {
	in, stays, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stays.Close() }()
	answers, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Close() }()
	identity, err := LoadIdentity(t.Context(), t.TempDir(), "*.banger")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, Stdio(in, out), Options{HostKey: identity.HostKey}) }()
	if _, err := io.ReadFull(answers, make([]byte, len(serverVersion))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // a read that has begun is what Close does not end
	cancel()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the server goes on")
	}
}
