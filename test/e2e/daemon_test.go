package e2e

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDaemon starts a daemon of the user, which all further commands of the user go to, and returns when it listens.
func (u *user) startDaemon() *exec.Cmd {
	u.t.Helper()
	socket := filepath.Join(u.dir, "run", "banger", "api.sock")
	u.env = nil
	cmd := u.command(context.Background(), "daemon")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { _ = cmd.Process.Kill() })
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(until) {
			u.t.Fatalf("the daemon does not listen:\n%s", &stderr)
		}
	}
	u.env = []string{"BANGER_HOST=unix://" + socket}
	return cmd
}

// stopDaemon has the daemon end in order.
func (u *user) stopDaemon(cmd *exec.Cmd) {
	u.t.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	begun := time.Now()
	if err := cmd.Wait(); err != nil {
		u.t.Errorf("SIGTERM ends the daemon with %v, want the exit code 0", err)
	}
	if took := time.Since(begun); took > 15*time.Second {
		u.t.Errorf("the daemon takes %v to end", took)
	}
	u.env = nil
}

// TestDaemon: banger's commands through a daemon, whose end no VM notices.
func TestDaemon(t *testing.T) {
	u := newUser(t)
	t.Cleanup(func() { // of a test that fails
		u.at(t).env = nil
		u.run("vm", "rm", "-f", "web", "left")
	})
	daemon := u.startDaemon()
	u.withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	t.Run("attached run", u.attachedRuns)
	u.must("vm", "run", "-d", "--name", "web", "alpine", "--", "sh", "-c", "trap 'echo bye; exit 3' TERM; n=0; while sleep 0.2; do n=$((n+1)); echo tick $n; done")
	t.Run("exec", u.execs)
	daemon = u.at(t).killDaemon(daemon)
	daemon = u.restartDaemon(daemon)
	u.endOfVM()
	u.stopDaemon(daemon)
	u.leftovers()
}

// at is the user in a part of the test.
func (u *user) at(t *testing.T) *user {
	u.t = t
	return u
}

func (u *user) attachedRuns(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		stdin  string
		stdout string
		stderr string
		code   int
	}{
		{name: "output", args: []string{"alpine", "--", "sh", "-c", "cat /etc/alpine-release; echo oops >&2; exit 7"}, stdout: "3.10", stderr: "oops", code: 7},
		{name: "input", args: []string{"-i", "alpine", "wc", "-c"}, stdin: strings.Repeat("x", 1<<20), stdout: "1048576"},
		{name: "no such command", args: []string{"alpine", "nonsense"}, stderr: "nonsense", code: 127},
		{name: "no such command, detached", args: []string{"-d", "alpine", "nonsense"}, stderr: "nonsense", code: 127},
		{name: "large output", args: []string{"alpine", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x"}, stdout: strings.Repeat("x", 20000000)},
		{name: "power off", args: []string{"alpine", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 60"}, code: 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := u.at(t).feed(c.stdin, append([]string{"vm", "run", "--rm"}, c.args...)...)
			if got.code != c.code || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("want exit code %d, stdout with %.60q, stderr with %q\ngot %.2000s", c.code, c.stdout, c.stderr, got)
			}
		})
	}
	u.at(t).clientKilled()
	if left := u.must("vm", "ls", "-q"); left != "" {
		t.Errorf("after runs with --rm there are the VMs %s", left)
	}
}

// clientKilled: a VM outlives a client that is killed, and does not outlive one that is interrupted.
func (u *user) clientKilled() {
	client := u.command(context.Background(), "vm", "run", "-q", "--name", "left", "alpine", "--", "sh", "-c", "echo up; sleep 1000")
	out, err := client.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	if err := client.Start(); err != nil {
		u.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		u.t.Fatalf("the VM's first line is %q (%v)", line, err)
	}
	_ = client.Process.Kill()
	_ = client.Wait()
	time.Sleep(time.Second)
	if list := u.must("vm", "ls"); !strings.Contains(list, "running") {
		u.t.Errorf("a VM whose client was killed does not run on:\n%s", list)
	}
	u.must("vm", "rm", "-f", "left")
	if code := u.interrupt("Boot", "vm", "run", "--name", "never", "alpine"); code != interrupted {
		u.t.Errorf("Ctrl-C while a VM boots: want exit code %d, got %d", interrupted, code)
	}
	if list := u.must("vm", "ls", "-q"); list != "" {
		u.t.Errorf("Ctrl-C while a VM boots leaves %s", list)
	}
}

