package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// obeys is a command that ends when it is asked to, and takes no notice of a hangup.
const obeys = "trap '' HUP; trap 'exit 3' TERM; while :; do sleep 0.1; done"

// stubborn is one that does not end.
const stubborn = "trap '' HUP TERM; while :; do sleep 0.1; done"

// vmm returns the process id of the user's one QEMU, as soon as there is one.
func (u *user) vmm() int {
	u.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		_, lines := u.processes()
		for line := range strings.Lines(lines) {
			if fields := strings.Fields(line); strings.Contains(fields[1], "qemu-system") {
				pid, err := strconv.Atoi(fields[0])
				if err != nil {
					u.t.Fatal(err)
				}
				return pid
			}
		}
	}
	u.t.Fatal("no QEMU runs")
	return 0
}

// monitorOf returns the process id of a VM's monitor, as soon as it has one.
func (u *user) monitorOf(name string) int {
	u.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if vm := u.inspect(name); vm.Status != nil {
			return vm.Status.PID
		}
	}
	u.t.Fatalf("the VM %q has no monitor", name)
	return 0
}

// freeze stops a process, and waits until it is: until the thread that takes the signal has run, the others go on.
func (u *user) freeze(pid int) {
	u.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		u.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			u.t.Fatal(err)
		}
		if bytes.Contains(stat, []byte(") T ")) { // proc(5): the state follows the name
			return
		}
	}
	u.t.Fatalf("the process %d does not stop", pid)
}

// TestCrashes: whoever is killed in whatever state, `vm ls` names the state, nothing goes on running, and the next start
// works.
func TestCrashes(t *testing.T) {
	u := withAlpine(t)
	u.must("vm", "create", "--name", "box", "alpine", "sh", "-c", stubborn)
	u.kept = []string{"box"}
	start := func(u *user) *running { return u.background("vm", "start", "-q", "box") }
	stop := func(u *user) *running {
		u.must("vm", "start", "-q", "box")
		r := u.background("vm", "stop", "-t", "20", "box")
		u.await("box", "stopping")
		return r
	}
	run := func(u *user) *running {
		u.must("vm", "start", "-q", "box")
		return u.background("vm", "wait", "box")
	}
	monitor := func(u *user, _ *running) int { return u.monitorOf("box") }
	vmm := func(u *user, _ *running) int { return u.vmm() }
	cli := func(_ *user, r *running) int { return r.Process.Pid }
	for _, c := range []struct {
		name   string
		begin  func(u *user) *running
		victim func(u *user, r *running) int
		state  string // when all is over
		code   int    // of the banger that began it
		words  string // of it
	}{
		{"monitor, starting", start, monitor, "crashed", 1, "monitor ended"},
		{"VMM, starting", start, vmm, "failed", 11, "signal: killed"},
		{"command line, starting", start, cli, "stopped", -1, ""},
		{"monitor, running", run, monitor, "crashed", 0, "137"},
		{"VMM, running", run, vmm, "crashed", 0, "1"},
		{"monitor, stopping", stop, monitor, "crashed", 0, "box"},
		{"VMM, stopping", stop, vmm, "stopped", 0, "box"},
		{"command line, stopping", stop, cli, "stopped", -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := *u
			u.t = t
			begun := c.begin(&u)
			victim := c.victim(&u, begun)
			if strings.HasPrefix(c.name, "monitor, starting") || strings.HasPrefix(c.name, "command line, starting") {
				u.vmm() // there has to be something that could stay behind
			}
			kill(t, victim)
			if code := begun.exits(); code != c.code || !strings.Contains(begun.output.String(), c.words) {
				t.Errorf("%v exits with %d, want %d and %q:\n%s", begun.Args[1:], code, c.code, c.words, &begun.output)
			}
			u.await("box", c.state)
			v := u
			v.kept = nil
			v.strangersOf("box")
		})
	}
	u.must("vm", "start", "box")
	if got := u.run("vm", "exec", "box", "true"); got.code != 0 {
		t.Errorf("after all of them: %v", got)
	}
	u.must("vm", "rm", "-f", "box")
	u.kept = nil
	u.leftovers()
}

// strangersOf fails the test for a process or a socket that a VM which does not run has left.
func (u *user) strangersOf(vm string) {
	u.t.Helper()
	pids, lines := u.processes()
	for deadline := time.Now().Add(30 * time.Second); len(pids) > 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		pids, lines = u.processes()
	}
	if len(pids) > 0 {
		u.t.Errorf("processes of %q are left behind:\n%s", vm, lines)
	}
}

