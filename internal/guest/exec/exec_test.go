package exec

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// testGuest is a guest whose processes run on this machine as the user of the test.
func testGuest() *Guest {
	self := fmt.Sprintf("tester:x:%d:%d::/home/nobody-in-particular:/bin/sh\n", os.Getuid(), os.Getgid())
	return &Guest{
		Info:   Info{Protocol: frame.Version, Agent: "0123456789ab", Init: "guest"},
		Config: Config{Env: []string{"FROM_IMAGE=yes", "PATH=/usr/bin:/bin"}, User: "tester"},
		Etc:    fstest.MapFS{"passwd": {Data: []byte(self)}},
		Poweroff: func() error {
			return errors.New("no switch")
		},
	}
}

// open opens a stream to g, through the multiplexer that the real one goes through.
func open(t *testing.T, g *Guest) net.Conn {
	t.Helper()
	return openTo(t, g.Handlers().Serve)
}

// openTo opens a stream to serve, which must return before the test's end plus the time that a command has to end.
func openTo(t *testing.T, serve func(net.Conn)) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	client, err := yamux.Client(near, config)
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(far, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	served := make(chan struct{})
	go func() {
		defer close(served)
		if conn, err := server.Accept(); err == nil {
			serve(conn)
		}
	}()
	stream, err := client.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-served:
		case <-time.After(graceful + 30*time.Second):
			t.Error("the agent still serves the stream although the test is over")
		}
	})
	return stream
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
	err            error
}

func run(t *testing.T, g *Guest, cmd Command, stdin string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code, err := Run(ctx, open(t, g), cmd, strings.NewReader(stdin), &stdout, &stderr, nil, nil)
	return result{stdout.String(), stderr.String(), code, err}
}

func shell(script string) Command { return Command{Argv: []string{"/bin/sh", "-c", script}} }

