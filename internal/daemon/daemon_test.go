package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/api/apitest"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/output"
)

// shortDir returns a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestListen(t *testing.T) {
	path := filepath.Join(shortDir(t), "run", "banger", "api.sock")
	listener, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o600, filepath.Dir(path): fs.ModeDir | 0o700} {
		if info, err := os.Stat(file); err != nil || info.Mode() != want {
			t.Errorf("%s has the mode %v (%v), want %v", file, info.Mode(), err, want)
		}
	}
	if _, err := Listen(t.Context(), path); fault.KindOf(err) != fault.Conflict || fault.HintOf(err) == "" {
		t.Errorf("a second daemon on the same socket: %v, want a conflict with a hint", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a daemon that has ended leaves its socket behind (%v)", err)
	}
}

// TestStaleSocket: what a daemon that was killed has left is replaced.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "api.sock")
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	_ = killed.Close()
	listener, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("nobody listens on the socket that replaced a stale one: %v", err)
	}
	_ = conn.Close()
}

func TestListenRefuses(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]fault.Kind{
		file:                              fault.Conflict, // is no socket
		filepath.Join(open, "api.sock"):   fault.Failure,  // others may enter the directory
		"/" + strings.Repeat("x", 120):    fault.Usage,    // does not fit into an address
		filepath.Join(file, "x/api.sock"): fault.Failure,  // has no directory
	} {
		listener, err := Listen(t.Context(), path)
		if err == nil {
			_ = listener.Close()
		}
		if fault.KindOf(err) != kind || err == nil {
			t.Errorf("listening on %q: %v, want an error of kind %d", path, err, kind)
		}
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a file that is no socket was taken away: %v", err)
	}
}

// daemonOn serves a new home.
type daemonOn struct {
	t      *testing.T
	home   string
	engine *engine.Engine
	client *http.Client
	stop   context.CancelFunc
	ended  chan error
	socket string
}

func start(t *testing.T) *daemonOn {
	t.Helper()
	dir := shortDir(t)
	d := &daemonOn{t: t, home: filepath.Join(dir, "home"), socket: filepath.Join(dir, "run", "api.sock"), ended: make(chan error, 1)}
	var err error
	d.engine, err = engine.New(engine.Config{
		Home: d.home, RuntimeDir: filepath.Join(dir, "run"), Path: os.Getenv("PATH"), Now: time.Now, Monitor: []string{"/bin/false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(t.Context(), d.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	server := New(Config{Engine: d.engine, OpenAPI: []byte("openapi: 3.1.0\n"), Log: io.Discard})
	go func() { d.ended <- server.Serve(ctx, listener) }()
	t.Cleanup(stop)
	d.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
	}}}
	return d
}

