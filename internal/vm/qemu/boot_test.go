package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/system"
)

// in runs a command in the guest and returns what it printed and its exit code.
func in(t testing.TB, m *Machine, input []byte, argv ...string) (stdout, stderr []byte, code int) {
	t.Helper()
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	command := exec.Command{Argv: argv, Stdin: input != nil}
	code, err = exec.Run(t.Context(), stream, command, bytes.NewReader(input), &out, &errOut, nil, nil)
	if err != nil {
		t.Fatalf("running %q in the guest: %v", argv, err)
	}
	return out.Bytes(), errOut.Bytes(), code
}

// show returns the content of a file of the guest.
func show(t testing.TB, m *Machine, path string) string {
	t.Helper()
	out, errOut, code := in(t, m, nil, "/bin/guesttool", "show", path)
	if code != 0 {
		t.Fatalf("showing %q in the guest: exit code %d: %s", path, code, errOut)
	}
	return string(out)
}

func TestBoot(t *testing.T) {
	k := theKit(t)
	spec := k.spec(t)
	before := sha256.Sum256(read(t, k.root))
	m := start(t, spec)

	t.Run("socket is private", func(t *testing.T) {
		info, err := os.Stat(m.files.socket)
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("mode of the socket = %v (%v), want %v", info.Mode(), err, os.ModeSocket|0o600)
		}
	})
	t.Run("host name", func(t *testing.T) {
		if got := show(t, m, "/proc/sys/kernel/hostname"); got != "guest-of-test\n" {
			t.Errorf("host name of the guest = %q, want %q", got, "guest-of-test\n")
		}
	})
	t.Run("processors", func(t *testing.T) {
		if got := strings.Count(show(t, m, "/proc/cpuinfo"), "processor\t:"); got != 2 {
			t.Errorf("the guest has %d processors, want 2", got)
		}
	})
	t.Run("address", func(t *testing.T) {
		if got := show(t, m, "/proc/net/fib_trie"); !strings.Contains(got, "|-- 10.0.2.15") {
			t.Errorf("the guest does not have the address 10.0.2.15; its routes are\n%s", got)
		}
	})
	t.Run("routes", func(t *testing.T) {
		// Addresses are hexadecimal, their last byte first: the network of 10.0.2.0/24, and by 10.0.2.2 everything else.
		routes := strings.Join(strings.Fields(show(t, m, "/proc/net/route")), " ")
		for _, want := range []string{"eth0 0002000A 00000000 0001 0 0 0 00FFFFFF", "eth0 00000000 0202000A 0003 0 0 0 00000000"} {
			if !strings.Contains(routes, want) {
				t.Errorf("the guest's routes lack %q: %s", want, routes)
			}
		}
	})
	t.Run("clock", func(t *testing.T) { checkClock(t, m) })
	t.Run("exit code", func(t *testing.T) {
		if _, _, code := in(t, m, nil, "/bin/guesttool", "exit", "42"); code != 42 {
			t.Errorf("exit code = %d, want 42", code)
		}
	})
	t.Run("10 MB through a command", func(t *testing.T) { checkCopy(t, m, 10<<20) })
	t.Run("shutdown", func(t *testing.T) {
		in(t, m, nil, "/bin/guesttool", "write", "kept", "/written")
		if err := m.Shutdown(t.Context()); err != nil {
			t.Fatalf("shutting down: %v", err)
		}
		if err := m.Wait(); err != nil {
			t.Errorf("the machine ended with: %v", err)
		}
		checkDisk(t, rawDisk(t, m), "/written", "kept")
	})
	if after := sha256.Sum256(read(t, k.root)); after != before {
		t.Error("the image's disk was changed")
	}
	checkGone(t, m)
}

// checkClock compares the rate of the guest's clock with the host's, and its time.
func checkClock(t *testing.T, m *Machine) {
	t.Helper()
	before, guestFirst, after := time.Now(), uptime(t, m), time.Now()
	time.Sleep(2 * time.Second)
	least := time.Since(after).Seconds()
	guest := uptime(t, m) - guestFirst
	if most := time.Since(before).Seconds(); guest < 0.9*least-0.2 || guest > 1.1*most+0.2 {
		t.Errorf("the guest's clock ran for %.2f s in %.2f to %.2f s", guest, least, most)
	}
	for line := range strings.Lines(show(t, m, "/proc/stat")) {
		if seconds, ok := strings.CutPrefix(line, "btime "); ok {
			boot, err := strconv.ParseInt(strings.TrimSpace(seconds), 10, 64)
			if age := time.Since(time.Unix(boot, 0)); err != nil || age < -5*time.Second || age > 2*bootLimit {
				t.Errorf("the guest thinks that it was booted %v ago (%v)", age, err)
			}
		}
	}
}