func TestRun(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	script := filepath.Join(dir, "script")
	garbage := filepath.Join(dir, "garbage")
	for file, content := range map[string]string{plain: "", script: "#!/nonexistent\n", garbage: "\x01\x02\x03"} {
		if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(plain, 0o644); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	tests := []struct {
		name  string
		cmd   Command
		stdin string
		want  result // err is not compared
		fails frame.Reason
	}{
		{name: "output", cmd: shell("echo out; echo err >&2"), want: result{"out\n", "err\n", 0, nil}},
		{name: "exit code", cmd: shell("exit 7"), want: result{code: 7}},
		{name: "killed by a signal", cmd: shell("kill -9 $$"), want: result{code: 137}},
		{name: "no such program on the PATH", cmd: Command{Argv: []string{"no-such-program"}}, want: result{code: 127}, fails: frame.NotFound},
		{name: "no such file", cmd: Command{Argv: []string{"/no/such/file"}}, want: result{code: 127}, fails: frame.NotFound},
		{name: "interpreter missing", cmd: Command{Argv: []string{script}}, want: result{code: 127}, fails: frame.NotFound},
		{name: "empty name", cmd: Command{Argv: []string{""}}, want: result{code: 127}, fails: frame.NotFound},
		{name: "directory", cmd: Command{Argv: []string{"/"}}, want: result{code: 126}, fails: frame.NotExecutable},
		{name: "not executable", cmd: Command{Argv: []string{plain}}, want: result{code: 126}, fails: frame.NotExecutable},
		{name: "not executable on the PATH", cmd: Command{Argv: []string{"plain"}, Env: []string{"PATH=" + dir}}, want: result{code: 126}, fails: frame.NotExecutable},
		{name: "not a program", cmd: Command{Argv: []string{garbage}}, want: result{code: 126}, fails: frame.NotExecutable},
		{name: "unknown user", cmd: Command{Argv: []string{"true"}, User: "nobody-here"}, want: result{code: 126}, fails: frame.BadUser},
		{name: "file as directory", cmd: Command{Argv: []string{"true"}, Dir: plain}, want: result{code: 126}, fails: frame.BadDirectory},
		{name: "no command at all", cmd: Command{}, want: result{code: 127}, fails: frame.NotFound},
		{name: "input", cmd: Command{Argv: []string{"cat"}, Stdin: true}, stdin: "some input", want: result{stdout: "some input"}},
		{name: "no input", cmd: Command{Argv: []string{"cat"}}, stdin: "not sent", want: result{}},
		{name: "input not wanted", cmd: Command{Argv: []string{"true"}, Stdin: true}, stdin: strings.Repeat("x", 1<<20), want: result{}},
		{name: "environment", cmd: Command{Argv: []string{"env"}, Env: []string{"OWN=1", "OWN=2", "HOME=/over"}},
			want: result{stdout: "PATH=/usr/bin:/bin\nHOSTNAME=" + host + "\nHOME=/over\nFROM_IMAGE=yes\nOWN=2\n"}},
		{name: "removed from the environment", cmd: Command{Argv: []string{"/usr/bin/env"}, Env: []string{"FROM_IMAGE", "HOME", "OWN=1", "OWN", "PAT"}},
			want: result{stdout: "PATH=/usr/bin:/bin\nHOSTNAME=" + host + "\n"}},
		{name: "home of the user", cmd: shell("echo $HOME"), want: result{stdout: "/home/nobody-in-particular\n"}},
		{name: "working directory", cmd: Command{Argv: []string{"pwd"}, Dir: filepath.Join(dir, "made", "here")},
			want: result{stdout: filepath.Join(dir, "made", "here") + "\n"}},
		{name: "relative program", cmd: Command{Argv: []string{"./plain"}, Dir: dir}, want: result{code: 126}, fails: frame.NotExecutable},
		{name: "no terminal", cmd: shell("test -t 1 || echo none"), want: result{stdout: "none\n"}},
		{name: "own session", cmd: shell(`test "$(cut -d' ' -f6 /proc/$$/stat)" = $$ && echo leader`), want: result{stdout: "leader\n"}},
		{name: "long argument", cmd: Command{Argv: []string{"/bin/sh", "-c", "echo ${#1}", "sh", strings.Repeat("x", 100_000)}}, want: result{stdout: "100000\n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := run(t, testGuest(), test.cmd, test.stdin)
			var refused *frame.Refusal
			switch {
			case test.fails == "" && got.err != nil:
				t.Errorf("error %v, want none", got.err)
			case test.fails != "" && (!errors.As(got.err, &refused) || refused.Reason != test.fails):
				t.Errorf("error %#v, want a frame.Refusal with the reason %q", got.err, test.fails)
			}
			got.err = nil
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestImageCommand(t *testing.T) {
	g := testGuest()
	g.Config.Entrypoint = []string{"/bin/sh", "-c"}
	g.Config.Cmd = []string{"pwd"}
	g.Config.WorkingDir = filepath.Join(t.TempDir(), "work")
	if got, want := run(t, g, Command{}, ""), g.Config.WorkingDir+"\n"; got.stdout != want || got.err != nil {
		t.Errorf("the image's command printed %q (error %v), want %q", got.stdout, got.err, want)
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

// TestBulk sends 100 MB through a command and back, with a host that reads slowly at first.
func TestBulk(t *testing.T) {
	const size = 100_000_000
	want := sha256.New()
	_, _ = io.Copy(want, pattern(size))
	got := &slowHash{Hash: sha256.New(), slow: 20}
	code, err := Run(t.Context(), open(t, testGuest()), Command{Argv: []string{"cat"}, Stdin: true}, pattern(size), got, io.Discard, nil, nil)
	if code != 0 || err != nil {
		t.Fatalf("cat ended with %d, %v, want 0 and no error", code, err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes came back as %d others", size, got.n)
	}
}

type slowHash struct {
	hash.Hash
	slow int
	n    int
}

func (h *slowHash) Write(b []byte) (int, error) {
	if h.slow > 0 {
		h.slow--
		time.Sleep(20 * time.Millisecond)
	}
	h.n += len(b)
	return h.Hash.Write(b)
}

// TestSlowHostLosesNothing: the command ends long before the host has read what it wrote. The output fills the stream's
// window, and its end stays in the pipe or terminal. A process that goes on writing makes no difference.
func TestSlowHostLosesNothing(t *testing.T) {
	const window = 256 << 10 // the frame that the host has and the one that is being sent have 64 KiB at most together
	tests := []struct {
		name   string
		size   int
		script string
		tty    *Size
	}{
		{name: "pipe", size: window + 65_000, script: "head -c %d /dev/zero"},
		{name: "pipe with an orphan", size: window + 65_000, script: "head -c %d /dev/zero; timeout 5 yes &"},
		{name: "terminal", size: window + 14_000, script: "stty raw; head -c %d /dev/zero", tty: &Size{Rows: 24, Columns: 80}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			slow := &slowZeros{delay: lateOutput + 500*time.Millisecond}
			cmd := shell(fmt.Sprintf(test.script, test.size))
			cmd.TTY = test.tty
			code, err := Run(t.Context(), open(t, testGuest()), cmd, nil, slow, io.Discard, nil, nil)
			if code != 0 || err != nil || slow.n != test.size {
				t.Errorf("got %d bytes, code %d, error %v, want %d bytes, 0 and none", slow.n, code, err, test.size)
			}
		})
	}
}

// TestRestIsBounded: whoever fills the pipe as fast as it is emptied does not keep the agent reading.
func TestRestIsBounded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	_, _ = w.Write(make([]byte, 8<<10))
	sent, limit := 0, capacity(r)
	sendRest(r, writerFunc(func(b []byte) (int, error) {
		if sent += len(b); sent > limit {
			return 0, errors.New("too much")
		}
		return w.Write(b)
	}), make([]byte, frame.ChunkSize))
	if sent != limit {
		t.Errorf("%d bytes or more were sent of a pipe that holds %d, want as many", sent, limit)
	}
}

// slowZeros counts zeros. It takes its time for the first write.
type slowZeros struct {
	delay time.Duration
	n     int
}

func (s *slowZeros) Write(b []byte) (int, error) {
	time.Sleep(s.delay)
	s.delay = 0
	s.n += bytes.Count(b, []byte{0})
	return len(b), nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestOrphan: a process that the command leaves behind with its output open does not hold the result up.
func TestOrphan(t *testing.T) {
	start := time.Now()
	got := run(t, testGuest(), shell("echo $$; sleep 30 & exit 3"), "")
	if got.code != 3 || got.err != nil {
		t.Errorf("code %d, error %v, want 3 and none", got.code, got.err)
	}
	if took := time.Since(start); took > lateOutput+5*time.Second {
		t.Errorf("the result took %v, want about %v", took, lateOutput)
	}
	killGroup(t, got.stdout)
}

// TestOrphanFlood: nor does one that goes on writing.
func TestOrphanFlood(t *testing.T) {
	for name, tty := range map[string]*Size{"pipe": nil, "terminal": {Rows: 24, Columns: 80}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), lateOutput+10*time.Second)
			defer cancel()
			cmd := shell("trap '' HUP; timeout 20 yes & exit 3")
			cmd.TTY = tty
			code, err := Run(ctx, open(t, testGuest()), cmd, nil, io.Discard, io.Discard, nil, nil)
			if code != 3 || err != nil {
				t.Errorf("code %d, error %v, want 3 and none soon after the command's end", code, err)
			}
		})
	}
}

// TestOrphanOutput: what such a process still writes soon after belongs to the output.
func TestOrphanOutput(t *testing.T) {
	got := run(t, testGuest(), shell("(sleep 0.3; echo late) & echo early"), "")
	if want := "early\nlate\n"; got.stdout != want || got.err != nil {
		t.Errorf("output %q, error %v, want %q", got.stdout, got.err, want)
	}
}

func killGroup(t *testing.T, pid string) {
	t.Helper()
	var group int
	if _, err := fmt.Sscan(pid, &group); err != nil || group <= 1 {
		t.Fatalf("the command's process id is %q", pid)
	}
	_ = syscall.Kill(-group, syscall.SIGKILL)
}

// session runs a command whose output is read while it runs.
type session struct {
	output  *io.PipeReader
	input   *io.PipeWriter
	resize  chan Size
	signals chan syscall.Signal
	code    int
	err     error
	done    chan struct{}
}

func startSession(ctx context.Context, stream net.Conn, cmd Command) *session {
	s := &session{resize: make(chan Size), signals: make(chan syscall.Signal), done: make(chan struct{})}
	stdin, input := io.Pipe()
	output, stdout := io.Pipe()
	s.input, s.output = input, output
	go func() {
		defer close(s.done)
		s.code, s.err = Run(ctx, stream, cmd, stdin, stdout, io.Discard, s.resize, s.signals)
		_ = stdout.Close()
	}()
	return s
}

// expect reads the output until it has text, and returns what came before.
func (s *session) expect(t *testing.T, text string) string {
	t.Helper()
	timer := time.AfterFunc(10*time.Second, func() { _ = s.output.CloseWithError(errors.New("10 s are over")) })
	defer timer.Stop()
	var got []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(got), text); got = append(got, one[0]) {
		if _, err := io.ReadFull(s.output, one); err != nil {
			t.Fatalf("waiting for %q: %v; so far %q", text, err, got)
		}
	}
	return strings.TrimSuffix(string(got), text)
}

func (s *session) wait(t *testing.T) (int, error) {
	t.Helper()
	go func() { _, _ = io.Copy(io.Discard, s.output) }()
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the command did not end within 10 s")
	}
	return s.code, s.err
}

func TestTerminal(t *testing.T) {
	cmd := shell(`test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && read line && echo "got $line" && stty size`)
	cmd.TTY, cmd.Stdin = &Size{Rows: 12, Columns: 34}, true
	s := startSession(t.Context(), open(t, testGuest()), cmd)
	s.expect(t, "12 34\r\nxterm\r\n")
	s.resize <- Size{Rows: 56, Columns: 78}
	time.Sleep(100 * time.Millisecond)
	_, _ = s.input.Write([]byte("a line\n"))
	s.expect(t, "got a line\r\n56 78\r\n")
	if code, err := s.wait(t); code != 0 || err != nil {
		t.Errorf("code %d, error %v, want 0 and none", code, err)
	}
}

func TestTerminalInterrupt(t *testing.T) {
	cmd := shell("trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done")
	cmd.TTY, cmd.Stdin = &Size{Rows: 24, Columns: 80}, true
	s := startSession(t.Context(), open(t, testGuest()), cmd)
	s.expect(t, "ready\r\n")
	_, _ = s.input.Write([]byte{3}) // Ctrl-C
	s.expect(t, "caught\r\n")
	if code, err := s.wait(t); code != 5 || err != nil {
		t.Errorf("code %d, error %v, want 5 and none", code, err)
	}
}

// TestTerminalEOF: the end of the input is Ctrl-D on a terminal.
func TestTerminalEOF(t *testing.T) {
	got := run(t, testGuest(), Command{Argv: []string{"cat"}, TTY: &Size{Rows: 24, Columns: 80}, Stdin: true}, "line\n")
	if got.code != 0 || got.err != nil || strings.Count(got.stdout, "line\r\n") != 2 {
		t.Errorf("got %+v, want the line and its echo, code 0", got)
	}
}

func TestSignal(t *testing.T) {
	s := startSession(t.Context(), open(t, testGuest()), shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"))
	s.expect(t, "ready\n")
	s.signals <- syscall.SIGUSR1
	if code, err := s.wait(t); code != 9 || err != nil {
		t.Errorf("code %d, error %v, want 9 and none", code, err)
	}
}

// TestSignalPassesInput: a command that does not read its input can still be signalled.
func TestSignalPassesInput(t *testing.T) {
	cmd := shell("echo ready; sleep 30")
	cmd.Stdin = true
	s := startSession(t.Context(), open(t, testGuest()), cmd)
	s.expect(t, "ready\n")
	go func() { _, _ = io.Copy(s.input, pattern(10_000_000)) }()
	time.Sleep(200 * time.Millisecond) // the windows fill up
	s.signals <- syscall.SIGTERM
	if code, err := s.wait(t); code != 128+15 || err != nil {
		t.Errorf("code %d, error %v, want %d and none", code, err, 128+15)
	}
}

// TestManyKeystrokes: acknowledgements of small pieces do not pile up while the host waits for more input.
func TestManyKeystrokes(t *testing.T) {
	s := startSession(t.Context(), open(t, testGuest()), Command{Argv: []string{"cat"}, Stdin: true})
	for i := range 200 {
		text := fmt.Sprintf("%d\n", i)
		_, _ = s.input.Write([]byte(text))
		s.expect(t, text)
	}
	_ = s.input.Close()
	if code, err := s.wait(t); code != 0 || err != nil {
		t.Errorf("code %d, error %v, want 0 and none", code, err)
	}
}

// TestHostGone: a command whose host leaves is killed, one that ignores the hangup and floods its output included.
func TestHostGone(t *testing.T) {
	for name, script := range map[string]string{
		"idle":     "echo $$; sleep 60",
		"flooding": "echo $$; exec yes",
		"stubborn": "trap '' HUP; echo $$; while :; do sleep 0.1; done",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			s := startSession(ctx, open(t, testGuest()), shell(script))
			pid := s.expect(t, "\n")
			reason := errors.New("changed my mind")
			cancel(reason)
			if code, err := s.wait(t); code != -1 || !errors.Is(err, reason) {
				t.Errorf("code %d, error %v, want -1 and %v", code, err, reason)
			}
			waitGone(t, pid)
		})
	}
}

