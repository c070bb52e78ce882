package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/vm/output"
)

// TestClientsAtOnce: many clients do not disturb each other, and the same image is made once.
func TestClientsAtOnce(t *testing.T) {
	w := newDaemonWorld(t)
	w.runs("web")
	archive := "docker-archive:" + w.archive("motd.tar")
	var working sync.WaitGroup
	fresh := make(chan bool, 4)
	for n := range 4 {
		working.Go(func() {
			pulled, err := w.client().PullImage(w.Context(), archive, engine.PullOptions{Size: 128 << 20})
			if err != nil {
				t.Errorf("pulling: %v", err)
			}
			fresh <- pulled.Fresh
		})
		working.Go(func() {
			input := bytes.Repeat([]byte{byte(n)}, 3<<20)
			var out bytes.Buffer
			code, err := w.client().Exec(w.Context(), "web", execOptions(bytes.NewBuffer(input), &out, "/bin/sh", "-c", "cat; exit "+strconv.Itoa(n)))
			if err != nil || code != n || !bytes.Equal(out.Bytes(), input) {
				t.Errorf("command %d: exit code %d (%v) and %d bytes, of which not all are its own", n, code, err, out.Len())
			}
		})
	}
	working.Wait()
	made := 0
	for range 4 {
		if <-fresh {
			made++
		}
	}
	if made != 1 {
		t.Errorf("four pulls of one image at once made it %d times", made)
	}
}

// TestClientGone: a command ends with the client that asked for it, whichever way that hangs up.
func TestClientGone(t *testing.T) {
	for name, headers := range map[string]string{"frames": "Connection: Upgrade\r\nUpgrade: banger-frames\r\n", "lines": ""} {
		t.Run(name, func(t *testing.T) {
			w := newDaemonWorld(t)
			w.runs("web")
			mark := filepath.Join(w.dir, "pid")
			body := fmt.Sprintf(`{"argv":["/bin/sh","-c","echo $$ >%s.new; mv %s.new %s; exec sleep 1000"]}`, mark, mark, mark)
			conn, err := net.Dial("unix", w.socket)
			w.must("connecting", err)
			_, err = fmt.Fprintf(conn, "POST /v1/vms/web/exec HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", headers, len(body), body)
			w.must("asking", err)
			pid := 0
			eventually(t, "the command runs", func() bool {
				text, _ := os.ReadFile(mark)
				pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
				return pid > 0
			})
			w.must("hanging up", conn.Close())
			eventually(t, "the command has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
		})
	}
}

// TestEarlyFrames: what a client sends before it has read the answer 101 is not lost.
func TestEarlyFrames(t *testing.T) {
	w := newDaemonWorld(t)
	w.runs("web")
	body := `{"argv":["/bin/cat"],"stdin":true}`
	conn, err := net.Dial("unix", w.socket)
	w.must("connecting", err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST /v1/vms/web/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: banger-frames\r\n"+
		"Content-Length: %d\r\n\r\n%s\x02\x00\x00\x00\x05early\x03\x00\x00\x00\x00", len(body), body)
	w.must("asking", err)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) || !bytes.Contains(answer, []byte("\x10\x00\x00\x00\x05early")) {
		t.Errorf("the answer (%v) is %q, want 101 and a frame with what was sent", err, answer)
	}
}

// slowReader is a client that takes its time.
type slowReader struct {
	sum   io.Writer
	pause func()
}

// Write takes a piece after a while.
func (s *slowReader) Write(b []byte) (int, error) {
	s.pause()
	return s.sum.Write(b)
}

// TestSlowClient: one that does not read what it follows holds up nobody, and misses nothing in the end.
func TestSlowClient(t *testing.T) {
	w := newDaemonWorld(t)
	vm := w.runs("web")
	sum, written := sha256.New(), sha256.New()
	stuck, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := &slowReader{sum: sum, pause: func() { once.Do(func() { close(stuck); <-goOn }) }}
	followed := make(chan error, 1)
	go func() {
		followed <- w.client().Logs(w.Context(), "web", engine.LogOptions{Tail: -1, Follow: true}, slow, slow)
	}()
	piece := bytes.Repeat([]byte("0123456789abcde\n"), 2048)
	for n := range 256 { // 8 MiB, more than all buffers on the way
		copy(piece, fmt.Sprintf("%08d", n))
		w.must("logging", vm.log.Write(output.Stdout, piece))
		_, _ = written.Write(piece)
	}
	<-stuck
	begun := time.Now()
	for range 10 {
		_, err := w.verbs.ListVMs(w.Context())
		w.must("listing", err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("beside a client that does not read, ten requests take %v", took)
	}
	close(goOn)
	vm.end()
	if err := <-followed; err != nil {
		t.Errorf("following: %v", err)
	}
	if !bytes.Equal(sum.Sum(nil), written.Sum(nil)) {
		t.Error("a slow client got something else than what was printed")
	}
}

// TestLateCancellation: the end of a context that comes after the answer does not touch a stream.
func TestLateCancellation(t *testing.T) {
	w := newDaemonWorld(t)
	w.runs("web")
	ctx, cancel := context.WithCancel(w.Context())
	stream, err := w.verbs.Stream(ctx, "web")
	w.must("opening a stream", err)
	defer func() { _ = stream.Close() }()
	cancel()
	_ = stream.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading from the stream: %v, want the deadline's error", err)
	}
}

// command runs banger's command line in this process, with these variables.
func (w *world) command(variables map[string]string, args ...string) (stdout, stderr string, code int) {
	w.Helper()
	var out, errs bytes.Buffer
	lookup := func(name string) (string, bool) {
		value, found := variables[name]
		return value, found
	}
	ctx, cancel := context.WithCancelCause(w.Context())
	defer cancel(nil)
	code = execute(ctx, args, system{
		stdin: os.Stdin, stdout: &out, stderr: &errs, lookupEnv: lookup, uid: os.Getuid(), interrupts: &interrupts{cancel: cancel},
	})
	return out.String(), errs.String(), code
}

