package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// withAlpine gives the user a kernel and the image "alpine".
func withAlpine(t *testing.T) *user {
	t.Helper()
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	return u
}

// alpineLayer returns the layer of the Alpine archive, to make images of another configuration.
func alpineLayer(t *testing.T) []byte {
	t.Helper()
	file, err := os.Open(fixture(t, "BANGER_TEST_ALPINE", "alpine"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var archive io.Reader = file
	if unzip, err := gzip.NewReader(file); err == nil {
		archive = unzip
	} else if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if err != nil {
			t.Fatalf("the Alpine archive has no layer: %v", err)
		}
		if !strings.HasSuffix(header.Name, ".tar") {
			continue
		}
		layer, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return layer
	}
}

// customAlpine pulls an Alpine of another configuration under a name.
func (u *user) customAlpine(name string, config map[string]any, more ...[]byte) {
	u.t.Helper()
	l := newLayout(u.t, u, name)
	l.tag(l.image("amd64", config, nil, append([][]byte{alpineLayer(u.t)}, more...)...))
	u.must("image", "pull", "oci:"+l.dir+":v1", "--name", name)
}

// vmInfo is what the tests look at of `vm inspect`.
type vmInfo struct {
	Name   string
	State  string
	Dir    string
	Status *struct {
		Phase string
		PID   int
		VMM   int
	}
	Last *struct {
		Ended    *time.Time
		Reason   string
		ExitCode int `json:"exit_code"`
		Error    string
	}
}

func (u *user) inspect(name string) vmInfo {
	u.t.Helper()
	var infos []vmInfo
	if err := json.Unmarshal([]byte(u.must("vm", "inspect", name)), &infos); err != nil || len(infos) != 1 {
		u.t.Fatalf("vm inspect %s gives %+v (%v)", name, infos, err)
	}
	return infos[0]
}

// listed returns the state that `vm ls` shows for a VM, or "" if it is not there.
func (u *user) listed(name string) string {
	u.t.Helper()
	var list struct{ VMs []vmInfo }
	if err := json.Unmarshal([]byte(u.must("vm", "ls", "--json")), &list); err != nil {
		u.t.Fatal(err)
	}
	for _, vm := range list.VMs {
		if vm.Name == name {
			return vm.State
		}
	}
	return ""
}

// await waits until `vm ls` shows one of the states, and returns it. No other state may be seen meanwhile but those of
// before.
func (u *user) await(name string, states ...string) string {
	u.t.Helper()
	var state string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		state = u.listed(name)
		for _, want := range states {
			if state == want {
				return state
			}
		}
	}
	u.t.Fatalf("the VM %q is %q, want it %q", name, state, states)
	return ""
}

// exec runs a shell's line in a VM, which has to succeed, and returns what it prints.
func (u *user) exec(vm, line string) string {
	u.t.Helper()
	return u.must("vm", "exec", vm, "--", "sh", "-c", line)
}

// running is a banger in the background.
type running struct {
	*exec.Cmd
	u      *user
	output lockedBuffer // both streams
	ended  chan struct{}
}

// lockedBuffer is a buffer that can be read while it is written.
type lockedBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// background starts banger and does not wait for it. It is in a session of its own, as if started from a terminal of its
// own.
func (u *user) background(args ...string) *running {
	u.t.Helper()
	r := &running{Cmd: u.command(context.Background(), args...), u: u, ended: make(chan struct{})}
	r.Stdout, r.Stderr = &r.output, &r.output
	r.SysProcAttr.Setsid = true
	if err := r.Start(); err != nil {
		u.t.Fatal(err)
	}
	go func() {
		_ = r.Wait()
		close(r.ended)
	}()
	u.t.Cleanup(func() { _ = r.Process.Kill(); <-r.ended })
	return r
}

// says waits until banger has printed some words.
func (r *running) says(words string) {
	r.u.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(r.output.String(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.u.t.Fatalf("%v does not say %q:\n%s", r.Args, words, &r.output)
		}
	}
}

// exits waits for banger's end and returns its exit code.
func (r *running) exits() int {
	r.u.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(limit):
		r.u.t.Fatalf("%v does not end:\n%s", r.Args, &r.output)
	}
	return r.ProcessState.ExitCode()
}

// terminal is a banger on a terminal of its own.
type terminal struct {
	*running
	master *os.File
}

func (u *user) onTerminal(size pty.Winsize, args ...string) *terminal {
	u.t.Helper()
	r := &running{Cmd: u.command(context.Background(), args...), u: u, ended: make(chan struct{})}
	master, err := pty.StartWithSize(r.Cmd, &size)
	if err != nil {
		u.t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(&r.output, master)
		_ = r.Wait()
		close(r.ended)
	}()
	u.t.Cleanup(func() { _ = r.Process.Kill(); _ = master.Close() })
	return &terminal{r, master}
}

// types presses keys.
func (t *terminal) types(keys string) {
	t.u.t.Helper()
	if _, err := io.WriteString(t.master, keys); err != nil {
		t.u.t.Fatal(err)
	}
}

// kill ends a process at once, and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		t.Fatal("there is no process to kill")
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		state, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
	}
	t.Fatalf("the process %d does not end", pid)
}
