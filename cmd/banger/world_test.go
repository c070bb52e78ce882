package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/banger-vm/banger/docs"
	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/api/apitest"
	"github.com/banger-vm/banger/internal/daemon"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/remote"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
	"github.com/banger-vm/banger/internal/vm/output"
)

// world is a home, and verbs that work on it.
type world struct {
	*testing.T
	verbs   verbs
	dir     string // of all files; short, since it has sockets
	home    string
	runtime string
	socket  string // of the daemon, if there is one

	mu    sync.Mutex
	steps []string // names of the steps that have ended, and what became of layers
	said  []string // what the verbs gave, for comparison with another world
}

// worlds are the implementations of verbs: each is made on a home of its own.
func worlds() map[string]func(*testing.T) *world {
	return map[string]func(*testing.T) *world{"engine": newWorld, "daemon": newDaemonWorld}
}

// newWorld has the engine itself.
func newWorld(t *testing.T) *world {
	t.Helper()
	w, e := emptyWorld(t)
	w.verbs = e
	return w
}

// newDaemonWorld has a client of a daemon on a real socket, whose answers are judged by docs/openapi.yaml.
func newDaemonWorld(t *testing.T) *world {
	t.Helper()
	w, e := emptyWorld(t)
	w.socket = filepath.Join(w.runtime, "api.sock")
	listener, err := daemon.Listen(t.Context(), w.socket)
	if err != nil {
		t.Fatal(err)
	}
	served := daemon.New(daemon.Config{
		Engine: e, OpenAPI: docs.OpenAPI(), Log: io.Discard, Versions: api.Versions{API: api.Version},
	})
	server := &http.Server{Handler: apitest.Judge(t, served)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	w.verbs = w.client()
	return w
}

// client returns another client of the daemon.
func (w *world) client() *remote.Client {
	return remote.New(remote.Config{Socket: w.socket, Report: w.report})
}

func emptyWorld(t *testing.T) (*world, *engine.Engine) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{T: t, dir: dir, home: filepath.Join(dir, "home"), runtime: filepath.Join(dir, "run")}
	e, err := engine.New(engine.Config{
		Home: w.home, RuntimeDir: w.runtime, Path: os.Getenv("PATH"), Report: w.report,
		Now:     func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Monitor: []string{"/bin/false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, e
}

func (w *world) report(step imagepull.Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case step.Done:
		w.steps = append(w.steps, step.Name)
	case step.Layer != nil && step.Layer.State != imagepull.LayerDownloading: // which is said once or more
		w.steps = append(w.steps, fmt.Sprintf("%s: %+v", step.Name, *step.Layer))
	}
}

// gave notes what a verb gave, but for the world's own directory and the host's free memory, which changes.
func (w *world) gave(what string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	said := strings.ReplaceAll(what+": "+string(text), w.dir, "DIR")
	w.said = append(w.said, regexp.MustCompile(`host has \S+ available`).ReplaceAllString(said, "host has some available"))
}

// must fails the test if there is an error.
func (w *world) must(what string, err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
}

// fails checks that an error is of a kind and has these words in it or in its hint, and notes it.
func (w *world) fails(what string, err error, kind fault.Kind, words ...string) {
	w.Helper()
	if err == nil {
		w.Errorf("%s: no error, want one of kind %d", what, kind)
		return
	}
	text := err.Error() + "\n" + fault.HintOf(err)
	if fault.KindOf(err) != kind {
		w.Errorf("%s: the error is of kind %d, want %d: %s", what, fault.KindOf(err), kind, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			w.Errorf("%s: want %q in the error or the hint: %s", what, word, text)
		}
	}
	w.gave(what, text)
}

// archive writes what docker save would for an image with one layer, and returns its path.
func (w *world) archive(name string) string {
	w.Helper()
	return w.archiveOf(name, tarOf(w.T, map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/motd": "hello <&>\n"}))
}

// archiveOf is archive with a layer of one's own.
func (w *world) archiveOf(name string, layer []byte) string {
	w.Helper()
	sum := sha256.Sum256(layer)
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh","-c","echo <&>"]},`+
		`"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, sum)
	path := filepath.Join(w.dir, name)
	saved := tarOf(w.T, map[string]string{
		"manifest.json": `[{"Config":"config.json","RepoTags":["local/motd:1"],"Layers":["layer.tar"]}]`,
		"config.json":   config, "layer.tar": string(layer),
	})
	w.must("writing the archive", os.WriteFile(path, saved, 0o600))
	return path
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(1e9, 0)}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// vmlinuz writes the kernel of the tests' package to a file of that name in the world's directory. The modules would take
// a minute to read in a test that looks for races.
func (w *world) vmlinuz(name string) {
	w.Helper()
	if debs := strings.Fields(os.Getenv("BANGER_TEST_KERNEL_DEB")); len(debs) > 0 {
		const script = `dpkg-deb --fsys-tarfile "$0" | tar -xO --wildcards './boot/vmlinuz-*' >"$1"`
		out, err := osexec.Command("sh", "-c", script, debs[0], filepath.Join(w.dir, name)).CombinedOutput()
		if err != nil {
			w.Fatalf("taking the kernel out of %s: %v\n%s", debs[0], err, out)
		}
		return
	}
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), "kernel-deb") {
		w.Skip("excused (kernel-deb): BANGER_TEST_KERNEL_DEB is not set")
	}
	w.Fatal("BANGER_TEST_KERNEL_DEB is not set: run the tests by `make test` (or set BANGER_TEST_EXCUSE=kernel-deb)")
}

// published makes a VM without an image or a kernel.
func (w *world) published(name string) *instance.Instance { return w.publishedOf(name, "") }

// publishedOf makes a VM of an image, without a kernel.
func (w *world) publishedOf(name, image string) *instance.Instance {
	w.Helper()
	prepared := filepath.Join(w.home, "prepared")
	w.must("making a VM", os.MkdirAll(prepared, 0o700))
	i, err := instance.NewStore(filepath.Join(w.home, "vms")).Publish(prepared, instance.Config{
		Name: name, Image: "motd", ImageID: image, CPUs: 1, MemoryMiB: 128, Created: time.Unix(1e9, 0).UTC(), Env: []string{"OF_VM=yes"},
		Workload: &instance.Workload{Argv: []string{"/bin/true"}, StopSignal: 15},
	})
	w.must("making a VM", err)
	return i
}

// standIn stands in for the monitor of a VM: it holds the VM's lock and gives streams to a guest whose processes run on
// this machine.
type standIn struct {
	*instance.Instance
	held    *lock.Lock
	control net.Listener
	log     *output.Writer
}

// runs makes a VM that runs, but for the machine.
func (w *world) runs(name string) *standIn {
	w.Helper()
	i := w.published(name)
	w.must("noting the start", i.SetState(instance.State{Started: time.Unix(1e9, 0).UTC()}))
	held, err := i.Lock(w.Context())
	w.must("locking the VM", err)
	sum := sha256.Sum256([]byte(i.Dir))
	sockets := filepath.Join(w.runtime, hex.EncodeToString(sum[:6]))
	w.must("making the runtime directory", os.MkdirAll(sockets, 0o700))
	control, err := net.Listen("unix", filepath.Join(sockets, monitor.ControlSocket))
	w.must("listening", err)
	log, err := output.NewWriter(i.Path(instance.OutputLog), output.Limit, time.Now)
	w.must("making the log", err)
	s := &standIn{Instance: i, held: held, control: control, log: log}
	go s.serve()
	w.Cleanup(s.end)
	return s
}

// end is the end of the VM.
func (s *standIn) end() {
	_ = s.control.Close()
	_ = s.log.Close()
	s.held.Release()
}

func (s *standIn) serve() {
	for {
		conn, err := s.control.Accept()
		if err != nil {
			return
		}
		go s.answer(conn)
	}
}

// answer answers as docs/vm.md, "Its socket", says.
func (s *standIn) answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var asked struct{ Do string }
	in := bufio.NewReaderSize(conn, 16)
	line, err := in.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &asked) != nil {
		return
	}
	switch asked.Do {
	case "status":
		_, _ = io.WriteString(conn, `{"status":{"phase":"running","started":"2026-01-02T03:04:05Z","pid":1,"vmm":1}}`+"\n")
	case "stream":
		_, _ = io.WriteString(conn, `{"ok":true}`+"\n")
		hostGuest().Handlers().Serve(conn)
	case "signal":
		_, _ = io.WriteString(conn, `{"ok":true}`+"\n")
	default:
		_, _ = io.WriteString(conn, `{"error":{"kind":1,"message":"the stand-in does not do that"}}`+"\n")
	}
}

// hostGuest is a guest whose processes run on this machine as the user of the test.
func hostGuest() *exec.Guest {
	self := fmt.Sprintf("tester:x:%d:%d::/tmp:/bin/sh\n", os.Getuid(), os.Getgid())
	return &exec.Guest{
		Info:     exec.Info{Protocol: frame.Version, Agent: "0123456789ab", Init: "guest"},
		Config:   exec.Config{Env: []string{"PATH=/usr/bin:/bin"}, User: "tester"},
		Etc:      fstest.MapFS{"passwd": {Data: []byte(self)}},
		Poweroff: func() error { return errors.New("no switch") },
	}
}
