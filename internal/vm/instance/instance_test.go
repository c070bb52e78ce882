package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

// publish makes a VM in the store, as the engine does it.
func publish(s *Store, stage string, c Config) (*Instance, error) {
	prepared := filepath.Join(stage, "vm")
	held, err := lock.Acquire(context.Background(), filepath.Join(prepared, StartLock))
	if err != nil {
		return nil, err
	}
	defer held.Release()
	return s.Publish(prepared, c)
}

func mustPublish(t *testing.T, s *Store, name string) *Instance {
	t.Helper()
	i, err := publish(s, t.TempDir(), Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// newStore is a store whose path has characters that mean something to shells.
func newStore(t *testing.T) *Store {
	t.Helper()
	home := filepath.Join(t.TempDir(), "a [home] *?")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	return NewStore(filepath.Join(home, "vms"))
}

// TestPublish: what was put in comes back, by the name, by the directory and in the list.
func TestPublish(t *testing.T) {
	s := newStore(t)
	config := Config{
		Name: "web", Created: time.Unix(1_700_000_000, 5).UTC(), Image: "debian:bookworm", ImageID: "abc", Kernel: "k",
		CPUs: 3, MemoryMiB: 200, DiskSize: 4096, Hostname: "h", Network: "none", Init: "/sbin/init", Systemd: true,
		BootTimeout: time.Minute, Ports: []string{"80:80"}, User: "u", Dir: "/d", Env: []string{"A=b", "C"}, Remove: true,
		Workload: &Workload{Argv: []string{"a", ""}, Login: true, TTY: true, Stdin: true, StopSignal: 37},
	}
	if _, err := publish(s, t.TempDir(), config); err != nil {
		t.Fatal(err)
	}
	config.Schema = Schema
	byName, err := s.Get("web")
	if err != nil || !reflect.DeepEqual(byName.Config, config) {
		t.Errorf("got %+v (%v)\nwant %+v", byName, err, config)
	}
	if byDir, err := Open(s.Path("web")); err != nil || !reflect.DeepEqual(byDir, byName) {
		t.Errorf("by its directory the VM is %+v (%v), by its name %+v", byDir, err, byName)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || !reflect.DeepEqual(list[0], byName) {
		t.Errorf("the list is %+v (%v)", list, err)
	}
	if info, err := os.Stat(byName.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has the mode %v (%v), want 0700", info.Mode(), err)
	}
}

// TestNameTaken: of any number of VMs that are made under one name, one is, and it is whole.
func TestNameTaken(t *testing.T) {
	s := newStore(t)
	var making sync.WaitGroup
	var mu sync.Mutex
	var winners []int
	for n := range 8 {
		stage := t.TempDir()
		making.Go(func() {
			_, err := publish(s, stage, Config{Name: "web", CPUs: n + 1})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners = append(winners, n+1)
			} else if fault.KindOf(err) != fault.Conflict || !strings.Contains(fault.HintOf(err), "vm rm web") {
				t.Errorf("a name that is taken gives %v, want a conflict and its hint", err)
			}
		})
	}
	making.Wait()
	i, err := s.Get("web")
	if err != nil || len(winners) != 1 || i.CPUs != winners[0] {
		t.Errorf("%v made the VM, which is %+v (%v)", winners, i, err)
	}
}

// TestState: a VM has no state before its first run, and each run replaces it.
func TestState(t *testing.T) {
	i := mustPublish(t, newStore(t), "web")
	if s, ran := i.State(); ran {
		t.Errorf("a new VM has the state %+v", s)
	}
	started := time.Unix(1_700_000_000, 0).UTC()
	ended := started.Add(time.Minute)
	for _, want := range []State{
		{Started: started},
		{Started: started, Ended: &ended, Reason: Exited, ExitCode: 7},
		{Started: ended},
	} {
		if err := i.SetState(want); err != nil {
			t.Fatal(err)
		}
		want.Schema = Schema
		if got, ran := i.State(); !ran || !reflect.DeepEqual(got, want) {
			t.Errorf("the state is %+v (%v), want %+v", got, ran, want)
		}
	}
	want := Monitor{Schema: Schema, PID: 5, VMM: 6, Control: "/run/control.sock"}
	if err := i.SetMonitor(want); err != nil {
		t.Fatal(err)
	}
	if got, err := i.Monitor(); err != nil || got != want {
		t.Errorf("the monitor is %+v (%v), want %+v", got, err, want)
	}
}

// TestLocks: whoever holds a lock is seen to, and keeps others waiting.
func TestLocks(t *testing.T) {
	i := mustPublish(t, newStore(t), "web")
	for name, c := range map[string]struct {
		acquire func(context.Context) (*lock.Lock, error)
		held    func() bool
	}{
		"monitor": {i.Lock, i.Runs},
		"start":   {i.LockStart, i.BeingStarted},
	} {
		if c.held() {
			t.Errorf("%s: held before anybody took it", name)
		}
		held, err := c.acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !c.held() {
			t.Errorf("%s: not held by the one who holds it", name)
		}
		busy := errors.New("busy")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, busy)
		if _, err := c.acquire(ctx); !errors.Is(err, busy) {
			t.Errorf("%s: a second holder got %v, want the end of its wait", name, err)
		}
		cancel()
		held.Release()
		if c.held() {
			t.Errorf("%s: held after its release", name)
		}
	}
}

// TestDiscard: a VM is gone at once with all it has, whoever waits for its locks learns of it, and its name is free.
func TestDiscard(t *testing.T) {
	s := newStore(t)
	i := mustPublish(t, s, "web")
	held, err := i.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := i.Lock(t.Context())
		waiting <- err
	}()
	if err := i.Discard(); err != nil {
		t.Fatal(err)
	}
	held.Release()
	if err := <-waiting; !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("who waits for a VM that is removed gets %v, want fs.ErrNotExist", err)
	}
	if _, err := i.LockStart(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("locking a VM that is removed gives %v, want fs.ErrNotExist", err)
	}
	if _, err := s.Get("web"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("getting it gives %v, want fs.ErrNotExist", err)
	}
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	mustPublish(t, s, "web")
}

