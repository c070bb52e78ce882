package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

func newEngine(t *testing.T) *Engine {
	t.Helper()
	dir := t.TempDir()
	e, err := New(Config{Home: filepath.Join(dir, "home"), RuntimeDir: filepath.Join(dir, "run"), Path: os.Getenv("PATH"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// newVM makes a VM whose image does not matter.
func newVM(t *testing.T, e *Engine, c instance.Config) *instance.Instance {
	t.Helper()
	prepared := filepath.Join(t.TempDir(), "vm")
	held, err := lock.Acquire(t.Context(), filepath.Join(prepared, instance.StartLock))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	i, err := e.vms.Publish(prepared, c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// pretendMonitor holds a VM's lock until the test's end, and answers each request with answer, or not at all if that is
// empty.
func pretendMonitor(t *testing.T, e *Engine, i *instance.Instance, answer string) {
	t.Helper()
	held, err := i.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Release)
	if err := os.MkdirAll(e.socketsOf(i), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(e.socketsOf(i), monitor.ControlSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if answer != "" {
				_, _ = bufio.NewReader(conn).ReadString('\n')
				_, _ = fmt.Fprintln(conn, answer)
				_ = conn.Close()
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
}

func status(t *testing.T, phase monitor.Phase) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"status": monitor.Status{Phase: phase, Started: time.Now(), PID: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestStates: what a VM's files, locks and monitor say is what `vm ls` says.
func TestStates(t *testing.T) {
	ended := time.Now()
	for _, c := range []struct {
		name    string
		last    *instance.State
		prepare func(t *testing.T, e *Engine, i *instance.Instance)
		want    string
	}{
		{name: "new", want: "created"},
		{name: "its command ended", last: &instance.State{Ended: &ended, Reason: instance.Exited, ExitCode: 3}, want: "stopped"},
		{name: "stopped", last: &instance.State{Ended: &ended, Reason: instance.Stopped}, want: "stopped"},
		{name: "powered off", last: &instance.State{Ended: &ended, Reason: instance.PowerOff}, want: "stopped"},
		{name: "killed", last: &instance.State{Ended: &ended, Reason: instance.Killed}, want: "stopped"},
		{name: "panicked", last: &instance.State{Ended: &ended, Reason: instance.Crashed}, want: "crashed"},
		{name: "did not come up", last: &instance.State{Ended: &ended, Reason: instance.Failed}, want: "failed"},
		{name: "its monitor was killed", last: &instance.State{}, want: "crashed"},
		{name: "about to be started", last: &instance.State{}, want: "starting", prepare: func(t *testing.T, e *Engine, i *instance.Instance) {
			held, err := i.LockStart(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(held.Release)
		}},
		{name: "its monitor does not listen yet", last: &instance.State{Ended: &ended}, want: "starting", prepare: func(t *testing.T, e *Engine, i *instance.Instance) {
			held, err := i.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(held.Release)
		}},
		{name: "runs", last: &instance.State{}, want: "running", prepare: func(t *testing.T, e *Engine, i *instance.Instance) {
			pretendMonitor(t, e, i, status(t, monitor.Running))
		}},
		{name: "runs with another runtime directory", last: &instance.State{}, want: "stopping", prepare: func(t *testing.T, e *Engine, i *instance.Instance) {
			other := *e
			other.config.RuntimeDir = t.TempDir()
			pretendMonitor(t, &other, i, status(t, monitor.Stopping))
			if err := i.SetMonitor(instance.Monitor{Control: filepath.Join(other.socketsOf(i), monitor.ControlSocket)}); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "its monitor is stuck", last: &instance.State{}, want: "unresponsive", prepare: func(t *testing.T, e *Engine, i *instance.Instance) {
			pretendMonitor(t, e, i, "")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEngine(t)
			i := newVM(t, e, instance.Config{Name: "web"})
			if c.last != nil {
				if err := i.SetState(*c.last); err != nil {
					t.Fatal(err)
				}
			}
			if c.prepare != nil {
				c.prepare(t, e, i)
			}
			v, err := e.FindVM(t.Context(), "web")
			if err != nil || v.State != c.want {
				t.Errorf("got %q (%v), want %q", v.State, err, c.want)
			}
			runs := c.want == "starting" || c.want == "running" || c.want == "stopping" || c.want == "unresponsive"
			if v.Runs() != runs {
				t.Errorf("Runs is %v in the state %q", v.Runs(), v.State)
			}
			if (v.Status != nil) != (c.want == "running" || c.want == "stopping") {
				t.Errorf("the monitor's status is %+v in the state %q", v.Status, v.State)
			}
		})
	}
}

// TestWithoutAMonitor: what needs a VM that runs says that it does not, and what to do.
func TestWithoutAMonitor(t *testing.T) {
	e := newEngine(t)
	newVM(t, e, instance.Config{Name: "web"})
	ctx := t.Context()
	for name, do := range map[string]func(vm string) error{
		"kill":   func(vm string) error { return e.KillVM(ctx, vm) },
		"signal": func(vm string) error { return e.SignalVM(ctx, vm, 1) },
		"wait":   func(vm string) error { _, err := e.WaitVM(ctx, vm); return err },
		"stream": func(vm string) error { _, err := e.Stream(ctx, vm); return err },
	} {
		err := do("web")
		if fault.KindOf(err) != fault.NotRunning || !strings.Contains(err.Error(), `"web"`) || !strings.Contains(fault.HintOf(err), "vm start web") {
			t.Errorf("%s of a VM that does not run: got %v with the hint %q", name, err, fault.HintOf(err))
		}
		if err := do("wbe"); fault.KindOf(err) != fault.NotFound || fault.HintOf(err) != "`banger vm ls` lists the VMs" {
			t.Errorf("%s of an unknown VM: got %v with the hint %q", name, err, fault.HintOf(err))
		}
		if err := do("webb"); fault.HintOf(err) != "did you mean web?" {
			t.Errorf("%s of a VM that is nearly there: got the hint %q", name, fault.HintOf(err))
		}
	}
	if err := e.StopVM(ctx, "web", time.Second); err != nil {
		t.Errorf("stopping a VM that does not run: %v, want nothing", err)
	}
}

// TestWaitForWhatIsAboutToRun: a VM that was made and comes up has not ended.
func TestWaitForWhatIsAboutToRun(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	if err := i.SetState(instance.State{}); err != nil {
		t.Fatal(err)
	}
	starting, err := i.LockStart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer starting.Release()
	code := make(chan int, 1)
	go func() {
		got, err := e.WaitVM(t.Context(), "web")
		if err != nil {
			t.Error(err)
		}
		code <- got
	}()
	select {
	case got := <-code:
		t.Fatalf("it is said to have ended with %d before it has begun", got)
	case <-time.After(200 * time.Millisecond):
	}
	pretendMonitor(t, e, i, `{"state":{"exit_code":5}}`)
	starting.Release()
	if got := <-code; got != 5 {
		t.Errorf("the exit code is %d, want that of the run", got)
	}
}

// TestWaitForOneOutOfReach: a VM that runs has not ended because nobody can ask its monitor.
func TestWaitForOneOutOfReach(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	if err := i.SetState(instance.State{}); err != nil {
		t.Fatal(err)
	}
	held, err := i.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if code, err := e.WaitVM(t.Context(), "web"); err == nil {
		t.Errorf("it is said to have ended with %d", code)
	}
}

// TestStuckMonitor: nobody waits for a monitor that does not answer.
func TestStuckMonitor(t *testing.T) {
	e := newEngine(t)
	pretendMonitor(t, e, newVM(t, e, instance.Config{Name: "web"}), "")
	for name, do := range map[string]func() error{
		"stop":   func() error { return e.StopVM(t.Context(), "web", time.Minute) },
		"stream": func() error { _, err := e.Stream(t.Context(), "web"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			err := do()
			if err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(fault.HintOf(err), "vm kill web") {
				t.Errorf("got %v with the hint %q", err, fault.HintOf(err))
			}
			if took := time.Since(begin); took > 2*statusLimit {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestRemove: a VM that does not run is removed with its sockets; one that runs only by force, and never by chance.
func TestRemove(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	held, err := i.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveVM(t.Context(), "web", false); fault.KindOf(err) != fault.NotRunning || !strings.Contains(fault.HintOf(err), "--force") {
		t.Errorf("removing a VM that runs: got %v with the hint %q", err, fault.HintOf(err))
	}
	if removed, err := e.PruneVMs(t.Context()); err != nil || len(removed) > 0 {
		t.Errorf("pruning a VM that runs: removed %v (%v)", removed, err)
	}
	// It was stopped when somebody looked, and runs when it is to be removed.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errInUse)
	defer cancel()
	if err := e.discard(ctx, i); fault.KindOf(err) != fault.NotRunning {
		t.Errorf("removing a VM that has just been started: got %v", err)
	}
	held.Release()
	if err := os.MkdirAll(e.socketsOf(i), 0o700); err != nil {
		t.Fatal(err)
	}
	if removed, err := e.PruneVMs(t.Context()); err != nil || len(removed) != 1 {
		t.Errorf("pruning a VM that does not run: removed %v (%v)", removed, err)
	}
	for _, dir := range []string{i.Dir, e.socketsOf(i)} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}

// TestRemoveWhatIsBeingStarted: a VM whose monitor is about to live is removed by force as soon as that does.
func TestRemoveWhatIsBeingStarted(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	starting, err := i.LockStart(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin, removed := time.Now(), make(chan error, 1)
	go func() { removed <- e.RemoveVM(t.Context(), "web", true) }()
	time.Sleep(100 * time.Millisecond)
	held, err := i.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(e.socketsOf(i), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(e.socketsOf(i), monitor.ControlSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	alive := status(t, monitor.Starting)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			answer := alive
			if request, _ := bufio.NewReader(conn).ReadString('\n'); strings.Contains(request, "kill") {
				answer = `{"state":{"exit_code":137}}`
				held.Release()
				starting.Release()
			}
			_, _ = fmt.Fprintln(conn, answer)
			_ = conn.Close()
		}
	}()
	if err := <-removed; err != nil {
		t.Errorf("after %v: %v (hint %q)", time.Since(begin), err, fault.HintOf(err))
	}
	if _, err := os.Stat(i.Dir); err == nil {
		t.Error("the VM is still there")
	}
}

// TestSocketsOfAnother: a damaged monitor.json leads to nobody else's directory.
func TestSocketsOfAnother(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.Mkdir(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, control := range []string{filepath.Join(precious, "control.sock"), "control.sock", "", "/"} {
		if err := i.SetMonitor(instance.Monitor{Control: control}); err != nil {
			t.Fatal(err)
		}
		if got := e.currentSockets(i); got != e.socketsOf(i) {
			t.Errorf("with the control socket %q: the sockets are taken to be in %q", control, got)
		}
	}
}

// TestSweep: only what was to be removed with its end, and has ended, is swept away.
func TestSweep(t *testing.T) {
	e := newEngine(t)
	for name, c := range map[string]struct{ remove, begun, runs, stays bool }{
		"kept": {begun: true, stays: true}, "gone": {remove: true, begun: true},
		"new": {remove: true, stays: true}, "running": {remove: true, begun: true, runs: true, stays: true},
	} {
		i := newVM(t, e, instance.Config{Name: name, Remove: c.remove})
		if c.begun {
			if err := i.SetState(instance.State{}); err != nil {
				t.Fatal(err)
			}
		}
		if c.runs {
			held, err := i.Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer held.Release()
		}
		e.sweep(t.Context())
		if _, err := e.vms.Get(name); (err == nil) != c.stays {
			t.Errorf("%s: after sweeping: %v, want it to stay: %v", name, err, c.stays)
		}
	}
}

// TestPruneBuries: what a removal that was killed has left is removed by a prune too.
func TestPruneBuries(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	grave := filepath.Join(filepath.Dir(i.Dir), ".gone-half")
	if err := os.Rename(i.Dir, grave); err != nil {
		t.Fatal(err)
	}
	removed, err := e.PruneVMs(t.Context())
	if err != nil || len(removed) > 0 {
		t.Errorf("removed %v (%v)", removed, err)
	}
	if _, err := os.Stat(grave); err == nil {
		t.Error("what is left of the removed VM takes space for ever")
	}
}

// TestKillMonitor: a process is killed that stands behind the VM, and not one behind another VM whose name begins alike.
func TestKillMonitor(t *testing.T) {
	e := newEngine(t)
	i := newVM(t, e, instance.Config{Name: "web"})
	for dir, killed := range map[string]bool{i.Dir: true, i.Dir + "-2": false} {
		process := exec.Command("sh", "-c", "read line", dir)
		input, err := process.StdinPipe()
		if err == nil {
			err = process.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = input.Close() }()
		ended := make(chan error, 1)
		go func() { ended <- process.Wait() }()
		if err := i.SetMonitor(instance.Monitor{PID: process.Process.Pid}); err != nil {
			t.Fatal(err)
		}
		e.killMonitor(i)
		limit := 10 * time.Second
		if !killed {
			limit = 100 * time.Millisecond
		}
		select {
		case <-ended:
			if !killed {
				t.Errorf("the process with the argument %q is killed", dir)
			}
		case <-time.After(limit):
			if killed {
				t.Errorf("the process with the argument %q lives on", dir)
			}
			_ = process.Process.Kill()
			<-ended
		}
	}
}