func (u *user) execs(t *testing.T) {
	u.at(t)
	got := u.feed("some input\n", "vm", "exec", "-i", "web", "--", "sh", "-c", "cat; echo oops >&2; exit 5")
	if got.code != 5 || got.stdout != "some input\n" || got.stderr != "oops\n" {
		t.Errorf("exec: want what was sent, oops, and the exit code 5; got %v", got)
	}
	if got := u.run("vm", "exec", "web", "nonsense"); got.code != 127 {
		t.Errorf("exec of a program that is not there: %v", got)
	}
	if got := u.run("vm", "exec", "nothing", "true"); got.code != 125 || !strings.Contains(got.stderr, "hint: ") {
		t.Errorf("exec in a VM that is not there: %v", got)
	}
	for until := time.Now().Add(20 * time.Second); !strings.HasPrefix(u.must("vm", "logs", "--tail", "1", "web"), "tick "); {
		if time.Now().After(until) {
			t.Fatalf("the VM's command prints %q", u.must("vm", "logs", "web"))
		}
	}
	u.overStreams(t)
	if stats := u.must("vm", "stats", "--json"); !strings.Contains(stats, `"name": "web"`) {
		t.Errorf("stats: %s", stats)
	}
}

// overStreams: what works over streams to the agent does so through the daemon.
func (u *user) overStreams(t *testing.T) {
	notes := filepath.Join(u.dir, "notes")
	if err := os.WriteFile(notes, bytes.Repeat([]byte("remember the milk\n"), 1<<17), 0o644); err != nil {
		t.Fatal(err)
	}
	u.must("vm", "cp", notes, "web:/tmp/notes")
	u.must("vm", "cp", "web:/tmp/notes", notes+".back")
	want, _ := os.ReadFile(notes)
	if got, err := os.ReadFile(notes + ".back"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a file that went into the VM and out again has %d bytes instead of %d (%v)", len(got), len(want), err)
	}
	if release := u.must("vm", "ssh", "web", "cat", "/etc/alpine-release"); !strings.HasPrefix(release, "3.10") {
		t.Errorf("vm ssh: %q", release)
	}
	if ports := u.must("vm", "port", "add", "web", "80"); !strings.Contains(ports, "->80/tcp") || u.must("vm", "port", "rm", "web", "80") != ports {
		t.Errorf("vm port add: %q", ports)
	}
}

// killDaemon kills the daemon while it serves, and starts another one.
func (u *user) killDaemon(daemon *exec.Cmd) *exec.Cmd {
	u.t.Helper()
	follower := u.command(context.Background(), "vm", "exec", "web", "--", "sh", "-c", "echo here; sleep 1000")
	out, err := follower.StdoutPipe()
	if err != nil {
		u.t.Fatal(err)
	}
	if err := follower.Start(); err != nil {
		u.t.Fatal(err)
	}
	_, _ = bufio.NewReader(out).ReadString('\n')
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	if err := follower.Wait(); follower.ProcessState.ExitCode() != 125 {
		u.t.Errorf("a client whose daemon was killed ends with %v, want the exit code 125", err)
	}
	got := u.run("vm", "ls")
	if got.code != 4 || !strings.Contains(got.stderr, "banger daemon") {
		u.t.Errorf("without a daemon: want exit code 4 and a hint; got %v", got)
	}
	u.env = nil
	if list := u.must("vm", "ls"); !strings.Contains(list, "running") {
		u.t.Errorf("after the daemon was killed:\n%s", list)
	}
	daemon = u.startDaemon()
	if list := u.must("vm", "ls"); !strings.Contains(list, "running") {
		u.t.Errorf("the next daemon says:\n%s", list)
	}
	if left := u.run("vm", "exec", "web", "--", "sh", "-c", "ps | grep -c '[s]leep 1000'"); left.stdout != "0\n" {
		u.t.Errorf("the command of a client whose daemon was killed goes on: %v", left)
	}
	return daemon
}

