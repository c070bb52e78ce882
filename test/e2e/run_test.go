package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestAlpine: an image without an init that it could run, from an archive of docker.
func TestAlpine(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	for _, c := range []struct {
		name   string
		args   []string
		stdin  string
		stdout string
		stderr string
		code   int
	}{
		{name: "output", args: []string{"alpine", "--", "cat", "/etc/alpine-release"}, stdout: "3.10"},
		{name: "exit code", args: []string{"alpine", "sh", "-c", "exit 42"}, code: 42},
		{name: "standard error", args: []string{"alpine", "sh", "-c", "echo oops >&2"}, stderr: "oops"},
		{name: "standard input", args: []string{"-i", "alpine", "wc", "-c"}, stdin: strings.Repeat("x", 1<<20), stdout: "1048576"},
		{name: "killed", args: []string{"alpine", "sh", "-c", "kill -TERM $$"}, code: 128 + 15},
		{name: "no such command", args: []string{"alpine", "nonsense"}, code: 127, stderr: "nonsense"},
		{name: "not executable", args: []string{"alpine", "/etc/passwd"}, code: 126, stderr: "/etc/passwd"},
		{name: "user", args: []string{"-u", "nobody", "alpine", "id", "-un"}, stdout: "nobody"},
		{name: "no such user", args: []string{"-u", "nonsense", "alpine", "id"}, code: 126, stderr: "nonsense"},
		{name: "working directory", args: []string{"-w", "/new/dir", "alpine", "pwd"}, stdout: "/new/dir"},
		{name: "environment", args: []string{"-e", "GREETING=hi there", "alpine", "sh", "-c", "echo $GREETING"}, stdout: "hi there"},
		{name: "network", args: []string{"alpine", "sh", "-c", "ip addr show eth0; ip route"}, stdout: "default via"},
		{name: "no network", args: []string{"--network", "none", "alpine", "ls", "/sys/class/net"}, stdout: "lo"},
		{name: "host name", args: []string{"--name", "box", "alpine", "hostname"}, stdout: "box"},
		{name: "modules", args: []string{"alpine", "sh", "-c", "modprobe dummy && ls /sys/module/dummy"}, stdout: "coresize"},
		{name: "large output", args: []string{"alpine", "sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; exit 3"}, stdout: strings.Repeat("x", 20000000), code: 3},
		{name: "own disk", args: []string{"alpine", "sh", "-c", "rm -rf /etc/alpine-release; ls /etc/alpine-release"}, code: 1},
		{name: "image unchanged", args: []string{"alpine", "cat", "/etc/alpine-release"}, stdout: "3.10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := u.feed(c.stdin, append([]string{"vm", "run", "--rm"}, c.args...)...)
			if got.code != c.code || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("banger vm run --rm %s\nwant exit code %d, stdout with %.60q, stderr with %q\ngot %.2000s",
					strings.Join(c.args, " "), c.code, c.stdout, c.stderr, got)
			}
		})
	}
	u.must("image", "export", "alpine", u.dir+"/alpine.ext4")
	fsck(t, u.dir+"/alpine.ext4")
	u.leftovers()
}

// TestBackground: `vm run` ends with its command, whatever the command left running.
func TestBackground(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	start := time.Now()
	got := u.run("vm", "run", "--rm", "alpine", "--", "sh", "-c", "yes & echo started; exit 5")
	if got.code != 5 || !strings.Contains(got.stdout, "started") || time.Since(start) > time.Minute {
		t.Errorf("after %v: want exit code 5 and the output, got exit code %d", time.Since(start), got.code)
	}
	closed := u.pipeTo("head -n 1", "vm", "run", "--rm", "-q", "alpine", "--", "yes")
	if closed != "y\n" {
		t.Errorf("with a reader that goes away: got %q", closed)
	}
	u.leftovers()
}

// TestScratch: an image that is one static binary, with no directory, shell or passwd.
func TestScratch(t *testing.T) {
	u := newUser(t).withKernel()
	layout := scratchLayout(t, u)
	for _, builder := range builders {
		u.must("image", "pull", "oci:"+layout+":v1", "--name", "scratch-"+builder, "--builder", builder)
		got := u.run("vm", "run", "--rm", "scratch-"+builder, "one", "two")
		u.must("image", "export", "scratch-"+builder, u.dir+"/scratch.ext4")
		fsck(t, u.dir+"/scratch.ext4")
		if got.code != 7 || !strings.Contains(got.stdout, `args ["one" "two"]`) {
			t.Errorf("builder %s: want exit code 7 and the arguments; got %v", builder, got)
		}
	}
	u.leftovers()
}

// TestBootFailures: a VM that does not come up says at which step, shows the end of its console, and keeps all of it.
func TestBootFailures(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+scratchLayout(t, u)+":v1", "--name", "scratch")
	image := strings.TrimSpace(u.must("image", "inspect", "scratch"))
	disk := regexp.MustCompile(`(?m)^Disk:\s+(.*)$`).FindStringSubmatch(image)
	if disk == nil {
		t.Fatalf("image inspect names no disk:\n%s", image)
	}
	u.refuses(refusal{ofRun, []string{`booting the VM "slow"`, "ms"}},
		"vm", "run", "--boot-timeout", "50ms", "--name", "slow", "scratch")

	// A disk that is no file system: the length is right, so only the guest can notice.
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+disk[1], "bs=1M", "count=8", "conv=notrunc").CombinedOutput(); err != nil {
		t.Fatalf("spoiling the disk: %v\n%s", err, out)
	}
	u.refuses(refusal{ofRun, []string{"mounting the root disk", "hint:", "the whole console: " + u.home + "/logs/spoilt.console.log"}}, "vm", "run", "--name", "spoilt", "scratch")
	log, err := os.ReadFile(u.home + "/logs/spoilt.console.log")
	if err != nil || !strings.Contains(string(log), "banger-guest: fatal: ") {
		t.Errorf("the console that was kept has no word of the failure (%v):\n%s", err, log)
	}
}
