package monitor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/output"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

// box is a VM for a monitor to stand behind.
type box struct {
	*instance.Instance
	t    *testing.T
	path string     // where the VMM is found
	run  string     // runtime directory
	done chan error // what Serve returned
}

// newBox makes a VM. Its command is a shell's, unless that is empty.
func newBox(t *testing.T, script string, change ...func(*instance.Config)) *box {
	t.Helper()
	config := instance.Config{Name: "web", CPUs: 1, MemoryMiB: 128, Init: "/init", BootTimeout: 20 * time.Second}
	if script != "" {
		config.Workload = &instance.Workload{Argv: []string{"/bin/sh", "-c", script}, StopSignal: int(syscall.SIGTERM)}
	}
	for _, c := range change {
		c(&config)
	}
	dir := t.TempDir()
	if strings.Contains(dir, ",") {
		t.Fatalf("the pretended VMM does not take the commas of %q", dir)
	}
	prepared := filepath.Join(dir, "prepared")
	held, err := lock.Acquire(t.Context(), filepath.Join(prepared, instance.StartLock))
	if err != nil {
		t.Fatal(err)
	}
	held.Release()
	i, err := instance.NewStore(filepath.Join(dir, "vms")).Publish(prepared, config)
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir, whose paths are too long for a socket's address.
	run, err := os.MkdirTemp("/tmp", "banger-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	return &box{Instance: i, t: t, path: programs(t), run: filepath.Join(run, "web")}
}

func (b *box) spec() vm.Spec {
	return vm.Spec{
		Name: b.Name, Dir: b.Dir, RuntimeDir: b.run, Vmlinuz: "/k", Initramfs: "/i", RootImage: "/r", Init: b.Init,
		CPUs: b.CPUs, MemoryMiB: b.MemoryMiB, BootTimeout: b.BootTimeout, Accelerator: vm.TCG,
	}
}

// begin starts a monitor in this process, and returns the connection that started it.
func (b *box) begin(ctx context.Context) net.Conn {
	b.t.Helper()
	conn, theirs, err := pair()
	if err != nil {
		b.t.Fatal(err)
	}
	first, err := net.FileConn(theirs)
	_ = theirs.Close()
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan error, 1)
	b.done = done
	go func() {
		done <- Serve(ctx, first, Surroundings{Runner: system.NewCommandRunner(b.path + ":/usr/bin:/bin"), Log: io.Discard, Random: rand.Reader, Now: time.Now})
	}()
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// start boots the VM and returns the connection to its command.
func (b *box) start(start Start) (*Attachment, error) {
	b.t.Helper()
	conn := b.begin(b.t.Context())
	start.Dir, start.Spec = b.Dir, b.spec()
	from := &lines{conn: conn}
	_, err := exchange(patiently(b.t), conn, from, request{Do: doStart, Start: &start})
	return &Attachment{conn: conn, from: from}, err
}

func (b *box) mustStart(start Start) *Attachment {
	b.t.Helper()
	a, err := b.start(start)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// launch starts the VM with nobody attached.
func (b *box) launch() {
	b.t.Helper()
	if err := b.mustStart(Start{}).Started(patiently(b.t)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) client() Client {
	return Client{Name: b.Name, Socket: filepath.Join(b.run, ControlSocket)}
}

// ended waits for the monitor's end, checks that nothing is left of it, and returns what became of the run.
func (b *box) ended() (instance.State, error) {
	b.t.Helper()
	var err error
	select {
	case err = <-b.done:
	case <-patiently(b.t).Done():
		b.t.Fatal("the monitor does not end")
	}
	if b.Runs() {
		b.t.Error("the lock is held after the monitor's end")
	}
	if _, err := os.Stat(b.run); !errors.Is(err, fs.ErrNotExist) {
		b.t.Errorf("the runtime directory is left: %v", err)
	}
	state, _ := b.State()
	if b.Remove && state.Reason != instance.Failed {
		if _, err := os.Stat(b.Dir); !errors.Is(err, fs.ErrNotExist) {
			b.t.Errorf("the VM's directory is left: %v", err)
		}
	} else if state.Ended == nil {
		b.t.Errorf("the state is %+v, want one that has ended", state)
	}
	return state, err
}

// touch makes one of the files that change what the VMM does.
func (b *box) touch(name string) {
	b.t.Helper()
	if err := os.WriteFile(b.Path(name), nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// waitFor waits until a file of the VM's directory is there.
func (b *box) waitFor(name string) {
	b.t.Helper()
	for ctx := patiently(b.t); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(b.Path(name)); err == nil {
			return
		}
	}
	b.t.Fatalf("%s does not appear", name)
}

// logged returns what the output's log has.
func (b *box) logged() string {
	b.t.Helper()
	var text strings.Builder
	err := output.Read(b.t.Context(), b.Path(instance.OutputLog), output.Selection{Tail: output.All}, func(r output.Record) error {
		_, err := text.Write(r.Data())
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text.String()
}

// outcome is what a client that is attached gets.
type outcome struct {
	stdout, stderr string
	code           int
	err            error
}

// attend is with the command to its end.
func (b *box) attend(a *Attachment, stdin io.Reader, signals <-chan syscall.Signal) outcome {
	b.t.Helper()
	var stdout, stderr bytes.Buffer
	code, err := a.Run(patiently(b.t), stdin, &stdout, &stderr, nil, signals)
	return outcome{stdout.String(), stderr.String(), code, err}
}

// TestAttached: what a command prints reaches the client and the log, and its exit code is the client's and the state's.
func TestAttached(t *testing.T) {
	for _, c := range []struct {
		name   string
		script string
		stdin  string
		want   outcome
	}{
		{"exit code", "exit 7", "", outcome{code: 7}},
		{"both outputs", "echo out; sleep 2; echo err >&2", "", outcome{stdout: "out\n", stderr: "err\n"}},
		{"input", "cat", strings.Repeat("0123456789", 200_000), outcome{stdout: strings.Repeat("0123456789", 200_000)}},
		{"signal", "kill -9 $$", "", outcome{code: 128 + 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, c.script, func(config *instance.Config) { config.Workload.Stdin = c.stdin != "" })
			var stdin io.Reader
			if c.stdin != "" {
				stdin = strings.NewReader(c.stdin)
			}
			got := b.attend(b.mustStart(Start{Attached: true}), stdin, nil)
			if got != c.want {
				t.Errorf("got %.200v\nwant %.200v", got, c.want)
			}
			state, err := b.ended()
			if err != nil || state.ExitCode != c.want.code || state.Reason != instance.Exited {
				t.Errorf("the state is %+v (%v)", state, err)
			}
			if log := b.logged(); log != c.want.stdout+c.want.stderr {
				t.Errorf("the log has %.100q", log)
			}
			if _, err := os.Stat(b.Path("powered-off")); err != nil {
				t.Error("the guest was not asked to power off")
			}
		})
	}
}

// TestRefused: a command that cannot be started is told with docker's exit code, whether somebody is attached or not.
func TestRefused(t *testing.T) {
	for argv, code := range map[string]int{"nonsense": 127, "/etc/passwd": 126} {
		config := func(c *instance.Config) { c.Workload.Argv = []string{argv} }
		b := newBox(t, "-", config)
		got := b.attend(b.mustStart(Start{Attached: true}), nil, nil)
		var refused *frame.Refusal
		if !errors.As(got.err, &refused) || got.code != code {
			t.Errorf("%s, attached: got %+v, want a refusal and %d", argv, got, code)
		}
		_, _ = b.ended()

		b = newBox(t, "-", config)
		err := b.mustStart(Start{}).Started(patiently(t))
		var start *StartError
		if !errors.As(err, &start) || start.Code != code || !strings.Contains(err.Error(), argv) {
			t.Errorf("%s, detached: got %v, want a StartError of %d", argv, err, code)
		}
		if state, _ := b.ended(); state.Reason != instance.Failed || state.ExitCode != code || state.Error == "" {
			t.Errorf("%s, detached: the state is %+v", argv, state)
		}
	}
}

// TestRequests: what a monitor answers while its VM runs.
func TestRequests(t *testing.T) {
	b := newBox(t, "trap 'echo got it; exit 4' USR2; touch $VM/ready; "+forever)
	b.launch()
	b.waitFor("ready")
	ctx, client := patiently(t), b.client()
	status, err := client.Status(ctx)
	if err != nil || status.Phase != Running || status.PID != os.Getpid() || status.VMM == 0 {
		t.Errorf("the status is %+v (%v)", status, err)
	}
	if info, err := os.Stat(client.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the control socket has the mode %v (%v), want 0600", info.Mode(), err)
	}
	if state, ran := b.State(); !ran || state.Ended != nil {
		t.Errorf("the state is %+v, want one that has begun and not ended", state)
	}
	for range 3 { // streams, one after the other
		stream, err := client.Stream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code, err := exec.Run(ctx, stream, exec.Command{Argv: []string{"echo", "hello"}}, nil, &out, &out, nil, nil)
		if err != nil || code != 0 || out.String() != "hello\n" {
			t.Errorf("a command beside: got %q, %d (%v)", out.String(), code, err)
		}
	}
	if _, err := client.ask(ctx, request{Do: "nonsense"}); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("a request that nobody knows gives %v", err)
	}
	again := b.begin(t.Context())
	_, err = exchange(ctx, again, &lines{conn: again}, request{Do: doStart, Start: &Start{Dir: b.Dir, Spec: b.spec()}})
	if fault.KindOf(err) != fault.Conflict {
		t.Errorf("a second monitor gives %v, want a conflict", err)
	}
	waiting := make(chan instance.State, 1)
	go func() {
		state, _ := client.Wait(ctx)
		waiting <- state
	}()
	if err := client.Signal(ctx, int(syscall.SIGUSR2)); err != nil {
		t.Fatal(err)
	}
	if state := <-waiting; state.ExitCode != 4 || state.Reason != instance.Exited {
		t.Errorf("who waits is told %+v", state)
	}
	if log := b.logged(); !strings.Contains(log, "got it\n") { // the shell may name the signal that its child got
		t.Errorf("the log has %q", log)
	}
}

// forever is a command's line that ends with the VM's directory: nothing else ends the processes of a VMM that is killed.
const forever = `while [ -d "$VM" ]; do sleep 0.01; done`

// TestStop: a VM that is stopped ends in good order, or is killed when its time is over, and says which.
func TestStop(t *testing.T) {
	const ready = "touch $VM/ready; " + forever
	for _, c := range []struct {
		name     string
		script   string
		stubborn bool
		limit    time.Duration
		remove   bool
		want     instance.State
	}{
		{name: "its command ends", script: "trap 'exit 3' TERM;" + ready, limit: 10 * time.Second, want: instance.State{Reason: instance.Stopped, ExitCode: 3}},
		{name: "its command is killed by the signal", script: ready, limit: 10 * time.Second, want: instance.State{Reason: instance.Stopped, ExitCode: 128 + 15}},
		{name: "its command ignores the signal", script: "trap '' TERM;" + ready, limit: 6 * time.Second, want: instance.State{Reason: instance.Stopped, ExitCode: 128 + 9}},
		{name: "it does not power off", script: "trap 'exit 3' TERM;" + ready, stubborn: true, limit: 6 * time.Second, want: instance.State{Reason: instance.Killed, ExitCode: 128 + 9}},
		{name: "at once", script: "trap '' TERM;" + ready, stubborn: true, want: instance.State{Reason: instance.Killed, ExitCode: 128 + 9}},
		{name: "a machine", limit: 10 * time.Second, want: instance.State{Reason: instance.Stopped}},
		{name: "to be removed", script: "trap 'exit 3' TERM;" + ready, limit: 10 * time.Second, remove: true, want: instance.State{Reason: instance.Stopped, ExitCode: 3}},
		{name: "a machine to be removed", limit: 10 * time.Second, remove: true, want: instance.State{Reason: instance.Stopped}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, c.script, func(config *instance.Config) { config.Remove = c.remove })
			if c.stubborn {
				b.touch("stubborn")
			}
			b.launch()
			if c.script != "" {
				b.waitFor("ready")
			}
			begin := time.Now()
			got, err := b.client().Stop(patiently(t), c.limit)
			if err != nil || got.Reason != c.want.Reason || got.ExitCode != c.want.ExitCode || got.Ended == nil {
				t.Errorf("got %+v (%v), want %+v", got, err, c.want)
			}
			if took := time.Since(begin); took > c.limit+5*time.Second {
				t.Errorf("with a limit of %v, it took %v", c.limit, took)
			}
			_, killed := os.Stat(b.Path("synced"))
			if (killed == nil) != c.stubborn {
				t.Errorf("the disks were synced: %v, want it where the guest does not power off alone", killed == nil)
			}
			if (got.Error != "") != c.stubborn {
				t.Errorf("the error is %q", got.Error)
			}
			if _, err := b.ended(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStopDuringTheJobsOfTheBoot: a machine whose init is still busy is stopped in good order, and its power is not cut when
// the time is over.
func TestStopDuringTheJobsOfTheBoot(t *testing.T) {
	for _, script := range []string{"", "touch $VM/ran; " + forever} {
		b := newBox(t, script, func(config *instance.Config) { config.Systemd = true })
		b.touch("jobs")
		told := make(chan error, 1)
		go func() {
			a, err := b.start(Start{})
			if err == nil {
				err = a.Started(patiently(t))
			}
			told <- err
		}()
		b.waitFor("waiting")
		got, err := b.client().Stop(patiently(t), 10*time.Second)
		if err != nil || got.Reason != instance.Stopped || got.Error != "" {
			t.Errorf("got %+v (%v)", got, err)
		}
		if !exists(b.Path("powered-off")) || exists(b.Path("ran")) {
			t.Errorf("it was asked to power off: %v; its command was started: %v", exists(b.Path("powered-off")), exists(b.Path("ran")))
		}
		if err := <-told; (err != nil) != (script != "") {
			t.Errorf("whoever starts it is told %v", err)
		}
		_, _ = b.ended()
	}
}

// TestStopWithoutAnAgent: a guest whose agent is gone before the VM's command was asked for can be stopped within the limit.
func TestStopWithoutAnAgent(t *testing.T) {
	b := newBox(t, forever, func(config *instance.Config) { config.Systemd = true })
	b.touch("vanish")
	a := b.mustStart(Start{})
	told := make(chan error, 1)
	go func() { told <- a.Started(patiently(t)) }()
	got, err := b.client().Stop(patiently(t), 3*time.Second)
	if err != nil || got.Ended == nil {
		t.Errorf("stopping it: got %+v (%v)", got, err)
	}
	if err := <-told; err == nil {
		t.Error("who waits for the command is told that it runs")
	}
	_, _ = b.ended()
}

// TestEndBeforeTheCommandRuns: whoever starts a VM that ends before its command runs is not told that it does.
func TestEndBeforeTheCommandRuns(t *testing.T) {
	b := newBox(t, forever)
	b.touch("mute")
	b.touch("panic")
	a := b.mustStart(Start{})
	told := make(chan error, 1)
	go func() { told <- a.Started(patiently(t)) }()
	b.waitFor("asked")
	status, err := b.client().Status(patiently(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.VMM, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err == nil || !strings.Contains(err.Error(), "sysrq triggered crash") {
		t.Errorf("whoever starts it is told %v, want why", err)
	}
	if state, _ := b.ended(); !strings.Contains(state.Error, "sysrq triggered crash") || state.ExitCode != 1 {
		t.Errorf("the state is %+v", state)
	}
}

// TestStopBeforeTheCommandRuns: a guest that never starts the VM's command is stopped within the limit all the same.
func TestStopBeforeTheCommandRuns(t *testing.T) {
	for _, attached := range []bool{false, true} {
		b := newBox(t, forever)
		b.touch("mute")
		a := b.mustStart(Start{Attached: attached})
		told := make(chan error, 1)
		go func() {
			if attached {
				told <- b.attend(a, nil, nil).err
				return
			}
			told <- a.Started(patiently(t))
		}()
		b.waitFor("asked")
		got, err := b.client().Stop(patiently(t), 10*time.Second)
		if err != nil || got.Reason != instance.Stopped || got.ExitCode != 128+9 {
			t.Errorf("attached %v: stopping it: got %+v (%v)", attached, got, err)
		}
		if err := <-told; err == nil && !attached {
			t.Error("who waits for the command is told that it runs")
		}
		_, _ = b.ended()
	}
}

// TestStartAtOnce: a VM can be started as soon as its stop has been answered, and its disk and log stay.
func TestStartAtOnce(t *testing.T) {
	b := newBox(t, "echo run; "+forever)
	for run := range 5 {
		b.launch()
		want := strings.Repeat("run\n", run+1)
		for ctx := patiently(t); b.logged() != want; time.Sleep(time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatalf("the log has %q, want %q", b.logged(), want)
			}
		}
		if _, err := b.client().Stop(patiently(t), 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLogsAreCut: what the VMM prints takes no more of the host's disk than twice the limit, and no hole counts for it.
func TestLogsAreCut(t *testing.T) {
	b := newBox(t, "")
	b.launch()
	const limit = 64 << 10
	m := &monitor{Surroundings: Surroundings{Log: io.Discard, Now: time.Now}, instance: b.Instance}
	if err := os.WriteFile(b.Path("chatty"), bytes.Repeat([]byte("words\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(b.Path(qemu.Log))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for range 3 {
		for ctx := patiently(t); size() < limit; time.Sleep(time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatal("the VMM does not print")
			}
		}
		m.limitLogs(limit)
	}
	if err := os.Remove(b.Path("chatty")); err != nil {
		t.Fatal(err)
	}
	m.limitLogs(limit)
	if got := size(); got >= limit {
		t.Errorf("the log has %d bytes, want fewer than %d", got, limit)
	}
	if older, err := os.ReadFile(b.Path(qemu.Log + ".1")); err != nil || bytes.IndexByte(older, 0) >= 0 || !bytes.HasPrefix(older, []byte("words\n")) {
		t.Errorf("the older half is %.100q (%v)", older, err)
	}
	if _, err := b.client().Kill(patiently(t)); err != nil {
		t.Error(err)
	}
	_, _ = b.ended()
}

// TestNameIsFree: when a VM that removes itself has given its name up, its sockets are gone, and those of another VM of that
// name, which have the same place, are safe from it.
func TestNameIsFree(t *testing.T) {
	b := newBox(t, "", func(config *instance.Config) { config.Remove = true })
	b.launch()
	many := b.Path("many") // the removal takes a while
	if err := os.Mkdir(many, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		if err := os.WriteFile(filepath.Join(many, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	go func() { _, _ = b.client().Kill(patiently(t)) }()
	for ctx := patiently(t); exists(b.Dir) && ctx.Err() == nil; {
		time.Sleep(100 * time.Microsecond)
	}
	if exists(b.run) {
		t.Error("the name is free, and the sockets are still to be removed")
	}
	if _, err := b.ended(); err != nil {
		t.Error(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestManyEnds: any number of stops, kills and waits at once are all answered with one end.
func TestManyEnds(t *testing.T) {
	b := newBox(t, "trap '' TERM; touch $VM/ready; "+forever)
	b.launch()
	b.waitFor("ready")
	type end struct {
		instance.State
		error
	}
	ends := make(chan end, 12)
	for n := range cap(ends) {
		go func() {
			var e end
			switch {
			case n%3 == 0:
				e.State, e.error = b.client().Stop(patiently(t), 10*time.Second)
			case n == 7:
				time.Sleep(time.Second) // the others have asked
				e.State, e.error = b.client().Kill(patiently(t))
			default:
				e.State, e.error = b.client().Wait(patiently(t))
			}
			ends <- e
		}()
	}
	for range cap(ends) {
		if e := <-ends; e.error != nil || e.Reason != instance.Killed || e.ExitCode != 137 {
			t.Errorf("got %+v (%v)", e.State, e.error)
		}
	}
	_, _ = b.ended()
}

// TestWhileItBoots: a VM that boots can be asked, killed and stopped, and whoever starts it is told.
func TestWhileItBoots(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(ctx context.Context, b *box) (instance.State, error)
		want instance.Reason
	}{
		{"killed", func(ctx context.Context, b *box) (instance.State, error) { return b.client().Kill(ctx) }, instance.Killed},
		{"stopped for too long", func(ctx context.Context, b *box) (instance.State, error) {
			return b.client().Stop(ctx, 100*time.Millisecond)
		}, instance.Killed},
		{"stopped", func(ctx context.Context, b *box) (instance.State, error) {
			time.AfterFunc(200*time.Millisecond, func() { _ = os.Remove(b.Path("slow")) })
			return b.client().Stop(ctx, 10*time.Second)
		}, instance.Stopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, forever)
			b.touch("slow")
			started := make(chan error, 1)
			go func() {
				a, err := b.start(Start{})
				if err == nil {
					err = a.Started(patiently(t))
				}
				started <- err
			}()
			b.waitFor(instance.MonitorFile)
			if status, err := b.client().Status(patiently(t)); err != nil || status.Phase != Starting {
				t.Errorf("the status is %+v (%v)", status, err)
			}
			state, err := c.end(patiently(t), b)
			if err != nil || state.Reason != c.want || state.Ended == nil {
				t.Errorf("got %+v (%v), want the reason %q", state, err, c.want)
			}
			if err := <-started; err == nil && c.want == instance.Killed {
				t.Error("whoever starts it is told that it runs")
			}
			_, _ = b.ended()
		})
	}
}

// TestClientGoneWhileItBoots: whoever hangs up before the VM has booted takes it along.
func TestClientGoneWhileItBoots(t *testing.T) {
	for _, remove := range []bool{false, true} {
		b := newBox(t, forever, func(c *instance.Config) { c.Remove = remove })
		b.touch("slow")
		conn := b.begin(t.Context())
		if err := writeLine(conn, request{Version: version, Do: doStart, Start: &Start{Dir: b.Dir, Spec: b.spec()}}); err != nil {
			t.Fatal(err)
		}
		b.waitFor("console.log")
		_ = conn.Close()
		if state, _ := b.ended(); !remove && state.Reason != instance.Killed {
			t.Errorf("the state is %+v, want it killed", state)
		}
	}
}

// TestEndsOfTheMachine: what the guest does to itself is told to everybody.
func TestEndsOfTheMachine(t *testing.T) {
	for _, c := range []struct {
		name  string
		file  string // changes what the signal does
		how   string // what the command does
		want  instance.Reason
		words string
		code  int
	}{
		{"power off", "off", "kill -USR1 $PPID", instance.PowerOff, "", 0},
		{"panic", "panic", "kill -USR1 $PPID", instance.Crashed, "sysrq triggered crash", 1},
		{"the VMM is killed", "", "kill -9 $PPID", instance.Crashed, "signal: killed", 1},
		{"the agent is restarted", "", "kill -USR1 $PPID", instance.Crashed, "agent", 1},
	} {
		for _, attached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/attached=%v", c.name, attached), func(t *testing.T) {
				t.Parallel()
				b := newBox(t, "while [ ! -e $VM/go ]; do sleep 0.01; done; "+c.how+"; "+forever)
				if c.file != "" {
					b.touch(c.file)
				}
				a := b.mustStart(Start{Attached: attached})
				if !attached {
					if err := a.Started(patiently(t)); err != nil {
						t.Fatal(err)
					}
				}
				b.touch("go")
				if attached {
					got := b.attend(a, nil, nil)
					var refused *frame.Refusal
					crashed := errors.As(got.err, &refused) && refused.Reason == CrashedVM && strings.Contains(refused.Message, c.words)
					if crashed != (c.want == instance.Crashed) || !crashed && (got.err != nil || got.code != c.code) {
						t.Errorf("the client got %+v", got)
					}
				}
				state, err := b.ended()
				if err != nil || state.Reason != c.want || state.ExitCode != c.code || !strings.Contains(state.Error, c.words) {
					t.Errorf("the state is %+v (%v), want %q, %d and %q", state, err, c.want, c.code, c.words)
				}
			})
		}
	}
}

// TestAgentRestartOfAMachine: a VM without a command outlives its agent, and is stopped in good order afterwards.
func TestAgentRestartOfAMachine(t *testing.T) {
	b := newBox(t, "")
	b.launch()
	status, err := b.client().Status(patiently(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.VMM, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	stream, err := b.client().Stream(patiently(t))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = exec.Hello(patiently(t), stream) // of either agent
	state, err := b.client().Stop(patiently(t), 10*time.Second)
	if err != nil || state.Reason != instance.Stopped || state.Error != "" {
		t.Errorf("stopping it gave %+v (%v)", state, err)
	}
}

// TestBadStarts: a monitor that cannot start its VM says why, and leaves nothing.
func TestBadStarts(t *testing.T) {
	ctx := patiently(t)
	for _, text := range []string{"", "junk\n", "{}\n", `{"version":99,"do":"start","start":{}}` + "\n", `{"version":1,"do":"status"}` + "\n", `{"version":1,"do":"start"}` + "\n"} {
		b := newBox(t, "true")
		conn := b.begin(t.Context())
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.UnixConn).CloseWrite()
		if err := <-b.done; err == nil {
			t.Errorf("the first line %q gives no error", text)
		}
	}
	b := newBox(t, "true")
	b.path = "/nonexistent"
	conn := b.begin(ctx)
	spec := b.spec()
	spec.MemoryMiB = 1
	_, err := exchange(ctx, conn, &lines{conn: conn}, request{Do: doStart, Start: &Start{Dir: b.Dir, Spec: spec}})
	if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("a VM that cannot be: got %v of kind %d", err, fault.KindOf(err))
	}
	if state, err := b.ended(); err == nil || state.Reason != instance.Failed || state.Error == "" {
		t.Errorf("the state is %+v (%v)", state, err)
	}
}

// TestHostShutsDown: a monitor that is asked to end stops its VM in good order.
func TestHostShutsDown(t *testing.T) {
	b := newBox(t, "trap 'exit 3' TERM; touch $VM/ready; "+forever)
	ctx, shutDown := context.WithCancel(t.Context())
	conn := b.begin(ctx)
	from := &lines{conn: conn}
	if _, err := exchange(patiently(t), conn, from, request{Do: doStart, Start: &Start{Dir: b.Dir, Spec: b.spec()}}); err != nil {
		t.Fatal(err)
	}
	b.waitFor("ready")
	shutDown()
	if state, err := b.ended(); err != nil || state.Reason != instance.Stopped || state.ExitCode != 3 {
		t.Errorf("the state is %+v (%v)", state, err)
	}
	b.waitFor("powered-off")
}
