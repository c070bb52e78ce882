package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCopy: files, trees and tars go into a VM without a network and come back as they were.
func TestCopy(t *testing.T) {
	u := withAlpine(t)
	u.must("vm", "run", "-d", "--name", "box", "--network", "none", "alpine", "sleep", "1000")
	u.must("vm", "run", "-d", "--name", "other", "--network", "none", "alpine", "sleep", "1000")
	u.shell(`mkdir -p tree/sub; echo hello > tree/file; ln tree/file tree/link; ln -s ../file tree/sub/symlink; truncate -s 50M tree/hole
		head -c 3000000 /dev/urandom > tree/sub/random; chmod 640 tree/file; touch -d '1999-12-31 23:59:58.5' tree/sub/random`)

	u.must("vm", "cp", "tree", "box:/srv")
	if got := u.exec("box", "cat /srv/tree/link; stat -c '%a %u' /srv/tree/file; du -k /srv/tree/hole | cut -f 1"); got != "hello\n640 0\n0\n" {
		t.Errorf("in the VM the copy is %q", got)
	}
	u.must("vm", "cp", "box:/srv/tree", "back")
	u.shell(`diff -r tree back && test back/file -ef back/link && test "$(stat -c %y back/sub/random)" = "$(stat -c %y tree/sub/random)"`)
	u.must("vm", "cp", "box:/srv/tree/.", "other:/root")
	if got := u.exec("other", "sha256sum < /root/sub/random"); got != u.exec("box", "sha256sum < /srv/tree/sub/random") {
		t.Errorf("from one VM to another the copy has the sum %s", got)
	}

	tar := u.pipeTo("tar t", "vm", "cp", "box:/srv/tree", "-")
	if !strings.Contains(tar, "tree/sub/symlink") {
		t.Errorf("as a tar the tree is\n%s", tar)
	}
	packed, err := exec.Command("tar", "-C", filepath.Join(u.dir, "tree"), "-cz", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := u.feed(string(packed), "vm", "cp", "-", "box:/opt"); got.code != 0 || u.exec("box", "cat /opt/file") != "hello\n" {
		t.Errorf("extracting a tar: %v", got)
	}

	u.says(refusal{3, []string{"/nothing"}}, "vm", "cp", "box:/nothing", ".")
	u.says(refusal{3, []string{"nothing"}}, "vm", "cp", "nothing", "box:/srv")
	u.says(refusal{3, []string{"bax", "did you mean box"}}, "vm", "cp", "tree", "bax:/srv")
	u.says(refusal{2, []string{"VM:PATH"}}, "vm", "cp", "tree", "tree2")
	u.exec("box", "dd if=/dev/zero of=/fill bs=1M 2>/dev/null || true")
	u.says(refusal{8, []string{"no space left", "in the VM"}}, "vm", "cp", "tree/sub/random", "box:/opt/new")
	if got := u.exec("box", "ls /opt"); strings.Contains(got, "new") {
		t.Errorf("after a copy that did not fit there is\n%s", got)
	}
	u.must("vm", "rm", "-f", "box", "other")
	u.leftovers()
}

// shell runs a script in the user's directory, as the user.
func (u *user) shell(script string) {
	u.t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir, cmd.SysProcAttr = u.dir, credential()
	if out, err := cmd.CombinedOutput(); err != nil {
		u.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
