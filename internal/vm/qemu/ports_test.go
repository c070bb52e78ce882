package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/forward"
	"github.com/banger-vm/banger/internal/port"
)

// TestPorts: ports of a guest without a network, and sockets of it that the host listens on.
func TestPorts(t *testing.T) {
	spec := theKit(t).spec(t)
	spec.Network = false
	m := start(t, spec)
	serveIn(t, m, "127.0.0.1:7")
	set := port.New(port.Config{Open: m.Open, Report: func(err error) { t.Log(err) }})
	defer set.Close()
	specs, err := port.Parse("7")
	if err != nil {
		t.Fatal(err)
	}
	specs = append(specs, port.Spec{Guest: 7, Protocol: port.UDP}, port.Spec{Guest: 8, Protocol: port.TCP})
	open, err := set.Add(specs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("tcp", func(t *testing.T) { checkStreams(t, open[0].Address.String()) })
	t.Run("udp", func(t *testing.T) { checkDatagrams(t, open[1].Address.String()) })
	t.Run("no service", func(t *testing.T) {
		conn, err := net.Dial("tcp", open[2].Address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if got, err := io.ReadAll(conn); err == nil {
			t.Errorf("a client without a service reads %q, and then the end instead of a reset", got)
		}
	})
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", "/run/socket"}} {
		t.Run("listen on "+at[0], func(t *testing.T) { checkListen(t, m, at[0], at[1]) })
	}
}

// serveIn runs a service in the guest, until the test ends.
func serveIn(t *testing.T, m *Machine, address string) {
	t.Helper()
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ready, output, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_, _ = exec.Run(ctx, stream, exec.Command{Argv: []string{"/bin/guesttool", "serve", address}}, nil, output, os.Stderr, nil, nil)
		_ = output.Close()
	})
	t.Cleanup(func() { cancel(); running.Wait(); _ = ready.Close() })
	if _, err := io.ReadFull(ready, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("waiting for the service in the guest: %v", err)
	}
}

// checkStreams sends 32 MiB in all through 16 connections at once.
func checkStreams(t *testing.T, address string) {
	const size, connections = 2 << 20, 16
	start := time.Now()
	var group sync.WaitGroup
	for i := range connections {
		group.Go(func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			want := bytes.Repeat([]byte(fmt.Sprintf("%02d of sixteen.\n", i)), size/16)
			go func() {
				_, _ = conn.Write(want)
				_ = conn.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
				t.Errorf("of %d bytes %d came back, %v", len(want), len(got), err)
			}
		})
	}
	group.Wait()
	t.Logf("%d MiB went to the guest and came back in %v", connections*size>>20, time.Since(start).Round(time.Millisecond))
}

func checkDatagrams(t *testing.T, address string) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	buffer := make([]byte, 65535)
	for _, size := range []int{1, 0, 1472, 32 << 10, 65507} {
		want := bytes.Repeat([]byte("d"), size)
		if _, err := conn.Write(want); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(buffer); err != nil || !bytes.Equal(buffer[:n], want) {
			t.Errorf("of a datagram of %d bytes %d came back, %v", size, n, err)
		}
	}
}

// checkListen has a program in the guest connect to a socket of the host's.
func checkListen(t *testing.T, m *Machine, network, address string) {
	l, err := forward.Listen(t.Context(), m.Open, network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	text := strings.Repeat("to the host and back\n", 100_000)
	out, errOut, code := in(t, m, []byte(text), "/bin/guesttool", "connect", network, l.Addr().String())
	if code != 0 || string(out) != text {
		t.Errorf("of %d bytes %d came back, exit code %d: %s", len(text), len(out), code, errOut)
	}
}