// TestHost: with --host, or BANGER_HOST, a command is a daemon's, and prints what it prints without.
func TestHost(t *testing.T) {
	w := newDaemonWorld(t)
	w.published("web")
	w.image("zoo", zoo())
	w.image("zoos", zoo(changeOf("etc/motd", func(h *tar.Header) { h.Mode = 0o600 })))
	here := map[string]string{"BANGER_HOME": w.home, "XDG_RUNTIME_DIR": filepath.Join(w.dir, "x"), "PATH": os.Getenv("PATH")}
	elsewhere := map[string]string{"BANGER_HOME": filepath.Join(w.dir, "other"), "BANGER_HOST": "unix://" + w.socket}
	for _, args := range [][]string{
		{"vm", "ls"}, {"vm", "ls", "--json"}, {"vm", "inspect", "web"}, {"vm", "inspect", "wep"}, {"images", "--json"},
		{"kernel", "ls"}, {"vm", "exec", "web", "true"}, {"vm", "rm", "nothing"}, {"vm", "port", "ls"}, {"vm", "stop", "web"},
		{"vm", "logs", "web"}, {"vm", "wait", "web"}, {"vm", "kill", "-s", "HUP", "web"},
		{"image", "ls-files", "zoo"}, {"image", "ls-files", "-l", "zoo"}, {"image", "ls-files", "--json", "zoo", "/etc"},
		{"image", "ls-files", "zoo", "/etc/mot"}, {"image", "cat", "zoo", "/etc/large", "/etc", "/bin/ping"},
		{"image", "diff", "-v", "zoo", "zoos"}, {"image", "diff", "--json", "zoo", "zoos"},
		{"image", "diff", "--exit-code", "zoo", "zoos"}, {"image", "diff", "zoo", "none"},
	} {
		stdout, stderr, code := w.command(here, args...)
		byVariable, errorByVariable, codeByVariable := w.command(elsewhere, args...)
		delete(elsewhere, "BANGER_HOST")
		byFlag, _, codeByFlag := w.command(elsewhere, append([]string{"--host", "unix://" + w.socket}, args...)...)
		elsewhere["BANGER_HOST"] = "unix://" + w.socket
		if byVariable != stdout || errorByVariable != stderr || codeByVariable != code || byFlag != stdout || codeByFlag != code {
			t.Errorf("banger %s\nhere: %d %s%s\nby a daemon: %d %s%s", strings.Join(args, " "), code, stdout, stderr,
				codeByVariable, byVariable, errorByVariable)
		}
	}
	if versions, _, code := w.command(elsewhere, "version"); code != 0 || !strings.Contains(versions, "\ndaemon ") {
		t.Errorf("version: exit code %d and %s, want the daemon's versions too", code, versions)
	}
	if _, err := os.Stat(elsewhere["BANGER_HOME"]); err == nil {
		t.Error("a command that a daemon does has made a home of its own")
	}
}

func TestBadHosts(t *testing.T) {
	w, _ := emptyWorld(t)
	file := filepath.Join(w.dir, "file")
	w.must("making a file", os.WriteFile(file, nil, 0o600))
	for host, want := range map[string]struct {
		code int
		word string
	}{
		"tcp://localhost:1":                   {int(fault.Usage), "unix:///PATH"},
		"unix://relative":                     {int(fault.Usage), "unix:///PATH"},
		w.dir:                                 {int(fault.Usage), "unix:///PATH"},
		"unix://" + w.dir + "/none.sock":      {int(fault.Unreachable), "banger daemon"},
		"unix://" + file:                      {int(fault.Unreachable), "banger daemon"},
		"unix:///" + strings.Repeat("x", 200): {int(fault.Unreachable), ""},
	} {
		_, stderr, code := w.command(nil, "--host", host, "vm", "ls")
		if code != want.code || !strings.Contains(stderr, want.word) {
			t.Errorf("--host %s: exit code %d and %s, want %d and %q", host, code, stderr, want.code, want.word)
		}
	}
	for _, list := range []string{"vm ls", "vm ls --json", "image ls", "image ls --json", "kernel ls", "kernel ls --json", "system df", "vm port ls"} {
		args := append([]string{"--host", "unix://" + file}, strings.Fields(list)...)
		if stdout, _, code := w.command(nil, args...); stdout != "" || code != int(fault.Unreachable) {
			t.Errorf("%s prints %q without a daemon, with the exit code %d", list, stdout, code)
		}
	}
}

// TestStranger: something else that listens on the socket is told from a daemon.
func TestStranger(t *testing.T) {
	for name, answer := range map[string]string{
		"silence": "", "noise": "hello\r\n\r\n", "web server": "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
		"redirection": "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
		"cut":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"vms\":[", "no upgrade": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := emptyWorld(t)
			w.socket = filepath.Join(w.dir, "s")
			listener, err := net.Listen("unix", w.socket)
			w.must("listening", err)
			defer func() { _ = listener.Close() }()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 4096))
					_, _ = io.WriteString(conn, answer)
					_ = conn.Close()
				}
			}()
			_, stream := w.client().Stream(w.Context(), "web")
			_, run := w.client().Run(w.Context(), runOptions("image"))
			for what, err := range map[string]error{"stream": stream, "run": run, "stop": w.client().StartVM(w.Context(), "web")} {
				if kind := fault.KindOf(err); kind != fault.Unreachable && kind != fault.Unsupported {
					t.Errorf("%s: %v, want an error that says that there is no daemon", what, err)
				}
			}
		})
	}
}