// TestSurvivors: a VM outlives whoever started it, and the terminal.
func TestSurvivors(t *testing.T) {
	u := withAlpine(t)
	u.kept = []string{"terminal", "killed"}
	term := u.onTerminal(pty.Winsize{Rows: 25, Cols: 80}, "vm", "run", "-d", "--name", "terminal", "alpine", "sh", "-c", obeys)
	if code := term.exits(); code != 0 {
		t.Fatalf("vm run -d on a terminal exits with %d:\n%s", code, &term.output)
	}
	_ = term.master.Close()
	r := u.background("vm", "run", "--rm", "--name", "killed", "alpine", "sh", "-c", "echo ready; "+obeys)
	r.says("ready")
	kill(t, r.Process.Pid)
	for _, name := range u.kept {
		if out := u.exec(name, "echo alive"); out != "alive\n" {
			t.Errorf("%s says %q", name, out)
		}
	}
	u.must("vm", "stop", "terminal", "killed")
	if vm := u.inspect("terminal"); vm.State != "stopped" || vm.Last.ExitCode != 3 {
		t.Errorf("the VM whose terminal is gone is %+v %+v", vm, vm.Last)
	}
	u.kept = []string{"terminal"} // the other was to be removed with its end
	u.leftovers()
	u.must("vm", "rm", "terminal")
	u.kept = nil
	u.leftovers()
}

// TestStuckMonitor: a monitor that does not answer is named, nobody waits for it, and the VM can be ended and removed.
func TestStuckMonitor(t *testing.T) {
	u := withAlpine(t)
	for _, end := range [][]string{{"vm", "kill", "box"}, {"vm", "rm", "-f", "box"}} {
		u.must("vm", "run", "-d", "--name", "box", "alpine", "sh", "-c", obeys)
		u.kept = []string{"box"}
		u.freeze(u.monitorOf("box"))
		if state := u.listed("box"); state != "unresponsive" {
			t.Errorf("a VM whose monitor does not answer is %q", state)
		}
		if end[1] == "kill" {
			u.refuses(refusal{1, []string{"does not answer", "vm kill box"}}, "vm", "stop", "box")
			u.refuses(refusal{ofRun, []string{"does not answer", "vm kill box"}}, "vm", "exec", "box", "true")
		}
		u.must(end...)
		u.strangersOf("box")
		if end[1] == "kill" {
			if state := u.listed("box"); state != "crashed" && state != "stopped" {
				t.Errorf("after its end, the VM is %q", state)
			}
			u.must("vm", "rm", "box")
		}
	}
	u.kept = nil
	u.leftovers()
}

// cycles is how many VMs TestCycles runs, unless BANGER_CYCLES says so (make soak).
const cycles = 12

// TestCycles: VMs that are run and removed, some of them killed in some way at some time, leave nothing.
func TestCycles(t *testing.T) {
	u := withAlpine(t)
	n := cycles
	if text := os.Getenv("BANGER_CYCLES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("BANGER_CYCLES=%q is no number", text)
		}
	}
	for i := range n {
		name := fmt.Sprintf("cycle%d", i)
		r := u.background("vm", "run", "--rm", "--name", name, "alpine", "sh", "-c", "sleep 0.5; exit 9")
		if i%3 == 0 {
			if code := r.exits(); code != 9 {
				t.Errorf("cycle %d: want the exit code 9, got %d:\n%s", i, code, &r.output)
			}
			continue
		}
		after := time.Duration(rand.IntN(4000)) * time.Millisecond
		time.Sleep(after)
		victim := "banger"
		if i%3 == 1 {
			_ = r.Process.Kill()
		} else if pids, lines := u.processes(); len(pids) > 0 {
			at := rand.IntN(len(pids))
			victim = strings.Split(lines, "\n")[at]
			_ = syscall.Kill(pids[at], syscall.SIGKILL)
		}
		t.Logf("cycle %d: after %v: killed %.60s", i, after, victim)
		r.exits()
	}
	// Those whose banger was killed end by themselves; the next run takes away what could not.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if pids, _ := u.processes(); len(pids) == 0 {
			break
		}
	}
	if got := u.run("vm", "run", "--rm", "alpine", "true"); got.code != 0 {
		t.Errorf("after all of them: %v", got)
	}
	u.leftovers()
	if sockets, _ := filepath.Glob(filepath.Join(u.dir, "run", "banger", "*")); len(sockets) > 0 {
		t.Errorf("left behind: %q", sockets)
	}
}

