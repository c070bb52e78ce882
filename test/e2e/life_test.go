package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// rulesConfig is an image's configuration with all that a command gets from it.
var rulesConfig = map[string]any{
	"Entrypoint": []string{"/bin/sh", "-c", `echo "$0 $*; $(id -un) $(id -gn); $(pwd); $A, $B, ${C-unset}; $(hostname)"`}, "Cmd": []string{"own", "args"},
	"Env": []string{"PATH=/usr/bin:/bin", "A=image", "B=image", "C=image"}, "User": "daemon", "WorkingDir": "/from/image",
}

// TestRunRules: entrypoint, arguments, environment, user, directory, host name, input and signals are docker's.
func TestRunRules(t *testing.T) {
	u := withAlpine(t)
	u.customAlpine("rules", rulesConfig)
	envFile := filepath.Join(u.dir, "env")
	if err := os.WriteFile(envFile, []byte("# of the file\nA=file\nB=file\nC\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--name", "box", "rules"}, "own args; daemon daemon; /from/image; image, image, image; box\n"},
		{[]string{"--env-file", envFile, "-e", "B=flag", "-e", "C", "-u", "nobody:users", "-w", "/new/dir", "--hostname", "h.example", "rules", "a", "b c"},
			"a b c; nobody users; /new/dir; file, flag, unset; h.example\n"},
		{[]string{"--entrypoint", "/bin/echo", "rules"}, "\n"},
	} {
		if got := u.feed("not read", append([]string{"vm", "run", "--rm", "-q"}, c.args...)...); got.code != 0 || got.stdout != c.want || got.stderr != "" {
			t.Errorf("vm run %q: want %q, got %v", c.args, c.want, got)
		}
	}

	// Each signal that banger gets is the command's.
	r := u.background("vm", "run", "--rm", "alpine", "sh", "-c", "trap 'echo int' INT; trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
	r.says("ready")
	_ = r.Process.Signal(syscall.SIGINT)
	r.says("int")
	_ = r.Process.Signal(syscall.SIGTERM)
	if code := r.exits(); code != 9 {
		t.Errorf("after SIGTERM: want the command's exit code 9, got %d:\n%s", code, &r.output)
	}
	u.leftovers()
}

// TestTerminal: with -it, the command has the user's terminal: its size, its keys, its end.
func TestTerminal(t *testing.T) {
	u := withAlpine(t)
	term := u.onTerminal(pty.Winsize{Rows: 33, Cols: 77}, "vm", "run", "--rm", "-it", "alpine", "sh")
	term.says("# ")
	term.types("stty size; tty\r")
	term.says("33 77")
	term.says("/dev/pts/")
	if err := pty.Setsize(term.master, &pty.Winsize{Rows: 44, Cols: 88}); err != nil {
		t.Fatal(err)
	}
	term.types("until stty size | grep 88; do sleep 0.1; done\r")
	term.says("44 88")
	term.types("echo go''es; sleep 1000\r")
	term.says("goes")
	time.Sleep(time.Second)
	term.types("\x03")
	term.types("echo code $?\r")
	term.says("code 130")
	term.types("exit 3\r")
	if code := term.exits(); code != 3 {
		t.Errorf("want the shell's exit code 3, got %d:\n%s", code, &term.output)
	}
	u.leftovers()
}

