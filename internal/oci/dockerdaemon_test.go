package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

func copyOf(data []byte) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

func failingCopy(context.Context, io.Writer) error { return errors.New("broken") }

// socketDir returns a directory whose path is short enough for sockets.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serveSocket serves at a socket, and returns what DOCKER_HOST is for it.
func serveSocket(t *testing.T, h http.Handler) string {
	t.Helper()
	socket := filepath.Join(socketDir(t), "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(h)
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return "unix://" + socket
}

// TestDaemon: an image of a daemon that answers as docker does.
func TestDaemon(t *testing.T) {
	members := make(map[string]string)
	tagged := savedImage(t, members, []string{"one:v1"}, "base", "top")
	path := writeArchive(t, members, tagged)
	archive, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSuffix(tagged.Config, ".json")
	var asked []string
	host := serveSocket(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _ := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/images/"), "/get")
		asked = append(asked, name)
		switch name {
		case "docker.io/library/one:v1", id, "sha256:" + id, id[:12], "docker.io/library/one@" + someDigest:
			_, _ = w.Write(archive)
		case "docker.io/library/cut:latest":
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(archive[:len(archive)/2])
		case "docker.io/library/short:latest":
			_, _ = w.Write(archive[:len(archive)/2])
		case "docker.io/library/text:latest":
			_, _ = w.Write([]byte(`{"message":"something went wrong"}`))
		case "docker.io/library/ill:latest":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(`{"message":"no space left on device"}`))
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"No such image: ` + name + `"}`))
		}
	}))
	resolve := func(ref string) (*Image, error) {
		opts := options(t, "linux/amd64")
		opts.DockerHost = host
		return Resolve(t.Context(), ref, opts)
	}
	for ref, want := range map[string]string{
		"one:v1": "docker.io/library/one:v1", "docker.io/library/one:v1": "docker.io/library/one:v1", id: id, id[:12]: id[:12],
		"sha256:" + id: "sha256:" + id, "one@" + someDigest: "docker.io/library/one@" + someDigest,
	} {
		image, err := resolve("docker-daemon:" + ref)
		if err != nil {
			t.Errorf("Resolve(docker-daemon:%s): %v", ref, err)
			continue
		}
		if got := strings.Join(texts(t, image), " "); got != "base top" || image.Name != "one:v1" || image.Reference != "docker-daemon:"+want {
			t.Errorf("Resolve(docker-daemon:%s): got %q called %q, %q", ref, got, image.Name, image.Reference)
		}
		_ = image.Close()
	}
	for name, want := range map[string]struct {
		kind  fault.Kind
		words []string
	}{
		"nothing": {fault.NotFound, []string{"No such image", "docker images"}},
		"ill":     {fault.Unreachable, []string{"500", "no space left on device"}},
		"cut":     {fault.Unreachable, []string{"hung up"}},
		"short":   {fault.Corrupt, []string{"incomplete"}},
		"text":    {fault.Unsupported, []string{"no tar", "docker or podman"}},
		"":        {fault.Usage, []string{"docker-daemon:NAME"}},
		"UPPER":   {fault.Usage, []string{"UPPER"}},
	} {
		_, err := resolve("docker-daemon:" + name)
		checkFault(t, err, want.kind, want.words...)
	}
	if !slices.Contains(asked, "docker.io/library/nothing:latest") {
		t.Errorf("a name without a tag is asked for without one, which is for all its tags: %q", asked)
	}
}

// TestNoDaemon: where a daemon does not listen, or not for us.
func TestNoDaemon(t *testing.T) {
	gone := filepath.Join(socketDir(t), "docker.sock")
	listener, err := net.Listen("unix", gone)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = listener.Close()
	for host, words := range map[string][]string{
		"unix:///no/such.sock": {"/no/such.sock", "DOCKER_HOST=unix:///PATH"}, "unix://" + gone: {gone, "refused"},
	} {
		_, err := Resolve(t.Context(), "docker-daemon:x", Options{DockerHost: host})
		checkFault(t, err, fault.Unreachable, words...)
	}
	for _, host := range []string{"tcp://127.0.0.1:2375", "ssh://host", "unix://relative", "npipe:////./pipe/docker_engine"} {
		_, err := Resolve(t.Context(), "docker-daemon:x", Options{DockerHost: host})
		checkFault(t, err, fault.Unsupported, host, "docker save NAME | banger image pull docker-archive:-")
	}
	t.Setenv("DOCKER_HOST", "tcp://from.the.environment:1")
	_, err = Resolve(t.Context(), "docker-daemon:x", Options{})
	checkFault(t, err, fault.Unsupported, "from.the.environment")
}

// TestSockets: where daemons are looked for, the rootless ones of docker and podman included.
func TestSockets(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	got, err := daemonSockets("")
	want := []string{"/var/run/docker.sock", "/run/user/7/docker.sock", "/run/user/7/podman/podman.sock", "/run/podman/podman.sock"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	members := make(map[string]string)
	archive, err := os.ReadFile(writeArchive(t, members, savedImage(t, members, []string{"x:latest"}, "rootless")))
	if err != nil {
		t.Fatal(err)
	}
	host := serveSocket(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) }))
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		return // a real docker comes first
	}
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Dir(strings.TrimPrefix(host, "unix://")))
	if got := texts(t, resolveOK(t, "docker-daemon:x", "linux/amd64")); len(got) != 1 || got[0] != "rootless" {
		t.Errorf("from the rootless socket: got %q", got)
	}
}

// TestDaemonCancelled: a daemon that says nothing is not waited for any longer than the user wants.
func TestDaemonCancelled(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	host := serveSocket(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(reached)
		<-release
	}))
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough of it")
	go func() {
		<-reached
		cancel(enough)
	}()
	begun := time.Now()
	if _, err := Resolve(ctx, "docker-daemon:x", Options{DockerHost: host}); !errors.Is(err, enough) || time.Since(begun) > 30*time.Second {
		t.Errorf("after %v: %v, want the reason of the cancellation", time.Since(begun), err)
	}
}

// TestStdinCancelled: an input that says nothing, neither.
func TestStdinCancelled(t *testing.T) {
	silent, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = silent.Close(), other.Close() })
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough of it")
	time.AfterFunc(50*time.Millisecond, func() { cancel(enough) })
	if _, err := Resolve(ctx, "tar:-", Options{Stdin: silent, TempDir: t.TempDir()}); !errors.Is(err, enough) {
		t.Errorf("got %v, want the reason of the cancellation", err)
	}
}

// TestPodman: podman loads what banger writes, and its service gives it back, as docker's socket would.
func TestPodman(t *testing.T) {
	if _, err := exec.LookPath("podman"); err != nil {
		excuse(t, "podman", "there is no podman")
	}
	c := newContent(t)
	dir := c.layout(named(c.image("linux/amd64", "base", "top"), "v1"))
	image := resolveOK(t, "oci:"+dir+":v1", "linux/amd64")
	var written bytes.Buffer
	if err := WriteArchive(t.Context(), &written, true, []Outgoing{outgoing(t, image, "one:v1")}); err != nil {
		t.Fatal(err)
	}
	work := socketDir(t)
	writeFile(t, filepath.Join(work, "one.tar"), written.Bytes())
	podman := func(args ...string) *exec.Cmd {
		cmd := exec.Command("podman", append([]string{
			"--root", work + "/root", "--runroot", work + "/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
		}, args...)...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+work, "TMPDIR="+work)
		return cmd
	}
	if out, err := podman("load", "-i", work+"/one.tar").CombinedOutput(); err != nil {
		excuse(t, "podman", fmt.Sprintf("podman load: %v\n%s", err, out)) // an account may lack subordinate ids
	}
	service := podman("system", "service", "-t", "60", "unix://"+work+"/podman.sock")
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = service.Process.Kill(), service.Wait() })
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", work+"/podman.sock"); err == nil {
			_ = conn.Close()
			break
		}
	}
	opts := options(t, "linux/amd64")
	opts.DockerHost = "unix://" + work + "/podman.sock"
	for _, ref := range []string{"docker-daemon:one:v1", "docker-daemon:" + digest.FromBytes(image.RawConfig).Encoded()} {
		got, err := Resolve(t.Context(), ref, opts)
		if err != nil {
			t.Errorf("Resolve(%q): %v", ref, err)
			continue
		}
		sameImage(t, image, got)
		_ = got.Close()
	}
	_, err := Resolve(t.Context(), "docker-daemon:nothing", opts)
	checkFault(t, err, fault.NotFound, "nothing")
}
