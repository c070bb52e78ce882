package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// slowRegistry is a registry that sends half of each layer, and the rest when it is told to.
type slowRegistry struct {
	reference string // of an image with many layers
	release   func()
}

func newSlowRegistry(t *testing.T, layers int) slowRegistry {
	t.Helper()
	gate := make(chan struct{})
	var pushed atomic.Bool
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if pushed.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			w = &halfWriter{ResponseWriter: w, gate: gate, request: r}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	image, err := random.Image(200_000, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.NewTag(strings.TrimPrefix(server.URL, "http://") + "/many:1")
	if err == nil {
		err = remote.Write(reference, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	pushed.Store(true)
	slow := slowRegistry{reference: reference.String(), release: sync.OnceFunc(func() { close(gate) })}
	t.Cleanup(slow.release)
	return slow
}

// halfWriter sends a large body in two parts.
type halfWriter struct {
	http.ResponseWriter
	gate    chan struct{}
	request *http.Request
	sent    int
}

// Write sends the body's first half, waits, and sends the rest.
func (h *halfWriter) Write(p []byte) (n int, err error) {
	const half = 100_000
	for len(p) > 0 {
		part := p
		if h.sent < half {
			part = p[:min(len(p), half-h.sent)]
		}
		m, err := h.ResponseWriter.Write(part)
		n, h.sent, p = n+m, h.sent+m, p[m:]
		if err != nil {
			return n, err
		}
		if h.sent == half {
			_ = http.NewResponseController(h.ResponseWriter).Flush()
			select {
			case <-h.gate:
			case <-h.request.Context().Done():
				return n, io.ErrClosedPipe
			}
		}
	}
	return n, nil
}

// screenOf is a terminal that tmux is, with a program in it.
type screenOf struct {
	*testing.T
	socket string
}

// onTmux runs banger on a terminal of that size, at the end of thirty lines, and prints its exit code behind it.
func onTmux(t *testing.T, columns, rows int, home string, args ...string) *screenOf {
	t.Helper()
	if _, err := osexec.LookPath("tmux"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), "tmux") {
			t.Skip("excused (tmux): it is not installed")
		}
		t.Fatal("tmux is not installed: run the tests by `make test` (or set BANGER_TEST_EXCUSE=tmux)")
	}
	s := &screenOf{T: t, socket: filepath.Join(t.TempDir(), "tmux")}
	cmd := process(t.Context(), home, args...)
	script := `trap : INT; seq -f before-%.0f 30; "$@"; echo "exit code $?"; exec sleep 1000`
	line := append([]string{"-f", "/dev/null", "-u", "new-session", "-d", "-x", fmt.Sprint(columns), "-y", fmt.Sprint(rows),
		"sh", "-c", script, "sh"}, cmd.Args...)
	s.tmux(cmd.Env, line...)
	t.Cleanup(func() { _ = osexec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	s.tmux(nil, "set-option", "-g", "status", "off") // which would take a row
	return s
}

func (s *screenOf) tmux(env []string, args ...string) string {
	s.Helper()
	cmd := osexec.Command("tmux", append([]string{"-S", s.socket}, args...)...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("tmux %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

// lines are what the terminal shows, and what has scrolled off it.
func (s *screenOf) lines() []string {
	s.Helper()
	text := strings.TrimRight(s.tmux(nil, "capture-pane", "-p", "-S", "-"), "\n")
	return strings.Split(text, "\n")
}

// own are the lines behind those that were there before, of which none may be missing.
func (s *screenOf) own(lines []string) []string {
	s.Helper()
	for n := range 30 {
		if want := fmt.Sprintf("before-%d", n+1); n >= len(lines) || lines[n] != want {
			s.Fatalf("what was on the terminal before has gone (%s):\n%s", want, strings.Join(lines, "\n"))
		}
	}
	return lines[30:]
}

// shows waits until the terminal shows lines that satisfy a condition, and returns them.
func (s *screenOf) shows(what string, condition func(lines []string) bool) []string {
	s.Helper()
	var lines []string
	for until := time.Now().Add(15 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if lines = s.lines(); condition(lines) {
			return lines
		}
	}
	s.Fatalf("the terminal never shows %s, but\n%s", what, strings.Join(lines, "\n"))
	return nil
}

// count is how many lines begin with a word.
func count(lines []string, word string) (n int) {
	for _, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), word) || strings.Contains(line, word) {
			n++
		}
	}
	return n
}

// TestBarsOnTerminal: a pull of many layers on a low terminal stays in its place, also while the terminal's size changes,
// and leaves a line for each step.
func TestBarsOnTerminal(t *testing.T) {
	slow := newSlowRegistry(t, 30)
	s := onTmux(t, 72, 14, filepath.Join(t.TempDir(), "home"), "image", "pull", slow.reference)
	half := func(lines []string) bool {
		return count(lines, "100kB of 20") == 4 && count(lines, "and ") == 1 && count(lines, "/s") == 0
	}
	lines := s.shows("four layers at their half, which stall", half)
	if lines = s.own(lines); !strings.HasPrefix(lines[0], "Pull ") || len(lines) != 6 || count(lines, "[=") != 4 {
		t.Errorf("want the step once, four bars, and a row left:\n%s", strings.Join(lines, "\n"))
	}
	for _, size := range [][2]int{{40, 14}, {72, 8}, {30, 20}, {100, 30}} {
		s.tmux(nil, "resize-window", "-x", fmt.Sprint(size[0]), "-y", fmt.Sprint(size[1]))
		time.Sleep(600 * time.Millisecond) // some refreshes
		s.shows(fmt.Sprintf("on %d columns and %d rows just the step, four layers and the rest", size[0], size[1]),
			func(lines []string) bool {
				lines = s.own(lines)
				return len(lines) == 6 && strings.HasPrefix(lines[0], "Pull ")
			})
	}
	slow.release()
	lines = s.own(s.shows("the end", func(lines []string) bool { return count(lines, "exit code") == 1 }))
	want := []string{"Pull ", "Flatten ", "InjectGuestAgents ", "BuildExt4 ", "127.0.0.1:", "exit code 0"}
	if len(lines) != len(want) {
		t.Errorf("at the end, %d lines are left, want %d:\n%s", len(lines), len(want), strings.Join(lines, "\n"))
	}
	for n, word := range want[:min(len(want), len(lines))] {
		if !strings.HasPrefix(lines[n], word) {
			t.Errorf("line %d is %q, want it to begin with %q", n+1, lines[n], word)
		}
	}
}

// TestCtrlCOnTerminal: Ctrl-C takes the bars away, and what the terminal echoes.
func TestCtrlCOnTerminal(t *testing.T) {
	slow := newSlowRegistry(t, 3)
	s := onTmux(t, 60, 12, filepath.Join(t.TempDir(), "home"), "image", "pull", slow.reference)
	s.shows("the layers at their half", func(lines []string) bool { return count(lines, "100kB of 20") == 3 })
	s.tmux(nil, "send-keys", "C-c")
	lines := s.own(s.shows("the end", func(lines []string) bool { return count(lines, "exit code") == 1 }))
	want := []string{"banger: interrupted; nothing was left half-made", "exit code 130"}
	if !slices.Equal(lines, want) {
		t.Errorf("after Ctrl-C the terminal shows\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

// TestPruneAsks: on a terminal, nothing is removed before somebody has said yes.
func TestPruneAsks(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	mustRun(t, home, "image", "pull", saved(t, dir, "one", 1, 1))
	for _, c := range []struct {
		keys []string
		code string
		left int
	}{
		{[]string{"n", "Enter"}, "exit code 0", 1},
		{[]string{"Enter"}, "exit code 0", 1},
		{[]string{"C-d"}, "exit code 0", 1},
		{[]string{"C-c"}, "exit code 130", 1},
		{[]string{"y", "Enter"}, "exit code 0", 0},
	} {
		s := onTmux(t, 80, 12, home, "image", "prune", "--all")
		s.shows("the question", func(lines []string) bool { return count(lines, "continue? [y/N]") == 1 })
		s.tmux(nil, append([]string{"send-keys"}, c.keys...)...)
		lines := s.own(s.shows("the end", func(lines []string) bool { return count(lines, "exit code") == 1 }))
		images, _ := filepath.Glob(filepath.Join(home, "images", "????????*"))
		if len(images) != c.left || count(lines, c.code) != 1 || (count(lines, "reclaimed space") == 0) != (c.left == 1) {
			t.Errorf("after %v, %d images are left, want %d and the %s:\n%s", c.keys, len(images), c.left, c.code, strings.Join(lines, "\n"))
		}
	}
	if s := runProcess(t, home, "image", "prune"); s.code != 0 || s.stderr != "" || s.stdout != "Total reclaimed space: 0B\n" {
		t.Errorf("without a terminal: exit code %d, %q and %q, want no question", s.code, s.stdout, s.stderr)
	}
}