func waitGone(t *testing.T, pid string) {
	t.Helper()
	for end := time.Now().Add(graceful + 5*time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	t.Errorf("process %s is still there %v after its host left", pid, graceful+5*time.Second)
}

func TestDisconnected(t *testing.T) {
	stream := open(t, testGuest())
	s := startSession(t.Context(), stream, shell("echo ready; sleep 30"))
	s.expect(t, "ready\n")
	_ = stream.(*yamux.Stream).Session().Close()
	if code, err := s.wait(t); code != -1 || !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("code %d, error %v, want -1 and %v", code, err, frame.ErrDisconnected)
	}
}

// TestDeafGuest: the end of ctx ends Run even if the guest does nothing about it.
func TestDeafGuest(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := startSession(ctx, openTo(t, func(net.Conn) { <-release }), shell("true"))
	if code, err := s.wait(t); code != -1 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("code %d, error %v, want -1 and %v", code, err, context.DeadlineExceeded)
	}
}

// TestOutputError: the command is ended although its output fills every buffer on the way.
func TestOutputError(t *testing.T) {
	full := errors.New("disk full")
	w := writerFunc(func([]byte) (int, error) {
		time.Sleep(200 * time.Millisecond) // the window fills up
		return 0, full
	})
	code, err := Run(t.Context(), open(t, testGuest()), shell("exec yes"), nil, w, io.Discard, nil, nil)
	if code != -1 || !errors.Is(err, full) {
		t.Errorf("code %d, error %v, want -1 and %v", code, err, full)
	}
}