// TestBadLives: what goes wrong in a VM's life has a message and an exit code of its own, and the VM can be used again.
func TestBadLives(t *testing.T) {
	u := withAlpine(t)
	u.refuses(refusal{ofRun, []string{"did you mean alpine", `"alpin"`}}, "vm", "run", "--pull", "never", "alpin", "true")
	u.refuses(refusal{ofRun, []string{"900TiB", "available", "--memory"}}, "vm", "run", "--memory", "900TiB", "alpine", "true")
	u.refuses(refusal{noSpace, []string{"900TiB", "available"}}, "vm", "create", "--memory", "900TiB", "alpine", "true")
	u.refuses(refusal{ofRun, []string{"starting the image's init", "Kernel panic"}}, "vm", "run", "--init", "/bin/false", "alpine", "true")
	u.refuses(refusal{ofRun, []string{"starting the image's init", "/no/init"}}, "vm", "run", "--init", "/no/init", "alpine", "true")
	u.refuses(refusal{127, []string{"nonsense"}}, "vm", "run", "-d", "alpine", "nonsense")
	u.refuses(refusal{ofRun, []string{"Kernel panic", "sysrq"}}, "vm", "run", "--rm", "alpine", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")

	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "small", "--size", "96MiB")
	u.must("vm", "run", "-d", "--name", "box", "small", "sh", "-c", obeys)
	u.kept = []string{"box"}
	if got := u.run("vm", "exec", "box", "sh", "-c", "cat /dev/zero >/fill"); got.code != 1 || !strings.Contains(got.stderr, "No space left on device") {
		t.Errorf("filling the guest's disk: %v", got)
	}
	u.must("vm", "stop", "box")
	u.checkDisk("box")
	u.must("vm", "start", "box")
	u.exec("box", "rm /fill; echo room >/room; sync")

	// The guest's kernel panics.
	if got := u.run("vm", "exec", "box", "sh", "-c", "echo c >/proc/sysrq-trigger"); got.code != ofRun || !strings.Contains(got.stderr, "lost") {
		t.Errorf("a command whose kernel panics: %v", got)
	}
	u.await("box", "crashed")
	if vm := u.inspect("box"); vm.Last.Reason != "crashed" || !strings.Contains(vm.Last.Error, "sysrq triggered crash") {
		t.Errorf("after a panic the VM is %+v %+v", vm, vm.Last)
	}
	u.must("vm", "start", "box")
	if out := u.exec("box", "cat /room"); out != "room\n" {
		t.Errorf("after the panic: %q", out)
	}
	// The agent is killed, and the command's streams with it.
	u.run("vm", "exec", "box", "sh", "-c", "kill -9 $PPID")
	u.await("box", "crashed")
	if vm := u.inspect("box"); vm.Last.Reason != "crashed" || !strings.Contains(vm.Last.Error, "agent") {
		t.Errorf("after the agent's end the VM is %+v %+v", vm, vm.Last)
	}
	u.checkDisk("box")
	// The agent does not answer any more.
	u.must("vm", "start", "box")
	u.must("vm", "exec", "-d", "box", "sh", "-c", "sleep 0.5; kill -STOP $PPID")
	time.Sleep(4 * time.Second)
	begin := time.Now()
	u.must("vm", "stop", "-t", "3", "box")
	if vm := u.inspect("box"); vm.State != "stopped" || vm.Last.Reason != "killed" || vm.Last.Error == "" || time.Since(begin) > 20*time.Second {
		t.Errorf("a guest that never answers was stopped in %v, and is %+v %+v", time.Since(begin), vm, vm.Last)
	}
	// Its configuration is damaged.
	if err := os.WriteFile(filepath.Join(u.home, "vms", "box", "vm.json"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.refuses(refusal{corrupt, []string{`"box"`, "vm rm"}}, "vm", "ls")
	u.refuses(refusal{corrupt, []string{`"box"`, "vm rm --force box"}}, "vm", "start", "box")
	u.must("vm", "rm", "--force", "box")
	u.kept = nil
	u.leftovers()
}