// TestLife: a VM's life from its creation to its removal, by several names at once.
func TestLife(t *testing.T) {
	u := withAlpine(t)
	for _, name := range []string{"one", "two"} {
		out := u.must("vm", "create", "--name", name, "alpine", "--", "sh", "-c", "echo run >>/runs; trap 'exit 5' TERM; while :; do sleep 0.1; done")
		if out != name+"\n" || u.listed(name) != "created" {
			t.Errorf("vm create prints %q, and the VM is %q", out, u.listed(name))
		}
	}
	u.kept = []string{"one", "two"}
	u.refuses(refusal{notFound, []string{`"three"`}}, "vm", "start", "three")
	u.refuses(refusal{conflict, []string{`"one"`, "vm rm one"}}, "vm", "create", "--name", "one", "alpine", "true")
	u.refuses(refusal{conflict, []string{`"alpine"`, `"one"`}}, "image", "rm", "alpine")

	got := u.run("vm", "start", "one", "onn", "two")
	if got.code != notFound || got.stdout != "one\ntwo\n" || !strings.Contains(got.stderr, "did you mean one?") {
		t.Errorf("starting two of three: %v", got)
	}
	for _, name := range u.kept {
		vm := u.inspect(name)
		if vm.State != "running" || vm.Status == nil || vm.Status.PID == 0 || vm.Status.VMM == 0 {
			t.Errorf("%s is %+v, want it running", name, vm)
		}
	}
	if list := u.must("vm", "ls"); strings.Count(list, "running") != 2 || !strings.Contains(list, "alpine") {
		t.Errorf("vm ls prints\n%s", list)
	}
	if names := u.must("ps", "-q"); names != "one\ntwo\n" {
		t.Errorf("ps -q prints %q", names)
	}
	u.refuses(refusal{conflict, []string{`"one"`, "runs already"}}, "vm", "start", "one")
	u.refuses(refusal{12, []string{`"one"`, "--force"}}, "vm", "rm", "one")

	waiting := u.background("vm", "wait", "one", "two")
	time.Sleep(200 * time.Millisecond)
	got = u.run("vm", "stop", "one", "three")
	if got.code != notFound || got.stdout != "one\n" {
		t.Errorf("stopping one of two: %v", got)
	}
	if vm := u.inspect("one"); vm.State != "stopped" || vm.Last.Reason != "stopped" || vm.Last.ExitCode != 5 {
		t.Errorf("the stopped VM is %+v %+v", vm, vm.Last)
	}
	if list := u.must("vm", "ls"); !strings.Contains(list, "stopped (5)") {
		t.Errorf("vm ls prints\n%s", list)
	}
	u.must("vm", "kill", "--signal", "TERM", "two") // which its command takes for its end
	if code := waiting.exits(); code != 0 || waiting.output.String() != "5\n5\n" {
		t.Errorf("vm wait prints %q and exits with %d", &waiting.output, code)
	}
	u.refuses(refusal{12, []string{`"two"`, "does not run", "vm start two"}}, "vm", "kill", "two")
	u.refuses(refusal{ofRun, []string{`"two"`, "does not run", "vm start two"}}, "vm", "exec", "two", "true")
	u.must("vm", "stop", "two") // does nothing

	u.must("vm", "restart", "one", "two")
	u.must("vm", "restart", "--time", "5", "one")
	if runs := u.exec("one", "for i in $(seq 50); do [ $(wc -l </runs) = 3 ] && break; sleep 0.1; done; cat /runs"); runs != "run\nrun\nrun\n" {
		t.Errorf("its three runs have written %q", runs)
	}
	u.must("vm", "kill", "one")
	if vm := u.inspect("one"); vm.State != "stopped" || vm.Last.Reason != "killed" || vm.Last.ExitCode != 137 {
		t.Errorf("the killed VM is %+v %+v", vm, vm.Last)
	}
	if pruned := u.must("vm", "prune"); pruned != "one\n" {
		t.Errorf("vm prune prints %q", pruned)
	}
	if out := u.must("vm", "rm", "-f", "two"); out != "two\n" {
		t.Errorf("vm rm -f prints %q", out)
	}
	u.kept = nil
	u.leftovers()
	u.must("image", "rm", "alpine")
}