func TestHello(t *testing.T) {
	g := testGuest()
	if got, err := Hello(t.Context(), open(t, g)); err != nil || got != g.Info {
		t.Errorf("got %+v, %v, want %+v", got, err, g.Info)
	}
}

func TestPoweroff(t *testing.T) {
	g := testGuest()
	asked := make(chan struct{})
	g.Poweroff = func() error { close(asked); return nil }
	if err := Poweroff(t.Context(), open(t, g)); err != nil {
		t.Errorf("error %v, want none", err)
	}
	select {
	case <-asked:
	case <-time.After(30 * time.Second):
		t.Error("the guest was not asked to power off")
	}
}

// TestWaitBoot: the guest's answer ends the waiting, and so do the host's limit and its ctx, of which the guest learns.
func TestWaitBoot(t *testing.T) {
	changed := errors.New("changed my mind")
	untilEnd := func(ctx context.Context) { <-ctx.Done() }
	tests := []struct {
		name   string
		boot   func(context.Context)
		limit  time.Duration
		cancel bool
		want   error
	}{
		{name: "no systemd", limit: time.Hour},
		{name: "booted", boot: func(context.Context) {}, limit: time.Hour},
		{name: "limit", boot: untilEnd, limit: 50 * time.Millisecond},
		{name: "no time at all", boot: untilEnd},
		{name: "host has enough", boot: untilEnd, limit: time.Hour, cancel: true, want: changed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := testGuest()
			g.WaitBoot = test.boot
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if test.cancel {
				time.AfterFunc(50*time.Millisecond, func() { cancel(changed) })
			}
			start := time.Now()
			if err := WaitBoot(ctx, open(t, g), test.limit); !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v, want less than 30 s", took)
			}
		})
	}
}

