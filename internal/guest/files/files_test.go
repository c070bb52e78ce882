package files

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// patient is how long any one copy may take before a test calls it hung.
const patient = time.Minute

// deadline is a context that ends when a test has waited long enough.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

// dial opens a stream to an agent in this process, over a pair of sockets, whose "guest" is this machine.
func dial(t testing.TB) net.Conn { return dialTo(t, Handlers().Serve) }

// dialTo opens a stream to serve, which has to return when the stream ends.
func dialTo(t testing.TB, serve func(net.Conn)) net.Conn {
	t.Helper()
	near, far := socketpair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(far)
	}()
	t.Cleanup(func() {
		_ = near.Close()
		select {
		case <-served:
		case <-time.After(30 * time.Second):
			t.Error("the agent still serves the stream although the host has closed it")
		}
	})
	return near
}

// dialMux opens a stream through the multiplexer that the real one goes through.
func dialMux(t testing.TB, serve func(net.Conn)) net.Conn {
	t.Helper()
	near, far := socketpair(t)
	config := yamux.DefaultConfig()
	config.EnableKeepAlive, config.LogOutput, config.MaxStreamWindowSize = false, io.Discard, 1<<20
	client, err := yamux.Client(near, config)
	if err != nil {
		t.Fatal(err)
	}
	server, err := yamux.Server(far, config)
	if err != nil {
		t.Fatal(err)
	}
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
		_ = stream.Close()
		select {
		case <-served:
		case <-time.After(30 * time.Second):
			t.Error("the agent still serves the stream although the host has closed it")
		}
		_, _ = client.Close(), server.Close()
	})
	return stream
}

func socketpair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return ends[0], ends[1]
}

// shell runs a script in a directory and returns what it prints.
func shell(t testing.TB, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("running %s: %v\n%s", script, err, out)
	}
	return string(out)
}

// needRoot skips a test that only root can judge, if that is excused.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if strings.Contains(os.Getenv("BANGER_TEST_EXCUSE"), "mount") {
		t.Skip("excused (mount): not root")
	}
	t.Fatal("only root can set owners (or set BANGER_TEST_EXCUSE=mount)")
}

func BenchmarkCopy(b *testing.B) {
	const size = 1 << 30
	src := b.TempDir()
	if err := os.WriteFile(filepath.Join(src, "big"), make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		copy func(stream net.Conn, dest string) (Result, error)
	}{
		{"in", func(s net.Conn, d string) (Result, error) { return CopyIn(b.Context(), s, src+"/big", d, Options{}) }},
		{"out", func(s net.Conn, d string) (Result, error) { return CopyOut(b.Context(), s, src+"/big", d, Options{}) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				dest := filepath.Join(b.TempDir(), "got")
				if _, err := c.copy(dial(b), dest); err != nil {
					b.Fatal(err)
				}
				_ = os.Remove(dest)
			}
		})
	}
}

// BenchmarkCopySmall copies many small files.
func BenchmarkCopySmall(b *testing.B) {
	const dirs, files = 100, 100
	src := b.TempDir()
	for i := range dirs {
		dir := filepath.Join(src, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range files {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(j)), make([]byte, 3000), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if _, err := CopyIn(b.Context(), dial(b), src, filepath.Join(b.TempDir(), "got"), Options{Archive: true}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(dirs*files*b.N)/b.Elapsed().Seconds(), "files/s")
}