// TestExec: commands in a VM that runs.
func TestExec(t *testing.T) {
	u := withAlpine(t)
	name := strings.TrimSpace(u.must("vm", "run", "-d", "-e", "A=vm", "-e", "B=vm", "-u", "daemon", "-w", "/var", "alpine", "--",
		"sh", "-c", "echo out; echo err >&2; exec sleep 100000"))
	u.kept = []string{name}
	for _, c := range []struct {
		name   string
		flags  []string
		argv   []string
		stdin  string
		stdout string
		stderr string
		code   int
	}{
		{name: "the VM's own", argv: []string{"sh", "-c", "id -un; pwd; echo $A $B"}, stdout: "daemon\n/var\nvm vm\n"},
		{name: "its own", flags: []string{"-u", "root", "-w", "/etc", "-e", "B=exec"}, argv: []string{"sh", "-c", "id -un; pwd; echo $A $B"}, stdout: "root\n/etc\nvm exec\n"},
		{name: "exit code", argv: []string{"sh", "-c", "exit 42"}, code: 42},
		{name: "killed", argv: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{name: "standard error", argv: []string{"sh", "-c", "echo oops >&2"}, stderr: "oops\n"},
		{name: "order of the outputs", argv: []string{"sh", "-c", "echo 1; echo 2; echo 3"}, stdout: "1\n2\n3\n"},
		{name: "no input", argv: []string{"cat"}, stdin: "not read"},
		{name: "input", flags: []string{"-i"}, argv: []string{"wc", "-c"}, stdin: strings.Repeat("x", 3<<20), stdout: "3145728\n"},
		{name: "unread input", flags: []string{"-i"}, argv: []string{"true"}, stdin: strings.Repeat("x", 3<<20)},
		{name: "no such command", argv: []string{"nonsense"}, stderr: "nonsense", code: 127},
		{name: "not executable", argv: []string{"/etc/passwd"}, stderr: "/etc/passwd", code: 126},
		{name: "no such user", flags: []string{"-u", "nonsense"}, argv: []string{"id"}, stderr: "nonsense", code: 126},
		{name: "a directory that cannot be", flags: []string{"-w", "/etc/passwd/x"}, argv: []string{"pwd"}, stderr: "/etc/passwd", code: 126},
		{name: "large output", argv: []string{"sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; exit 3"}, stdout: strings.Repeat("x", 20_000_000), code: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := *u
			u.t = t
			args := append(append([]string{"vm", "exec"}, c.flags...), name, "--")
			got := u.feed(c.stdin, append(args, c.argv...)...)
			if got.code != c.code || got.stdout != c.stdout || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("exec %q: want exit code %d, stdout %.60q, stderr with %q, got %.2000s", c.argv, c.code, c.stdout, c.stderr, got)
			}
		})
	}
	t.Run("slow reader", func(t *testing.T) {
		u := *u
		u.t = t
		if got := u.pipeTo("(sleep 1; cat) | wc -c", "vm", "exec", name, "head", "-c", "20000000", "/dev/zero"); strings.TrimSpace(got) != "20000000" {
			t.Errorf("want 20000000 bytes, got %s", got)
		}
		if got := u.pipeTo("head -n 1", "vm", "exec", name, "yes"); got != "y\n" {
			t.Errorf("with a reader that goes away: got %q", got)
		}
	})
	t.Run("detached", func(t *testing.T) { u.checkDetached(t, name) })
	t.Run("sixteen at once", func(t *testing.T) { u.checkAtOnce(t, name, 16) })
	t.Run("terminal", func(t *testing.T) { u.checkExecTerminal(t, name) })
	t.Run("shell", func(t *testing.T) {
		u := *u
		u.t = t
		if got := u.feed("echo $0; id -un; pwd; exit 7\n", "vm", "shell", "-u", "root", name); got.code != 7 || !strings.Contains(got.stdout, "root\n/root\n") {
			t.Errorf("a shell's commands from standard input: %v", got)
		}
	})
	t.Run("logs", func(t *testing.T) {
		u := *u
		u.t = t
		if got := u.run("vm", "logs", name); got.stdout != "out\n" || got.stderr != "err\n" || got.code != 0 {
			t.Errorf("vm logs: %v", got)
		}
		if out := u.must("vm", "logs", "--console", name); !strings.Contains(out, "Linux version") || !strings.Contains(out, "banger-guest: step agent") {
			t.Errorf("vm logs --console prints\n%.2000s", out)
		}
	})
	u.must("vm", "stop", "-t", "1", name)
	u.refuses(refusal{ofRun, []string{"does not run", "vm start " + name}}, "vm", "exec", name, "true")
	u.refuses(refusal{ofRun, []string{"none of that name"}}, "vm", "exec", "nonsense", "true")
	if got := u.run("vm", "logs", name); got.stdout != "out\n" { // they stay
		t.Errorf("vm logs of a stopped VM: %v", got)
	}
	u.must("vm", "rm", name)
	u.kept = nil
	u.leftovers()
}

