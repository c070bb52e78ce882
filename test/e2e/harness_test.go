// Package e2e runs the built bin/banger the way a user does: as an unprivileged user, against a real registry, with a
// real kernel, on real images, in real virtual machines. Outside tools judge the results.
//
// scripts/test.sh prepares what the tests need and says where it is, in the BANGER_TEST_* variables of this file.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody runs banger when the tests run as root.
const nobody = 65534

// fixture returns the value of a variable that scripts/test.sh sets. Without it the test fails, unless
// BANGER_TEST_EXCUSE lists the excuse.
func fixture(t *testing.T, variable, excuse string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value == "" {
		missing(t, excuse, variable+" is not set: run the tests by `make test`")
	}
	return value
}

// missing fails the test, or skips it when BANGER_TEST_EXCUSE names the excuse.
func missing(t *testing.T, excuse, why string) {
	t.Helper()
	for _, name := range strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ",") {
		if name == excuse {
			t.Skipf("excused (%s): %s", excuse, why)
		}
	}
	t.Fatalf("%s (or set BANGER_TEST_EXCUSE=%s)", why, excuse)
}

// user is an account with a home of its own below a directory that it can reach.
type user struct {
	t    *testing.T
	dir  string   // writable by the user, removed after the test
	home string   // BANGER_HOME
	env  []string // added to the environment
	kept []string // names of the VMs that the test keeps: they are no leftovers
}

func newUser(t *testing.T) *user {
	t.Helper()
	// Not t.TempDir: its parents are closed to other accounts.
	dir, err := os.MkdirTemp("/tmp", "banger-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	u := &user{t: t, dir: dir, home: filepath.Join(dir, "banger")}
	u.own(dir)
	t.Cleanup(u.endProcesses)
	return u
}

// processes returns the processes that have the user's home on their command line: monitors, VMMs, what starts them.
func (u *user) processes() (pids []int, lines string) {
	out, _ := exec.Command("pgrep", "-fa", u.home).Output()
	for line := range strings.Lines(string(out)) {
		number, _, _ := strings.Cut(line, " ")
		if pid, err := strconv.Atoi(number); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, string(out)
}

// endProcesses ends what a test that failed has left running.
func (u *user) endProcesses() {
	pids, _ := u.processes()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// own gives a path to the account that banger runs as.
func (u *user) own(path string) {
	u.t.Helper()
	if os.Geteuid() == 0 {
		if err := os.Chown(path, nobody, nobody); err != nil {
			u.t.Fatal(err)
		}
	}
}

// staged is where TestMain puts bin/banger: the account that runs it may be unable to enter the checkout.
var staged string

func TestMain(m *testing.M) {
	dir, err := stageBinary()
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: bin/banger is not built: run make build: %v\n", err)
		os.Exit(1)
	}
	staged = filepath.Join(dir, "banger")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func stageBinary() (string, error) {
	program, err := os.ReadFile("../../bin/banger")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("/tmp", "banger-bin-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "banger"), program, 0o755)
}

// command prepares banger with these arguments, as the user.
func (u *user) command(ctx context.Context, args ...string) *exec.Cmd {
	u.t.Helper()
	cmd := exec.CommandContext(ctx, staged, args...)
	cmd.Dir = u.dir
	cmd.Env = append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + u.dir, "BANGER_HOME=" + u.home,
		"XDG_RUNTIME_DIR=" + filepath.Join(u.dir, "run"), "TMPDIR=" + u.dir,
	}, u.env...)
	cmd.SysProcAttr = credential()
	return cmd
}

func credential() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// result is what one run of banger gave.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// limit is how long any one run of banger may take before the test calls it hung.
const limit = 5 * time.Minute

// run runs banger and returns what it gave, whatever the exit code.
func (u *user) run(args ...string) result { return u.feed("", args...) }

// feed is run with a standard input.
func (u *user) feed(stdin string, args ...string) result {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := u.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(u.t, ctx, cmd)
}

func finish(t *testing.T, ctx context.Context, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %v: %v", cmd.Args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%v did not end within %v\nstdout:\n%s\nstderr:\n%s", cmd.Args, limit, &stdout, &stderr)
	}
	return result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
}

// pipeTo runs banger with its output going to a shell command, and returns what that prints.
func (u *user) pipeTo(reader string, args ...string) string {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	banger := u.command(ctx, args...)
	shell := exec.CommandContext(ctx, "sh", append([]string{"-c", `"$@" | ` + reader, "sh"}, banger.Args...)...)
	shell.Dir, shell.Env, shell.SysProcAttr = banger.Dir, banger.Env, banger.SysProcAttr
	return finish(u.t, ctx, shell).stdout
}

// must is run that has to succeed.
func (u *user) must(args ...string) string {
	u.t.Helper()
	r := u.run(args...)
	if r.code != 0 {
		u.t.Fatalf("banger %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// withKernel gives the user the kernel that the tests boot.
func (u *user) withKernel() *user {
	u.t.Helper()
	debs := strings.Fields(fixture(u.t, "BANGER_TEST_KERNEL_DEB", "kernel-deb"))
	args := []string{"kernel", "import"}
	for _, deb := range debs {
		args = append(args, "--deb", deb)
	}
	u.must(args...)
	return u
}

// leftovers fails the test if anything half-made is left below the user's home or in the runtime directory, or a process.
// What belongs to a VM that the test keeps is its own.
func (u *user) leftovers() {
	u.t.Helper()
	nothing := func(name string) bool { return name == ".lock" }
	u.strangers("tmp", nothing)
	u.strangers("vms", func(name string) bool { return slices.Contains(u.kept, name) })
	if len(u.kept) > 0 {
		return // there may be processes and sockets of theirs
	}
	u.strangers("../run/banger", nothing)
	u.strangers("images", func(name string) bool { return name == "names" || len(name) == 64 })
	u.strangers("layers/sha256", func(name string) bool {
		hex, index := strings.CutSuffix(name, ".index")
		_, err := os.Stat(filepath.Join(u.home, "layers/sha256", hex))
		return len(hex) == 64 && (!index || err == nil)
	})
	u.strangers("kernels", func(name string) bool { return name == ".lock" || name[0] != '.' })
	// A monitor ends a moment after its last word to whoever waits for it, and what settles an image when the disk has it.
	pids, lines := u.processes()
	for deadline := time.Now().Add(10 * time.Second); len(pids) > 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		pids, lines = u.processes()
	}
	if len(pids) > 0 {
		u.t.Errorf("processes left behind:\n%s", lines)
	}
}

func (u *user) strangers(dir string, known func(string) bool) {
	u.t.Helper()
	entries, _ := os.ReadDir(filepath.Join(u.home, dir))
	for _, entry := range entries {
		if !known(entry.Name()) {
			u.t.Errorf("left behind: %s/%s", dir, entry.Name())
		}
	}
}