// uptime returns the guest's uptime in seconds.
func uptime(t *testing.T, m *Machine) float64 {
	t.Helper()
	text := show(t, m, "/proc/uptime")
	seconds, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
	if err != nil {
		t.Fatalf("reading /proc/uptime of the guest: %v", err)
	}
	return seconds
}

func checkCopy(t *testing.T, m *Machine, size int) {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := in(t, m, data, "/bin/guesttool", "copy")
	if code != 0 || !bytes.Equal(out, data) {
		t.Errorf("%d bytes went in and %d came out (exit code %d, %q), want the same bytes", len(data), len(out), code, errOut)
	}
}

// rawDisk returns a sparse file with what the guest left on its disk.
func rawDisk(t *testing.T, m *Machine) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk")
	run(t, "qemu-img", "convert", "-O", "raw", m.files.overlay, raw)
	return raw
}

// checkDisk has e2fsck and debugfs judge a disk.
func checkDisk(t *testing.T, raw, path, content string) {
	t.Helper()
	run(t, "e2fsck", "-f", "-n", raw)
	result, err := newRunner().Run(t.Context(), system.Command{Name: "debugfs", Args: []string{"-R", "cat " + path, raw}})
	if got := string(result.Stdout); err != nil || got != content {
		t.Errorf("the disk's %s has %q (%v), want %q", path, got, err, content)
	}
}

// checkGone looks for what a machine leaves behind.
func checkGone(t *testing.T, m *Machine) {
	t.Helper()
	<-m.Done()
	checkNoSocket(t, m.spec.RuntimeDir)
	if pids := running(t, m.spec.RuntimeDir); len(pids) > 0 {
		t.Errorf("QEMU still runs: %v", pids)
	}
	if _, err := m.Open(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("opening a stream to a machine that has ended gave %v, want %v", err, errEnded)
	}
}

func checkNoSocket(t *testing.T, runtimeDir string) {
	t.Helper()
	entries, err := os.ReadDir(runtimeDir)
	if err != nil || len(entries) > 0 {
		t.Errorf("the runtime directory has %v (%v), want nothing", entries, err)
	}
}

// running returns the processes whose command line has text.
func running(t *testing.T, text string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte(text)) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

func TestKillAndCancel(t *testing.T) {
	k := theKit(t)
	t.Run("kill", func(t *testing.T) {
		m := start(t, k.spec(t))
		m.Kill()
		checkGone(t, m)
		if err := m.Wait(); err != nil {
			t.Errorf("a machine that was killed ended with: %v", err)
		}
		if err := m.Shutdown(t.Context()); err != nil {
			t.Errorf("shutting down a machine that has ended: %v", err)
		}
		m.Kill()
	})
	t.Run("cancel while it boots", func(t *testing.T) {
		spec := k.spec(t)
		reason := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(500*time.Millisecond, func() { cancel(reason) })
		begin := time.Now()
		if _, err := Start(ctx, newRunner(), spec, rand.Reader); !errors.Is(err, reason) {
			t.Errorf("a cancelled boot gave %v, want %v", err, reason)
		}
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("cancelling took %v", took)
		}
		checkNoSocket(t, spec.RuntimeDir)
		if pids := running(t, spec.RuntimeDir); len(pids) > 0 {
			t.Errorf("QEMU still runs: %v", pids)
		}
	})
}

// TestWithoutNetwork: the guest is reached all the same, and has no network card.
func TestWithoutNetwork(t *testing.T) {
	spec := theKit(t).spec(t)
	spec.Network, spec.CPUs = false, 1
	m := start(t, spec)
	if got := show(t, m, "/proc/net/dev"); strings.Contains(got, "eth0") {
		t.Errorf("the guest has a network card:\n%s", got)
	}
	t.Run("panic", func(t *testing.T) { checkPanic(t, m) })
}

// checkPanic makes the guest's kernel panic (Documentation/admin-guide/sysrq.rst, "c").
func checkPanic(t *testing.T, m *Machine) {
	t.Helper()
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command{Argv: []string{"/bin/guesttool", "write", "c", "/proc/sysrq-trigger"}}
	if code, err := exec.Run(t.Context(), stream, command, nil, nil, nil, nil, nil); !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("a command in a guest that panics gave %d and %v, want %v", code, err, frame.ErrDisconnected)
	}
	if err := m.Wait(); err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing: ") {
		t.Errorf("the machine ended with %v, want the kernel's panic", err)
	}
	checkGone(t, m)
}

// TestSecondHost: a second connection to the socket gets no answer and does no harm.
func TestSecondHost(t *testing.T) {
	m := start(t, theKit(t).spec(t))
	conn, err := net.Dial("unix", m.files.socket)
	if err == nil {
		_ = conn.Close()
	}
	if got := show(t, m, "/proc/sys/kernel/hostname"); got != "guest-of-test\n" {
		t.Errorf("host name of the guest = %q after a second connection (%v)", got, err)
	}
}
