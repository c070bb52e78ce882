package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openSSH runs a program of OpenSSH as the user, with the configuration that banger prints.
func (u *user) openSSH(stdin, tool string, args ...string) result {
	u.t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		u.t.Fatalf("this test needs %s: run scripts/deps.sh test", tool)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := u.command(ctx)
	cmd.Path, cmd.Args = path, append([]string{tool}, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return finish(u.t, ctx, cmd)
}

// TestSSH: OpenSSH's programs, run by an ordinary user, with a VM that has no sshd.
func TestSSH(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	u.must("vm", "run", "-d", "--name", "web", "--network", "none", "alpine", "--", "sleep", "10000")
	defer u.run("vm", "rm", "--force", "web")
	config := filepath.Join(u.dir, "config")
	if err := os.WriteFile(config, []byte(u.must("ssh-config")), 0o644); err != nil {
		t.Fatal(err)
	}
	ssh := func(args ...string) result { return u.openSSH("", "ssh", append([]string{"-F", config}, args...)...) }
	want := func(what, stdout string, code int, got result) {
		t.Helper()
		if got.stdout != stdout || got.code != code {
			t.Errorf("%s: want %q and the exit code %d, got %v", what, stdout, code, got)
		}
	}
	want("a command", "root /root\n", 3, ssh("web.banger", `echo $(whoami) $(pwd); exit 3`))
	want("another user", "1234 1\n", 0, ssh("1234@web.banger", "-o", "SetEnv=X=1", "echo $(id -u) $X"))
	want("a user who is not there", "", 1, ssh("nobody-here@web.banger", "true"))
	want("a service of the guest", "hello", 0, ssh("web.banger", "(nc -l -s 127.0.0.1 -p 99 -e /bin/cat &) && sleep 1 && echo -n hello"))
	want("-W", "echoed", 0, u.openSSH("echoed", "ssh", "-F", config, "-W", "127.0.0.1:99", "web.banger"))
	want("vm ssh", "0\n", 0, u.run("vm", "ssh", "web", "id", "-u"))
	want("a VM that is not there", "", 3, u.run("vm", "ssh", "nope"))
	u.copies(config)
	u.must("vm", "stop", "web")
	if got := ssh("web.banger", "true"); got.code != 255 || !strings.Contains(got.stderr, "banger vm start web") {
		t.Errorf("a VM that does not run: want 255 and what to do, got %v", got)
	}
}

// copies sends a file to the VM and back by scp and sftp.
func (u *user) copies(config string) {
	u.t.Helper()
	content := strings.Repeat("0123456789", 500_000)
	file := filepath.Join(u.dir, "file")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		u.t.Fatal(err)
	}
	for _, got := range []result{
		u.openSSH("", "scp", "-q", "-F", config, file, "web.banger:there"),
		u.openSSH("get there "+file+".2\nmkdir d\nrename there d/there\n", "sftp", "-q", "-b", "-", "-F", config, "web.banger"),
		u.openSSH("", "scp", "-q", "-r", "-F", config, "web.banger:d", u.dir),
	} {
		if got.code != 0 {
			u.t.Fatalf("copying: %v", got)
		}
	}
	for _, copied := range []string{file + ".2", filepath.Join(u.dir, "d", "there")} {
		if got, err := os.ReadFile(copied); string(got) != content {
			u.t.Errorf("%s has %d bytes (%v), want the %d that were sent", copied, len(got), err, len(content))
		}
	}
}