// TestWaitBootDisconnected: a guest that is gone has not booted.
func TestWaitBootDisconnected(t *testing.T) {
	stream := openTo(t, func(c net.Conn) { _ = c.Close() })
	if err := WaitBoot(t.Context(), stream, time.Hour); !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("error %v, want %v", err, frame.ErrDisconnected)
	}
}

// TestRefused: what the agent does not understand is an answer, not a silence.
func TestRefused(t *testing.T) {
	for name, first := range map[string]func(*frame.Writer){
		"no request":      func(f *frame.Writer) { _ = f.Write(frame.Stdin, []byte("x")) },
		"no JSON":         func(f *frame.Writer) { _ = f.Write(frame.Request, []byte("x")) },
		"newer version":   func(f *frame.Writer) { _ = f.Write(frame.Request, []byte(`{"version":2,"do":"hello"}`)) },
		"unknown request": func(f *frame.Writer) { _ = frame.Begin(f, "fly", nil) },
		"no command":      func(f *frame.Writer) { _ = frame.Begin(f, doExec, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			stream := open(t, testGuest())
			first(frame.NewWriter(stream))
			f, err := frame.Read(stream)
			if err != nil || f.Kind != frame.Error || frame.DecodeRefusal(f.Payload).Reason != frame.Refused {
				t.Errorf("the answer is frame %d %q, error %v, want a refusal", f.Kind, f.Payload, err)
			}
		})
	}
}

