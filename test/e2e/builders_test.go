package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// stateScript prints what a booted system is like: what systemd says of itself (where there is one), what it runs, and
// each file of the root file system but for those that have made-up names.
const stateScript = `
if command -v systemctl >/dev/null; then
  systemctl is-system-running
  systemctl list-units --type=service,target,mount,socket --state=active --plain --no-legend | cut -d' ' -f1 | sort
fi
grep ' / ' /proc/mounts
mkdir /run/root && mount -o bind / /run/root && cd /run/root
find . -exec stat -c '%F %u %g %a %h %N' {} + | grep -Ev 'systemd-private-|/var/log/journal/' | sort
`

// TestBuildersBootAlike: the disks of both builders boot to the same state, with systemd and with the agent as the init.
func TestBuildersBootAlike(t *testing.T) {
	u := newUser(t).withKernel()
	for name, c := range map[string]struct {
		reference string
		lines     int // that there are at the least
	}{
		"debian": {"oci:" + debianLayout(t) + ":bookworm", 8000},
		"alpine": {"docker-archive:" + fixture(t, "BANGER_TEST_ALPINE", "alpine"), 400},
	} {
		t.Run(name, func(t *testing.T) {
			states := map[string]map[string]bool{}
			for _, builder := range builders {
				u.must("image", "pull", c.reference, "--name", name+"-"+builder, "--builder", builder)
				out := u.must("vm", "run", "--rm", "--name", "guest", name+"-"+builder, "--", "sh", "-c", stateScript)
				states[builder] = lineSet(out)
				if len(states[builder]) < c.lines {
					t.Errorf("%s: the state has %d lines, want %d or more:\n%.2000s", builder, len(states[builder]), c.lines, out)
				}
			}
			onlyIn(t, "native", states["native"], states["mkfs"])
			onlyIn(t, "mkfs", states["mkfs"], states["native"])
		})
	}
	u.leftovers()
}

func lineSet(text string) map[string]bool {
	set := map[string]bool{}
	for line := range strings.Lines(text) {
		set[strings.TrimSpace(line)] = true
	}
	return set
}

// onlyIn reports the lines of a builder's state that the other one's lacks.
func onlyIn(t *testing.T, builder string, lines, other map[string]bool) {
	t.Helper()
	for line := range lines {
		if !other[line] {
			t.Errorf("only the disk of the builder %s has: %s", builder, line)
		}
	}
}

// TestLostImageOfAVM: an image that a crash of the machine cost is made again with the same bytes, below a VM too; the builder
// that cannot do that leaves the VM alone.
func TestLostImageOfAVM(t *testing.T) {
	u := newUser(t).withKernel()
	reference := u.pushed(1).Address + "/team/tool:v1"
	for _, c := range []struct {
		builder string
		code    int
	}{{"native", 0}, {"mkfs", conflict}} {
		name := "tool-" + c.builder
		pull := []string{"image", "pull", reference, "--name", name, "--builder", c.builder}
		u.must(pull...)
		u.must("vm", "create", "--name", "box-"+c.builder, name, "true")
		image := u.inspectImage(name)
		if err := os.WriteFile(filepath.Join(filepath.Dir(image.Disk), "unsettled"), []byte("another boot"), 0o600); err != nil {
			t.Fatal(err)
		}
		got := u.run(pull...)
		if got.code != c.code || c.code != 0 && !strings.Contains(got.stderr, "vm rm box-"+c.builder) {
			t.Errorf("%s: pulling a lost image of which there is a VM: got %v, want the exit code %d", c.builder, got, c.code)
		}
		u.must("vm", "rm", "box-"+c.builder)
		u.must(pull...)
		if again := u.inspectImage(name); c.code == 0 && again.SHA256 != image.SHA256 {
			t.Errorf("%s: the disk that was made again has the SHA-256 %s, not %s", c.builder, again.SHA256, image.SHA256)
		}
	}
}
