package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// inNamespace runs banger where a shell line has changed the mounts, in a user and mount namespace of its own. There
// the user is root over nothing but the mounts.
func (u *user) inNamespace(setup string, args ...string) result {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	banger := u.command(ctx, args...)
	line := setup + ` && exec "$@"`
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"-rm", "sh", "-c", line, "sh"}, banger.Args...)...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = banger.Dir, banger.Env, banger.SysProcAttr
	probe := exec.Command("unshare", "-rm", "true")
	probe.SysProcAttr = banger.SysProcAttr
	if err := probe.Run(); err != nil {
		missing(u.t, "userns", "this host lets ordinary users make no namespaces")
	}
	return finish(u.t, ctx, cmd)
}

// TestNoE2fsprogs: a host without mkfs.ext4 is told which package to install.
func TestNoE2fsprogs(t *testing.T) {
	u := newUser(t)
	got := u.inNamespace("mount --bind /dev/null /usr/sbin/mke2fs", "image", "pull", "oci:"+scratchLayout(t, u)+":v1")
	if got.code != noTool || !strings.Contains(got.stderr, "e2fsprogs") {
		t.Errorf("want exit code %d and the package's name, got %v", noTool, got)
	}
	u.leftovers()
}

// TestDiskFull: a full disk, met at different points of a pull, is named as such and nothing half-made stays.
func TestDiskFull(t *testing.T) {
	u := newUser(t)
	reference := "oci:" + debianLayout(t) + ":bookworm"
	for _, size := range []string{"20m", "330m", "600m"} {
		t.Run(size, func(t *testing.T) {
			u := *u
			u.t = t
			setup := "mkdir -p $BANGER_HOME && mount -t tmpfs -o size=" + size + " none $BANGER_HOME"
			// The namespace and its tmpfs are gone afterwards, so a second shell in it looks for leftovers.
			check := `sh -c '"$@"; code=$?; find $BANGER_HOME/tmp $BANGER_HOME/images -mindepth 1 -not -name .lock 2>/dev/null | sed "s/^/LEFT /" >&2; exit $code' sh`
			got := u.inNamespace(setup+` && set -- `+check+` "$@"`, "image", "pull", reference, "--name", "x")
			if got.code != noSpace || !strings.Contains(got.stderr, "hint:") {
				t.Errorf("want exit code %d and a hint, got %v", noSpace, got)
			}
			if strings.Contains(got.stderr, "LEFT ") {
				t.Errorf("something was left behind: %v", got)
			}
		})
	}
}