func (u *user) checkDetached(t *testing.T, name string) {
	v := *u
	v.t = t
	pid := strings.TrimSpace(v.must("vm", "exec", "-d", name, "sleep", "12345"))
	if out := v.exec(name, "tr '\\0' ' ' </proc/"+pid+"/cmdline"); out != "sleep 12345 " {
		t.Errorf("the process %s is %q", pid, out)
	}
	if got := v.run("vm", "exec", "-d", name, "nonsense"); got.code != 127 || !strings.Contains(got.stderr, "nonsense") {
		t.Errorf("a detached command that is not there: %v", got)
	}
}

// checkAtOnce runs commands at once, each with input and output of its own.
func (u *user) checkAtOnce(t *testing.T, name string, n int) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			v := *u
			v.t = t
			input := strings.Repeat(fmt.Sprintf("line of %d\n", i), 20_000)
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			cmd := v.command(ctx, "vm", "exec", "-i", name, "sh", "-c", fmt.Sprintf("cat; exit %d", i))
			cmd.Stdin = strings.NewReader(input)
			out, err := cmd.Output()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != i || string(out) != input {
				t.Errorf("command %d: %d bytes came back of %d (%v)", i, len(out), len(input), err)
			}
		})
	}
	all.Wait()
}

func (u *user) checkExecTerminal(t *testing.T, name string) {
	v := *u
	v.t = t
	term := v.onTerminal(pty.Winsize{Rows: 20, Cols: 100}, "vm", "exec", "-it", name, "sh")
	term.says("$ ")
	term.types("stty size\r")
	term.says("20 100")
	term.types("echo go''es; sleep 1000\r")
	term.says("goes")
	time.Sleep(time.Second)
	term.types("\x03")
	term.types("echo code $?\r")
	term.says("code 130")
	term.types("\x04")
	if code := term.exits(); code != 0 {
		t.Errorf("want the exit code 0 of the shell's last command, got %d:\n%s", code, &term.output)
	}
	if got := v.run("vm", "exec", "-t", name, "sh"); got.code != usage || !strings.Contains(got.stderr, "terminal") {
		t.Errorf("-t without a terminal: %v", got)
	}
}

// TestLogs: following, selecting, and what is kept over restarts.
func TestLogs(t *testing.T) {
	u := withAlpine(t)
	const script = "for i in 1 2 3; do echo line $i; done; until [ -e /go ]; do sleep 0.1; done; echo line 4 >&2; rm /go; printf 'no newline'"
	u.must("vm", "run", "-d", "--name", "box", "alpine", "sh", "-c", script)
	u.kept = []string{"box"}
	u.logged("box", "line 3", 1)
	following := u.background("vm", "logs", "-f", "--tail", "2", "box")
	following.says("line 2\nline 3\n")
	u.exec("box", "touch /go")
	if code := following.exits(); code != 0 || following.output.String() != "line 2\nline 3\nline 4\nno newline" {
		t.Errorf("vm logs -f prints %q and exits with %d", &following.output, code)
	}
	between := time.Now().UTC().Format(time.RFC3339Nano)
	u.must("vm", "start", "box")
	u.logged("box", "line 3", 2)
	if out := u.must("vm", "logs", "--since", between, "box"); !strings.HasPrefix(out, "line 1\n") || strings.Contains(out, "newline") {
		t.Errorf("vm logs --since the first run prints %q", out)
	}
	if out := u.must("vm", "logs", "-n", "1", "box"); out != "line 3\n" {
		t.Errorf("vm logs -n 1 prints %q", out)
	}
	if out := u.must("vm", "logs", "--since", "1h", "box"); strings.Count(out, "line 1") != 2 {
		t.Errorf("vm logs of two runs prints %q", out)
	}
	u.refuses(refusal{usage, []string{"--since"}}, "vm", "logs", "--since", "whenever", "box")
	u.must("vm", "rm", "-f", "box")
	u.kept = nil
	u.leftovers()
}