// TestDiscardWhileSwept: who sweeps beside a removal does not get in its way.
func TestDiscardWhileSwept(t *testing.T) {
	s := newStore(t)
	stop := make(chan struct{})
	var sweeping sync.WaitGroup
	sweeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = s.Sweep()
			}
		}
	})
	for range 2000 {
		i := &Instance{Config: Config{Name: "x"}, Dir: s.Path("x")}
		if err := os.MkdirAll(i.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		err := i.Discard()
		if _, missing := os.Stat(i.Dir); err != nil || missing == nil {
			t.Errorf("discarding gives %v, and the VM is there: %v", err, missing == nil)
			break
		}
	}
	close(stop)
	sweeping.Wait()
}

// TestDiscardOnFullDisk: removing a VM takes no space. The disk has room for what is there, and for nothing more.
func TestDiscardOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=5"); err != nil {
		excuse(t, "mount", fmt.Sprintf("mounting a small disk: %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := NewStore(filepath.Join(dir, "vms"))
	i, err := publish(s, dir, Config{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "more"), 0o700); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("making one more directory: got %v, want ENOSPC", err)
	}
	if err := i.Discard(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// excuse skips the test if the environment excuses the reason by its name, and fails it otherwise.
func excuse(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("excused %q: %s", name, reason)
	}
	t.Fatalf("%s (set BANGER_TEST_EXCUSE=%s to go on without)", reason, name)
}

// TestListWhileOthersWork: a list is right for every VM that stays, whatever comes and goes beside it.
func TestListWhileOthersWork(t *testing.T) {
	s := newStore(t)
	mustPublish(t, s, "stays")
	stop := make(chan struct{})
	var working sync.WaitGroup
	for n := range 3 {
		stage := t.TempDir()
		working.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				i, err := publish(s, stage, Config{Name: fmt.Sprintf("comes-%d", n)})
				if err == nil {
					err = errors.Join(i.SetState(State{}), i.Discard())
				}
				if err != nil {
					t.Errorf("round %d: %v", round, err)
					return
				}
			}
		})
	}
	for range 300 {
		list, err := s.List()
		if err != nil || !slices.ContainsFunc(list, func(i *Instance) bool { return i.Name == "stays" }) {
			t.Errorf("got %v (%v)", list, err)
			break
		}
	}
	close(stop)
	working.Wait()
}

// TestUnreadable: a VM whose configuration cannot be read is reported beside the others, and can be removed.
func TestUnreadable(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(file string) error
		kind   fault.Kind
	}{
		"nonsense":    {func(f string) error { return os.WriteFile(f, []byte("junk"), 0o600) }, fault.Corrupt},
		"empty":       {func(f string) error { return os.WriteFile(f, nil, 0o600) }, fault.Corrupt},
		"missing":     {os.Remove, fault.Corrupt},
		"a directory": {func(f string) error { return errors.Join(os.Remove(f), os.Mkdir(f, 0o700)) }, fault.Corrupt},
		"the future's": {func(f string) error {
			return os.WriteFile(f, []byte(`{"schema":99,"name":"bad"}`), 0o600)
		}, fault.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			mustPublish(t, s, "good")
			bad := mustPublish(t, s, "bad")
			if err := c.damage(bad.Path(ConfigFile)); err != nil {
				t.Fatal(err)
			}
			_, err := s.Get("bad")
			if fault.KindOf(err) != c.kind || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("got %v of kind %d, want one of kind %d that names the VM", err, fault.KindOf(err), c.kind)
			}
			list, err := s.List()
			if len(list) != 1 || list[0].Name != "good" || err == nil {
				t.Errorf("the list is %v with the error %v, want the good one and an error", list, err)
			}
			if _, err := publish(s, t.TempDir(), Config{Name: "bad"}); fault.KindOf(err) != fault.Conflict {
				t.Errorf("another VM of its name gives %v, want a conflict", err)
			}
			if err := s.Unread("bad").Discard(); err != nil {
				t.Error(err)
			}
			if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"good"}) {
				t.Errorf("after its removal there are %v (%v)", names, err)
			}
		})
	}
}

// TestSweep: what a removal left that was killed half-way is no VM, and goes.
func TestSweep(t *testing.T) {
	s := newStore(t)
	if err := s.Sweep(); err != nil {
		t.Errorf("sweeping a home without VMs: %v", err)
	}
	mustPublish(t, s, "web")
	left := filepath.Join(s.dir, gonePrefix+"123")
	if err := os.MkdirAll(filepath.Join(left, "vm", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if names, err := s.Names(); err != nil || !slices.Equal(names, []string{"web"}) {
		t.Errorf("before: the VMs are %v (%v)", names, err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
	if _, err := s.Get("web"); err != nil {
		t.Error(err)
	}
}