// TestBytes: what is no UTF-8 reaches the command as it is, as names of files have any bytes.
func TestBytes(t *testing.T) {
	g := testGuest()
	cmd := shell(`printf '%s|%s|%s' "$1" "$VALUE" "$(basename "$PWD")"`)
	cmd.Argv = append(cmd.Argv, "sh", "caf\xe9 \u00e9")
	cmd.Env = []string{"VALUE=\xff\xfe"}
	cmd.Dir = filepath.Join(t.TempDir(), "d\xefr")
	got := run(t, g, cmd, "")
	if want := "caf\xe9 \u00e9|\xff\xfe|d\xefr"; got.stdout != want || got.err != nil {
		t.Errorf("the command got %q, %v, want %q", got.stdout, got.err, want)
	}
	pid, err := Start(t.Context(), open(t, g), Command{Argv: []string{"/bin/sh", "-c", `mkdir "$1"`, "sh", cmd.Dir + "/n\xfcw"}})
	if err != nil {
		t.Fatal(err)
	}
	waitGone(t, fmt.Sprint(pid))
	if _, err := os.Stat(cmd.Dir + "/n\xfcw"); err != nil {
		t.Errorf("a detached command did not get its argument: %v", err)
	}
}

// TestOtherUser checks a user other than the test's, which takes root.
func TestOtherUser(t *testing.T) {
	g := testGuest()
	g.Etc = fstest.MapFS{
		"passwd": {Data: []byte("worker:x:4321:8765::/home/worker:/bin/sh\n")},
		"group":  {Data: []byte("extra:x:777:worker\n")},
	}
	cmd := shell("id -u; id -g; id -G; echo $HOME; echo x > /dev/stdout; echo x > /dev/stderr")
	cmd.User = "worker"
	got := run(t, g, cmd, "")
	if os.Getuid() != 0 {
		if got.code != CodeNotExecutable || got.err == nil {
			t.Errorf("running as another user without being root gave %+v, want 126 and an error", got)
		}
		return
	}
	if want := "4321\n8765\n8765 777\n/home/worker\nx\n"; got.stdout != want || got.stderr != "x\n" || got.err != nil {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// TestTerminalOwner: a terminal belongs to its user and stays in the group that the guest has for terminals, which may write to
// it: the user's own group may have other members.
func TestTerminalOwner(t *testing.T) {
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = master.Close(), slave.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(slave.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	cmd := shell("stat -L -c '%u %g' /dev/stdin")
	cmd.TTY = &Size{Rows: 24, Columns: 80}
	owner := os.Getuid()
	if owner == 0 {
		owner, cmd.User = 4321, "4321:8765"
	}
	if got, want := run(t, testGuest(), cmd, ""), fmt.Sprintf("%d %d\r\n", owner, st.Gid); got.stdout != want || got.err != nil {
		t.Errorf("the owner and the group of the terminal are %q, %v, want %q", got.stdout, got.err, want)
	}
}

// TestClosedDirectory: a user may work in a directory that only root can enter, as in docker. An agent that is not root
// says what is wrong.
func TestClosedDirectory(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	g := testGuest()
	cmd := Command{Argv: []string{"/bin/pwd"}, Dir: filepath.Join(t.TempDir(), "closed")}
	mode := os.FileMode(0o700)
	if os.Getuid() == 0 {
		cmd.User = "4321:8765"
	} else {
		mode = 0
	}
	if err := os.Mkdir(cmd.Dir, mode); err != nil {
		t.Fatal(err)
	}
	got := run(t, g, cmd, "")
	var refused *frame.Refusal
	switch {
	case os.Getuid() == 0:
		if got.stdout != cmd.Dir+"\n" || got.err != nil {
			t.Errorf("got %+v, want the directory %q", got, cmd.Dir)
		}
	case !errors.As(got.err, &refused) || refused.Reason != frame.BadDirectory || !strings.Contains(refused.Message, cmd.Dir):
		t.Errorf("error %v, want one with the reason %q and the directory", got.err, frame.BadDirectory)
	}
	if now, err := os.Getwd(); err != nil || now != here {
		t.Errorf("afterwards the agent's own directory is %q (error %v), want %q", now, err, here)
	}
}

func TestLookUpUser(t *testing.T) {
	etc := fstest.MapFS{
		"passwd": {Data: []byte("root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:34:The web, of course:/srv/web:/bin/false\n1001:x:55:56::/odd:\nshort:x:77:78:gecos:/short\n")},
		"group":  {Data: []byte("root:x:0:\nwheel:x:10:root,web\naudio:x:63:web\n2002:x:64:\nweb:x:34:\nbad:x:y:web\n")},
	}
	tests := []struct {
		spec  string
		want  string // uid gid groups home
		fails bool
	}{
		{spec: "", want: "0 0 [10] /root"},
		{spec: "root", want: "0 0 [10] /root"},
		{spec: "web", want: "33 34 [10 63] /srv/web"},
		{spec: "33", want: "33 34 [10 63] /srv/web"},
		{spec: "web:audio", want: "33 63 [] /srv/web"},
		{spec: "web:99", want: "33 99 [] /srv/web"},
		{spec: "web:", want: "33 34 [10 63] /srv/web"},
		{spec: "1234", want: "1234 0 [] /"},
		{spec: "1234:5678", want: "1234 5678 [] /"},
		{spec: "1001", want: "1001 0 [] /"},
		{spec: "55", want: "55 56 [] /odd"},
		{spec: "web:2002", want: "33 2002 [] /srv/web"},
		{spec: "short", want: "77 78 [] /short"},
		{spec: "4294967294", want: "4294967294 0 [] /"},
		{spec: ":audio", want: "0 63 [] /root"},
		{spec: "nobody", fails: true},
		{spec: "broken", fails: true},
		{spec: "web:nogroup", fails: true},
		{spec: "4294967295", fails: true},
		{spec: "-1", fails: true},
		{spec: "web:-1", fails: true},
	}
	for _, test := range tests {
		t.Run(test.spec, func(t *testing.T) {
			who, err := lookUpUser(etc, test.spec)
			got := fmt.Sprintf("%d %d %v %s", who.uid, who.gid, who.groups, who.home)
			if (err != nil) != test.fails || err == nil && got != test.want {
				t.Errorf("got %q, error %v, want %q, failure %v", got, err, test.want, test.fails)
			}
		})
	}
	if who, err := lookUpUser(fstest.MapFS{}, ""); err != nil || who.uid != 0 || who.home != "/" {
		t.Errorf("root of an image without /etc/passwd is %+v, %v, want 0 and /", who, err)
	}
}

// TestQueueRefuses: a host that does not keep to its window is not believed.
func TestQueueRefuses(t *testing.T) {
	q := newQueue()
	if !q.push(make([]byte, stdinWindow)) {
		t.Error("a full window was refused")
	}
	if q.push([]byte{1}) {
		t.Error("a byte more than the window was taken")
	}
}

// FuzzServe: whatever a host sends first, the agent answers or hangs up, and starts nothing.
func FuzzServe(f *testing.F) {
	f.Add([]byte(`{"version":1,"do":"hello"}`))
	f.Add([]byte(`{"version":1,"do":"poweroff"}`))
	f.Add([]byte(`{"version":1,"do":"exec","args":{"argv":["/nonexistent"]}}`))
	g := testGuest()
	g.Etc = fstest.MapFS{} // every command fails: the image's user is unknown
	f.Fuzz(func(t *testing.T, payload []byte) {
		if bytes.Contains(payload, []byte("user")) {
			return
		}
		near, far := net.Pipe()
		var done sync.WaitGroup
		done.Go(func() { g.Handlers().Serve(far) })
		done.Go(func() { _ = frame.NewWriter(near).Write(frame.Request, payload) })
		if _, err := frame.Read(near); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("the answer to %q: %v", payload, err)
		}
		_ = near.Close()
		done.Wait()
	})
}

// TestQueueWraps: input that goes around the ring comes out as it went in, and makes room again.
func TestQueueWraps(t *testing.T) {
	q := newQueue()
	var in, out bytes.Buffer
	source := rand.New(rand.NewPCG(1, 2))
	for in.Len() < 5*stdinWindow {
		piece := make([]byte, 1+source.IntN(frame.ChunkSize))
		for i := range piece {
			piece[i] = byte(source.Uint32())
		}
		if !q.push(piece) {
			t.Fatalf("%d bytes were refused, with %d of them waiting", len(piece), in.Len()-out.Len())
		}
		in.Write(piece)
		for in.Len()-out.Len() > stdinWindow-frame.ChunkSize {
			b := q.take()
			out.Write(b)
			q.drop(len(b))
		}
	}
	q.end()
	for b := q.take(); len(b) > 0; b = q.take() {
		out.Write(b)
		q.drop(len(b))
	}
	if !bytes.Equal(in.Bytes(), out.Bytes()) {
		t.Errorf("%d bytes came out that are not the %d that went in", out.Len(), in.Len())
	}
}