// logged waits until a VM's log has some words so many times.
func (u *user) logged(vm, words string, times int) {
	u.t.Helper()
	var log string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if log = u.must("vm", "logs", vm); strings.Count(log, words) >= times {
			return
		}
	}
	u.t.Fatalf("the log has not %d times %q:\n%s", times, words, log)
}

// rounds is how often TestDurability stops and starts its VM.
const rounds = 20

// TestDurability: what was written before a stop returned, or synced before a kill, is there at the next start, and the
// disk is in order.
func TestDurability(t *testing.T) {
	u := withAlpine(t)
	u.must("vm", "create", "--name", "box", "alpine", "sleep", "100000")
	u.kept = []string{"box"}
	sums := map[string]string{}
	for round := range rounds {
		u.must("vm", "start", "-q", "box")
		u.checkSums("box", sums)
		name := fmt.Sprintf("/data%d", round)
		sums[name] = u.writeRandom("box", name, 1+rand.IntN(2<<20))
		if round%5 == 4 {
			u.exec("box", "sync")
			u.must("vm", "kill", "box")
			continue
		}
		u.must("vm", "stop", "-t", "20", "box")
		if vm := u.inspect("box"); vm.State != "stopped" || vm.Last.Reason != "stopped" || vm.Last.Error != "" {
			t.Fatalf("round %d: the stopped VM is %+v %+v", round, vm, vm.Last)
		}
		if round%6 == 0 {
			u.checkDisk("box")
		}
	}
	u.must("vm", "start", "-q", "box")
	u.checkSums("box", sums)
	u.must("vm", "stop", "box")
	u.checkDisk("box")
	u.must("vm", "rm", "box")
	u.kept = nil
	u.leftovers()
}