// ask sends a request and returns the answer with its body.
func (d *daemonOn) ask(method, path, body string, headers ...string) (*http.Response, []byte) {
	d.t.Helper()
	request, err := http.NewRequest(method, "http://banger"+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := d.client.Do(request)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer, text
}

// TestBadRequests: each is refused with a status, and an error in JSON that says what is wrong.
func TestBadRequests(t *testing.T) {
	d := start(t)
	publish(t, d.home, "idle")
	for _, c := range []struct {
		method, path, body string
		status             int
		kind, word         string
	}{
		{"GET", "/", "", 404, "unsupported", "no route GET /"},
		{"GET", "/v1", "", 404, "unsupported", "/v1"},
		{"GET", "/v2/vms", "", 404, "unsupported", "/v2/vms"},
		{"GET", "/v1/vms/", "", 404, "unsupported", "/v1/vms/"},
		{"GET", "/v1/vms/idle/nonsense", "", 404, "unsupported", "nonsense"},
		{"PUT", "/v1/vms", "", 405, "unsupported", "GET, HEAD, POST"},
		{"GET", "/v1/run", "", 405, "unsupported", "POST"},
		{"GET", "/v1/vms/nothing", "", 404, "not-found", `"nothing"`},
		{"GET", "/v1/images/a%2Fb:c", "", 404, "not-found", `"a/b:c"`},
		{"POST", "/v1/images", "", 400, "usage", "no body"},
		{"POST", "/v1/images", "{", 400, "usage", "unexpected EOF"},
		{"POST", "/v1/images", "nonsense", 400, "usage", "invalid character"},
		{"POST", "/v1/images", `[]`, 400, "usage", "cannot unmarshal"},
		{"POST", "/v1/images", `{"reference":1}`, 400, "usage", "reference"},
		{"POST", "/v1/images", `{"reference":"a","nome":"b"}`, 400, "usage", "nome"},
		{"POST", "/v1/images", `{"reference":"a"} {}`, 400, "usage", "something follows"},
		{"POST", "/v1/images", `{"reference":"a"}]`, 400, "usage", "invalid character"},
		{"POST", "/v1/images", `{"reference":""}`, 400, "usage", "reference"},
		{"POST", "/v1/images", `{"reference":"` + strings.Repeat("a", maxBody) + `"}`, 413, "usage", "more than"},
		{"POST", "/v1/vms", `{"image":"a","cpus":0}`, 400, "usage", "--cpus 0"},
		{"POST", "/v1/vms", `{"image":"a","name":"../b"}`, 400, "usage", "--name"},
		{"POST", "/v1/kernels", `{}`, 400, "usage", "exactly one source"},
		{"POST", "/v1/run", `{"image":"a","detach":true,"memory":1}`, 400, "usage", "--memory"},
		{"POST", "/v1/run", `{"image":"a"}`, 426, "usage", "Upgrade: banger-run"},
		{"POST", "/v1/vms/idle/stream", "", 426, "usage", "Upgrade: banger-stream"},
		{"POST", "/v1/vms/idle/exec", `{"argv":["true"]}`, 409, "not-running", "idle"},
		{"POST", "/v1/vms/idle/exec", `{"argv":"true"}`, 400, "usage", "argv"},
		{"POST", "/v1/vms/idle/signal", `{"signal":"NONSENSE"}`, 400, "usage", "NONSENSE"},
		{"POST", "/v1/vms/idle/stop", `{"limit":1}`, 400, "usage", "limit"},
		{"POST", "/v1/vms/idle/stop", `{"limit_ns":-1}`, 400, "usage", "-1"},
		{"POST", "/v1/vms/idle/restart", `{"limit_ns":-1}`, 400, "usage", "-1"},
		{"POST", "/v1/vms/idle/kill", "", 409, "not-running", "idle"},
		{"DELETE", "/v1/vms/idle?force=maybe", "", 400, "usage", "maybe"},
		{"GET", "/v1/vms/idle/logs?tail=many", "", 400, "usage", "many"},
		{"GET", "/v1/vms/idle/logs?tail=-1", "", 400, "usage", "-1"},
		{"GET", "/v1/vms/idle/logs?since=yesterday", "", 400, "usage", "yesterday"},
		{"GET", "/v1/vms/idle/logs?follow=1", "", 400, "usage", "follow"},
		{"GET", "/v1/vms/idle/logs?console=true&since=2026-01-02T15:04:05Z", "", 400, "usage", "console"},
	} {
		for _, accept := range []string{api.JSON, api.Events} {
			answer, body := d.ask(c.method, c.path, c.body, "Accept", accept)
			var failure api.Failure
			if err := json.Unmarshal(body, &failure); err != nil || failure.Error == nil || answer.Header.Get("Content-Type") != api.JSON {
				t.Errorf("%s %s %.80s: the answer is no error in JSON but %s: %.300s", c.method, c.path, c.body, answer.Header, body)
				continue
			}
			text := failure.Error.Message + failure.Error.Hint
			if answer.StatusCode != c.status || failure.Error.Kind != c.kind || !strings.Contains(text, c.word) {
				t.Errorf("%s %s %.80s: %d, %.300s; want %d, kind %s with %q",
					c.method, c.path, c.body, answer.StatusCode, body, c.status, c.kind, c.word)
			}
		}
	}
	if _, err := d.engine.FindVM(t.Context(), "idle"); err != nil {
		t.Errorf("a request that was refused has removed the VM: %v", err)
	}
}

// TestAllow: 405 comes with what is allowed, 426 with what to ask for.
func TestAllow(t *testing.T) {
	d := start(t)
	answer, _ := d.ask("PATCH", "/v1/vms/x", "")
	if allow := answer.Header.Get("Allow"); allow != "DELETE, GET, HEAD" {
		t.Errorf("Allow: %q", allow)
	}
	answer, _ = d.ask("POST", "/v1/run", `{"image":"x"}`)
	if answer.Header.Get("Upgrade") != api.UpgradeRun {
		t.Errorf("426 without Upgrade: %v", answer.Header)
	}
}

// TestOpenAPIIsServed: the file itself is to be had.
func TestOpenAPIIsServed(t *testing.T) {
	_, text := start(t).ask("GET", "/v1/openapi.yaml", "")
	if !bytes.HasPrefix(text, []byte("openapi: 3.1")) {
		t.Errorf("served is %.200s", text)
	}
	apitest.Load(t)
}

// publish makes a VM.
func publish(t *testing.T, home, name string) *instance.Instance {
	t.Helper()
	prepared := filepath.Join(home, "prepared")
	if err := os.MkdirAll(prepared, 0o700); err != nil {
		t.Fatal(err)
	}
	i, err := instance.NewStore(filepath.Join(home, "vms")).Publish(prepared, instance.Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestStop: a daemon that is to stop ends the requests that would go on, tells their clients, and leaves no socket.
func TestStop(t *testing.T) {
	d := start(t)
	i := publish(t, d.home, "web")
	held, err := i.Lock(t.Context()) // as its monitor would: the VM runs
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	log, err := output.NewWriter(i.Path(instance.OutputLog), output.Limit, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Write(output.Stdout, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	answer, err := d.client.Get("http://banger/v1/vms/web/logs?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewReader(answer.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != `{"stream":"stdout","text":"hello\n"}`+"\n" {
		t.Fatalf("the first line is %q (%v)", line, err)
	}
	d.stop()
	line, err := lines.ReadBytes('\n')
	var last api.Output
	if err != nil || json.Unmarshal(line, &last) != nil || last.Error == nil || last.Error.Kind != "interrupted" {
		t.Errorf("the last line is %q (%v), want an error of kind interrupted", line, err)
	}
	select {
	case err := <-d.ended:
		if err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon does not stop")
	}
	if _, err := os.Lstat(d.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the daemon left its socket behind (%v)", err)
	}
	if !i.Runs() {
		t.Error("the VM has ended with the daemon")
	}
}