// restartDaemon stops the daemon in order while it serves, and starts another one.
func (u *user) restartDaemon(daemon *exec.Cmd) *exec.Cmd {
	u.t.Helper()
	follower := u.command(context.Background(), "vm", "logs", "-f", "web")
	if err := follower.Start(); err != nil {
		u.t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	u.stopDaemon(daemon)
	_ = follower.Wait()
	before := u.must("vm", "logs", "--tail", "1", "web")
	daemon = u.startDaemon()
	time.Sleep(time.Second)
	if after := u.must("vm", "logs", "--tail", "1", "web"); after == before {
		u.t.Errorf("the VM stands still since the daemon has stopped: it printed %q", after)
	}
	return daemon
}

// endOfVM: who follows the logs sees the last words, who waits gets the exit code.
func (u *user) endOfVM() {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	follower, waiter := u.command(ctx, "vm", "logs", "-f", "--tail", "1", "web"), u.command(ctx, "vm", "wait", "web")
	var followed, waited bytes.Buffer
	follower.Stdout, waiter.Stdout = &followed, &waited
	for _, cmd := range []*exec.Cmd{follower, waiter} {
		if err := cmd.Start(); err != nil {
			u.t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	u.must("vm", "stop", "web")
	if err := follower.Wait(); err != nil || !strings.HasSuffix(followed.String(), "bye\n") {
		u.t.Errorf("logs -f ends with %v after %q, want the VM's last word, bye", err, &followed)
	}
	if err := waiter.Wait(); err != nil || waited.String() != "3\n" {
		u.t.Errorf("wait prints %q (%v), want the exit code 3", &waited, err)
	}
	u.must("vm", "start", "web")
	u.must("vm", "rm", "-f", "web")
}

// TestDocumentedSession: the session of docs/api.md, with curl, gives what is written there.
func TestDocumentedSession(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		missing(t, "curl", "the program curl is missing")
	}
	u := newUser(t).withKernel()
	t.Cleanup(func() { // of a test that fails
		u.env = nil
		u.run("vm", "rm", "-f", "web")
	})
	daemon := u.startDaemon()
	commands, answers := session(t, "../../docs/api.md")
	if len(commands) < 10 {
		t.Fatalf("docs/api.md has a session of %d commands", len(commands))
	}
	alpine := fixture(t, "BANGER_TEST_ALPINE", "alpine")
	const mark = "---- end of an answer"
	script := strings.ReplaceAll(strings.Join(commands, "\necho '"+mark+"'\n"), "/srv/alpine.tar", alpine)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	banger := u.command(ctx)
	shell := exec.CommandContext(ctx, "sh", "-c", script)
	shell.Dir, shell.Env, shell.SysProcAttr = banger.Dir, banger.Env, banger.SysProcAttr
	got := strings.Split(finish(t, ctx, shell).stdout, mark+"\n")
	for i, answer := range answers {
		if i >= len(got) || !like(answer).MatchString(got[i]) {
			t.Errorf("$ %s\nwant:\n%s\ngot:\n%s", commands[i], answer, got[min(i, len(got)-1)])
		}
	}
	u.stopDaemon(daemon)
	u.leftovers()
}

// session returns the commands of a page's console blocks, and what is written below each.
func session(t *testing.T, page string) (commands, answers []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```console\n")
	block, _, _ = strings.Cut(block, "```\n")
	for line := range strings.Lines(block) {
		if command, found := strings.CutPrefix(line, "$ "); found {
			commands, answers = append(commands, strings.TrimSuffix(command, "\n")), append(answers, "")
			continue
		}
		last := len(commands) - 1
		if more, found := strings.CutPrefix(line, "> "); found {
			commands[last] += "\n" + strings.TrimSuffix(more, "\n")
			continue
		}
		answers[last] += line
	}
	return commands, answers
}

// like makes a pattern of an answer, in which … stands for anything.
func like(answer string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(answer), "…", ".*") + "$")
}