// writeRandom writes a file of random content in a VM, and returns its SHA-256.
func (u *user) writeRandom(vm, name string, size int) string {
	u.t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	if got := u.feed(string(data), "vm", "exec", "-i", vm, "--", "sh", "-c", "cat >"+name); got.code != 0 {
		u.t.Fatalf("writing %s: %v", name, got)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// checkSums compares the files of a VM with what was written.
func (u *user) checkSums(vm string, want map[string]string) {
	u.t.Helper()
	if len(want) == 0 {
		return
	}
	got := map[string]string{}
	for line := range strings.Lines(u.exec(vm, "sha256sum /data*")) {
		if fields := strings.Fields(line); len(fields) == 2 {
			got[fields[1]] = fields[0]
		}
	}
	for name, sum := range want {
		if got[name] != sum {
			u.t.Errorf("%s has the SHA-256 %q, want %q", name, got[name], sum)
		}
	}
}

// checkDisk has e2fsck judge the disk of a VM that was stopped: nothing to mend, and no journal to recover.
func (u *user) checkDisk(vm string) {
	u.t.Helper()
	raw := filepath.Join(u.t.TempDir(), "disk.ext4")
	out, err := exec.Command("qemu-img", "convert", "-O", "raw", filepath.Join(u.inspect(vm).Dir, "root.qcow2"), raw).CombinedOutput()
	if err != nil {
		u.t.Fatalf("qemu-img convert: %v\n%s", err, out)
	}
	defer func() { _ = os.Remove(raw) }()
	out, err = exec.Command("/usr/sbin/e2fsck", "-fn", raw).CombinedOutput()
	if err != nil || strings.Contains(string(out), "journal recovery") {
		u.t.Errorf("the disk after the stop: %v\n%s", err, out)
	}
}

// TestStop: commands that obey, disobey and have a signal of their own; machines that boot; many who ask.
func TestStop(t *testing.T) {
	u := withAlpine(t)
	u.customAlpine("quits", map[string]any{"Cmd": []string{"sh", "-c", "trap 'exit 6' USR1; trap '' TERM; while :; do sleep 0.1; done"}, "StopSignal": "SIGUSR1"})
	u.must("vm", "run", "-d", "--name", "quits", "quits")
	u.must("vm", "run", "-d", "--name", "ignores", "alpine", "sh", "-c", "trap '' TERM HUP; [ -e /kept ] || echo kept >/kept; while :; do sleep 0.1; done")
	u.kept = []string{"quits", "ignores", "boots"}
	u.must("vm", "stop", "quits")
	if vm := u.inspect("quits"); vm.State != "stopped" || vm.Last.ExitCode != 6 {
		t.Errorf("after its own StopSignal the VM is %+v %+v", vm, vm.Last)
	}
	begin := time.Now()
	u.must("vm", "stop", "--time", "6", "ignores")
	if vm := u.inspect("ignores"); vm.State != "stopped" || vm.Last.ExitCode != 137 || time.Since(begin) > 20*time.Second {
		t.Errorf("a command that ignores the signal: after %v the VM is %+v %+v", time.Since(begin), vm, vm.Last)
	}
	u.checkDisk("ignores")

	// While it boots.
	u.must("vm", "create", "--name", "boots", "alpine", "sleep", "100000")
	starting := u.background("vm", "start", "boots")
	u.await("boots", "starting", "running")
	u.must("vm", "stop", "boots")
	starting.exits()
	if state := u.await("boots", "stopped"); state != "stopped" {
		t.Errorf("a VM that was stopped while it booted is %q", state)
	}

	// A command for a VM that boots waits for it.
	starting = u.background("vm", "start", "boots")
	u.await("boots", "starting", "running")
	if out := u.exec("boots", "echo up"); out != "up\n" {
		t.Errorf("a command while the VM boots says %q", out)
	}
	if code := starting.exits(); code != 0 {
		t.Errorf("starting it exits with %d:\n%s", code, &starting.output)
	}
	u.must("vm", "kill", "boots")

	// By many at once, a kill among them.
	u.must("vm", "start", "ignores")
	if out := u.exec("ignores", "cat /kept"); out != "kept\n" {
		t.Errorf("after the stop: %q", out)
	}
	var asking []*running
	for _, how := range [][]string{{"stop", "-t", "30"}, {"stop"}, {"wait"}, {"kill"}, {"stop"}} {
		asking = append(asking, u.background(slices.Concat([]string{"vm"}, how, []string{"ignores"})...))
		time.Sleep(100 * time.Millisecond)
	}
	for _, r := range asking {
		if code := r.exits(); code != 0 && !strings.Contains(r.output.String(), "does not run") {
			t.Errorf("%v exits with %d:\n%s", r.Args, code, &r.output)
		}
	}
	if state := u.listed("ignores"); state != "stopped" {
		t.Errorf("after all of them the VM is %q", state)
	}
	u.must("vm", "rm", "quits", "ignores", "boots")
	u.kept = nil
	u.leftovers()
}

// TestMachine: an image with systemd is a machine without a command, and ends with its command otherwise.
func TestMachine(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+debianLayout(t)+":bookworm", "--name", "debian")
	u.must("vm", "run", "-d", "--name", "box", "debian")
	u.kept = []string{"box"}
	if out := u.exec("box", "systemctl is-system-running; systemctl is-active banger-guest; echo kept >/kept"); out != "running\nactive\n" {
		t.Errorf("the machine is %q", out)
	}
	if list := u.must("vm", "ls"); !strings.Contains(list, "(machine)") {
		t.Errorf("vm ls prints\n%s", list)
	}
	sum := u.writeRandom("box", "/data", 5<<20)
	begin := time.Now()
	u.must("vm", "stop", "box")
	vm := u.inspect("box")
	if vm.State != "stopped" || vm.Last.Reason != "stopped" || vm.Last.Error != "" {
		t.Errorf("after %v the machine is %+v %+v", time.Since(begin), vm, vm.Last)
	}
	u.checkDisk("box")

	// The guest's agent is a service like others: without it for a moment, the machine lives on.
	u.must("vm", "start", "box")
	u.checkSums("box", map[string]string{"/data": sum})
	if got := u.run("vm", "exec", "box", "sh", "-c", "kill -9 $PPID"); got.code != ofRun || !strings.Contains(got.stderr, "lost") {
		t.Errorf("a command whose agent is killed: %v", got)
	}
	if out := u.exec("box", "cat /kept; systemctl is-active banger-guest"); out != "kept\nactive\n" {
		t.Errorf("with the next agent: %q", out)
	}
	// It powers itself off.
	u.run("vm", "exec", "box", "systemctl", "poweroff")
	if code := u.must("vm", "wait", "box"); code != "0\n" {
		t.Errorf("vm wait prints %q", code)
	}
	if vm := u.inspect("box"); vm.State != "stopped" || vm.Last.Reason != "poweroff" {
		t.Errorf("a machine that powered off is %+v %+v", vm, vm.Last)
	}
	u.must("vm", "rm", "box")

	// In the foreground, the console is shown, and Ctrl-C stops it.
	u.kept = nil
	term := u.onTerminal(pty.Winsize{Rows: 25, Cols: 80}, "vm", "run", "--rm", "debian")
	term.says("Boot")
	term.says("Debian GNU/Linux 12")
	term.types("\x03")
	if code := term.exits(); code != 0 || !strings.Contains(term.output.String(), "Power down") {
		t.Errorf("a machine in the foreground exits with %d after Ctrl-C:\n%s", code, &term.output)
	}
	u.leftovers()
	// On a terminal, there is a shell in it.
	term = u.onTerminal(pty.Winsize{Rows: 25, Cols: 80}, "vm", "run", "--rm", "-it", "debian")
	term.says("# ")
	term.types("systemctl is-system-running; exit 4\r")
	term.says("running")
	if code := term.exits(); code != 4 {
		t.Errorf("a shell in a machine exits with %d:\n%s", code, &term.output)
	}
	u.leftovers()
}

// TestScratchLife: an image of one static program has commands of its own, and none that it does not have.
func TestScratchLife(t *testing.T) {
	u := newUser(t).withKernel()
	program := buildStatic(t, `package main
import ("fmt"; "os"; "os/signal"; "syscall")
func main() {
	fmt.Printf("args %q\n", os.Args[1:])
	if len(os.Args) > 1 { os.Exit(7) }
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	os.Exit(3)
}
`)
	l := newLayout(t, u, "scratch")
	l.tag(l.image("amd64", map[string]any{"Entrypoint": []string{"/app"}}, nil, tarOf(t, map[string][]byte{"app": program})))
	u.must("image", "pull", "oci:"+l.dir+":v1", "--name", "scratch")
	u.must("vm", "run", "-d", "--name", "box", "scratch")
	u.kept = []string{"box"}
	if got := u.run("vm", "exec", "box", "/app", "a"); got.code != 7 || got.stdout != "args [\"a\"]\n" {
		t.Errorf("exec of its program: %v", got)
	}
	if got := u.run("vm", "exec", "box", "sh"); got.code != 127 || !strings.Contains(got.stderr, "sh") {
		t.Errorf("exec of a shell: %v", got)
	}
	if got := u.run("vm", "shell", "box"); got.code != 127 || !strings.Contains(got.stderr, "shell") {
		t.Errorf("a shell where there is none: %v", got)
	}
	if out := u.must("vm", "logs", "box"); out != "args []\n" {
		t.Errorf("its logs are %q", out)
	}
	u.must("vm", "stop", "box")
	if vm := u.inspect("box"); vm.State != "stopped" || vm.Last.ExitCode != 3 {
		t.Errorf("the stopped VM is %+v %+v", vm, vm.Last)
	}
	u.checkDisk("box")
	u.must("vm", "rm", "box")
	u.kept = nil
	u.leftovers()
}
