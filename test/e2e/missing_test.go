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

// TestNoE2fsprogs: a host without e2fsprogs pulls images all the same, and is told which package the reference builder
// needs.
func TestNoE2fsprogs(t *testing.T) {
	u := newUser(t)
	without := "mount --bind /dev/null /usr/sbin/mke2fs && mount --bind /dev/null /usr/sbin/debugfs"
	pull := []string{"image", "pull", "oci:" + scratchLayout(t, u) + ":v1"}
	got := u.inNamespace(without, append(pull, "--builder", "mkfs")...)
	if got.code != noTool || !strings.Contains(got.stderr, "e2fsprogs") {
		t.Errorf("want exit code %d and the package's name, got %v", noTool, got)
	}
	u.leftovers()
	got = u.inNamespace(without, "doctor", "--json")
	if !strings.Contains(got.stdout, `"warn"`) || strings.Contains(got.stderr, "mkfs") {
		t.Errorf("without e2fsprogs, doctor has to warn and not to fail, got %v", got)
	}
	if got := u.inNamespace(without, pull...); got.code != 0 {
		t.Errorf("pulling without e2fsprogs: %v", got)
	}
	u.leftovers()
}

// TestDiskFull: a full disk, met at different points of a pull, is named as such and nothing half-made stays.
func TestDiskFull(t *testing.T) {
	u := newUser(t)
	reference := "oci:" + debianLayout(t) + ":bookworm"
	for _, c := range []struct{ size, builder string }{
		{"20m", "native"},  // the layer does not fit
		{"240m", "native"}, // nor the beginning of the disk
		{"400m", "native"}, // nor its end
		{"330m", "mkfs"}, {"600m", "mkfs"},
	} {
		t.Run(c.builder+"/"+c.size, func(t *testing.T) {
			u := *u
			u.t = t
			setup := "mkdir -p $BANGER_HOME && mount -t tmpfs -o size=" + c.size + " none $BANGER_HOME"
			// The namespace and its tmpfs are gone afterwards, so a second shell in it looks for leftovers.
			check := `sh -c '"$@"; code=$?; find $BANGER_HOME/tmp $BANGER_HOME/images -mindepth 1 -not -name .lock 2>/dev/null | sed "s/^/LEFT /" >&2; exit $code' sh`
			got := u.inNamespace(setup+` && set -- `+check+` "$@"`, "image", "pull", reference, "--name", "x", "--builder", c.builder)
			if got.code != noSpace || !strings.Contains(got.stderr, "hint:") {
				t.Errorf("want exit code %d and a hint, got %v", noSpace, got)
			}
			if strings.Contains(got.stderr, "LEFT ") {
				t.Errorf("something was left behind: %v", got)
			}
		})
	}
}
