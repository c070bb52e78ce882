package monitor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// TestSlowClient: a client that does not read holds the command up, and gets everything in the end.
func TestSlowClient(t *testing.T) {
	const size = 8 << 20
	b := newBox(t, "head -c 8388608 /dev/zero | tr '\\0' x; touch $VM/written; exit 5")
	a := b.mustStart(Start{Attached: true})
	time.Sleep(500 * time.Millisecond)
	if _, err := os.Stat(b.Path("written")); err == nil {
		t.Error("the command wrote 8 MiB to a client that reads nothing")
	}
	got := b.attend(a, nil, nil)
	if got.err != nil || got.code != 5 || got.stdout != strings.Repeat("x", size) {
		t.Errorf("got %d bytes, exit code %d (%v)", len(got.stdout), got.code, got.err)
	}
	if log := b.logged(); log != got.stdout {
		t.Errorf("the log has %d bytes", len(log))
	}
	_, _ = b.ended()
}

// TestStuckClient: a client that never reads does not keep its VM from being stopped.
func TestStuckClient(t *testing.T) {
	b := newBox(t, "yes")
	b.mustStart(Start{Attached: true})
	time.Sleep(100 * time.Millisecond)
	state, err := b.client().Stop(patiently(t), 6*time.Second)
	if err != nil || state.Reason != instance.Stopped {
		t.Errorf("got %+v (%v)", state, err)
	}
	_, _ = b.ended()
}

// TestClientGone: a command goes on without its client. It finds the end of its input or, on a terminal, a hangup.
func TestClientGone(t *testing.T) {
	const goesOn = "echo begin; while [ ! -e $VM/go ]; do sleep 0.01; done; "
	for _, c := range []struct {
		name       string
		script     string
		stdin, tty bool
		code       int
		log        string
	}{
		{"without -i", goesOn + "echo end; exit 3", false, false, 3, "begin\nend\n"},
		{"without -i on a terminal", goesOn + "echo end; exit 3", false, true, 3, "begin\r\nend\r\n"},
		{"with -i", "echo begin; cat; echo end; exit 3", true, false, 3, "begin\nend\n"},
		{"with -it", "echo begin; cat; echo end", true, true, 128 + 1, "begin\r\n"},
		{"while it prints", goesOn + "head -c 4000000 /dev/zero | tr '\\0' x; exit 3", false, false, 3, "begin\n" + strings.Repeat("x", 4_000_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, c.script, func(config *instance.Config) { config.Workload.Stdin, config.Workload.TTY = c.stdin, c.tty })
			a := b.mustStart(Start{Attached: true})
			for b.logged() == "" {
				time.Sleep(time.Millisecond)
			}
			if strings.Contains(c.name, "prints") {
				b.touch("go")
				time.Sleep(50 * time.Millisecond)
			}
			_ = a.conn.Close()
			time.Sleep(20 * time.Millisecond)
			b.touch("go")
			state, err := b.ended()
			if err != nil || state.Reason != instance.Exited || state.ExitCode != c.code {
				t.Errorf("the state is %+v (%v), want the exit code %d", state, err, c.code)
			}
			if log := b.logged(); log != c.log {
				t.Errorf("the log has %.60q in %d bytes, want %.60q in %d", log, len(log), c.log, len(c.log))
			}
		})
	}
}

// TestTerminalOfAClient: size and resize of the client's terminal are the command's.
func TestTerminalOfAClient(t *testing.T) {
	b := newBox(t, "trap 'stty size; exit 4' WINCH; stty size; while :; do sleep 0.01; done", func(c *instance.Config) {
		c.Workload.TTY = true
	})
	a := b.mustStart(Start{Attached: true, Terminal: &exec.Size{Rows: 33, Columns: 77}})
	resize := make(chan exec.Size, 1)
	go func() {
		for ctx := patiently(t); ctx.Err() == nil && b.logged() == ""; time.Sleep(time.Millisecond) {
		}
		resize <- exec.Size{Rows: 44, Columns: 88}
	}()
	var out bytes.Buffer
	code, err := a.Run(patiently(t), nil, &out, &out, resize, nil)
	if err != nil || code != 4 || out.String() != "33 77\r\n44 88\r\n" {
		t.Errorf("got %q, %d (%v)", out.String(), code, err)
	}
	_, _ = b.ended()
}

// TestInterruptedClient: a client whose context ends returns at once with its cause, and the VM lives on.
func TestInterruptedClient(t *testing.T) {
	b := newBox(t, forever)
	a := b.mustStart(Start{Attached: true})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if code, err := a.Run(ctx, nil, io.Discard, io.Discard, nil, nil); !errors.Is(err, why) || code >= 0 {
		t.Errorf("got %d (%v), want the context's cause", code, err)
	}
	if status, err := b.client().Status(patiently(t)); err != nil || status.Phase != Running {
		t.Errorf("the VM's status is %+v (%v)", status, err)
	}
	if _, err := b.client().Kill(patiently(t)); err != nil {
		t.Error(err)
	}
	_, _ = b.ended()
}

// TestManyStreams: streams at once are each their own, and closing one ends what runs on it.
func TestManyStreams(t *testing.T) {
	b := newBox(t, forever)
	b.launch()
	var running sync.WaitGroup
	for n := range 16 {
		running.Go(func() {
			stream, err := b.client().Stream(patiently(t))
			if err != nil {
				t.Error(err)
				return
			}
			var out bytes.Buffer
			input := strings.Repeat(string(rune('a'+n)), 300_000)
			code, err := exec.Run(patiently(t), stream, exec.Command{Argv: []string{"cat"}, Stdin: true}, strings.NewReader(input), &out, io.Discard, nil, nil)
			if err != nil || code != 0 || out.String() != input {
				t.Errorf("stream %d: %d bytes came back, exit code %d (%v)", n, out.Len(), code, err)
			}
		})
	}
	running.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := b.client().Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer cancel()
		for ctx := patiently(t); !directory(b.Dir).has("trapped") && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
	}()
	_, _ = exec.Run(ctx, stream, exec.Command{Argv: []string{"sh", "-c", "trap 'touch $VM/hangup; exit' HUP; touch $VM/trapped; " + forever}}, nil, io.Discard, io.Discard, nil, nil)
	b.waitFor("hangup")
	if _, err := b.client().Stop(patiently(t), 10*time.Second); err != nil {
		t.Error(err)
	}
}

// TestAnswersOfAnother: a client takes nothing that a monitor of another version, or none, may say for what it is not.
func TestAnswersOfAnother(t *testing.T) {
	for _, text := range []string{"{}", `{"ok":true}`, "junk", "", `{"status":null}`, `{"state":null}`, "[]"} {
		socket := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = (&lines{conn: conn}).line()
				_, _ = io.WriteString(conn, text+"\n")
				_ = conn.Close()
			}
		}()
		c := Client{Name: "web", Socket: socket}
		if status, err := c.Status(t.Context()); err == nil {
			t.Errorf("the answer %q is the status %+v", text, status)
		}
		if state, err := c.Stop(t.Context(), time.Second); err == nil {
			t.Errorf("the answer %q is the state %+v", text, state)
		}
		_ = listener.Close()
	}
	begin := time.Now()
	if _, err := (Client{Name: "web", Socket: "/nonexistent"}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), `"web"`) || time.Since(begin) > 5*dialLimit {
		t.Errorf("a monitor that is not there: %v after %v", err, time.Since(begin))
	}
}

// FuzzRequest: whatever a client sends, the monitor answers with a line or hangs up, and lives.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "{}\n", `{"version":1,"do":"status"}` + "\n", `{"do":"stop","limit":-5}` + "\n", `{"do":"signal","signal":9}` + "\n",
		`{"do":"stream"}` + "\nmore", `{"do":"ports","add":["1:1"],"remove":["x"]}` + "\n", `{"do":"start","start":{"dir":"/"}}` + "\n", `{"do":"wait"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		booted, done := make(chan struct{}), make(chan struct{})
		close(booted)
		close(done)
		m := &monitor{
			instance: &instance.Instance{Config: instance.Config{Name: "web"}}, booted: booted, done: done,
			stopping: make(chan struct{}), cut: func(error) {}, Surroundings: Surroundings{Now: time.Now, Log: io.Discard},
		}
		if err := m.publish(); err != nil {
			t.Fatal(err)
		}
		mine, theirs := net.Pipe()
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			m.answer(theirs)
		}()
		go func() {
			_, _ = mine.Write(sent)
			_ = mine.SetWriteDeadline(time.Now())
			time.Sleep(time.Millisecond)
			if !bytes.Contains(sent, []byte("\n")) {
				_ = mine.Close()
			}
		}()
		text, _ := io.ReadAll(mine)
		_ = mine.Close()
		<-answered
		if len(text) > 0 && (text[0] != '{' || bytes.IndexByte(text, '\n') != len(text)-1) {
			t.Errorf("%q is answered with %q, which is no line", sent, text)
		}
	})
}

// FuzzAnswer: whatever a monitor says is an answer or an error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"status":{"phase":"running"}}`+"\n"), true)
	f.Add([]byte(`{"error":{"kind":3,"message":"m","hint":"h","code":127,"boot":{"Step":"kernel"}}}`+"\n"), false)
	f.Fuzz(func(t *testing.T, said []byte, ahead bool) {
		mine, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write(said)
			_ = theirs.Close()
		}()
		defer func() { _ = mine.Close() }()
		from := &lines{conn: mine}
		if ahead {
			from.ahead = bufio.NewReader(mine)
		}
		a, err := from.answer()
		if err == nil && a.Error != nil {
			t.Errorf("%q has the error %+v and gives none", said, a.Error)
		}
		var refused *frame.Refusal
		if errors.As(err, &refused) {
			t.Errorf("%q is taken for the agent's refusal", said)
		}
	})
}
