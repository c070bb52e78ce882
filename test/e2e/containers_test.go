package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// containers runs podman in a VM: an image from a tar of one program, and containers with each kind of network. Each line
// that it prints has a name, which says what is wrong if it is not there.
const containers = `set -e
root=$(mktemp -d); mkdir "$root/bin"; cp /bin/busybox "$root/bin/"; ln -s busybox "$root/bin/sh"
tar -c -C "$root" . | podman import -q - one >/dev/null
echo "storage: $(podman info --format '{{.Store.GraphDriverName}}')"
echo "propagation: $(findmnt -no PROPAGATION /)"
echo "files: $(ulimit -Sn) $(ulimit -Hn)"
for network in none host bridge; do
  podman run --rm --network $network one /bin/sh -c "echo network $network: \$(busybox id -u)"
done
echo "memory: $(podman run --rm --memory 64m one /bin/busybox cat /sys/fs/cgroup/memory.max)"
echo "processes: $(podman run --rm --pids-limit 99 one /bin/busybox cat /sys/fs/cgroup/pids.max)"
mkdir /srv/page; echo served >/srv/page/index.html
podman run -d --name server -p 8080:80 -v /srv/page:/page one /bin/busybox httpd -f -h /page >/dev/null
for try in 1 2 3 4 5 6 7 8 9 10; do page=$(busybox wget -q -O - http://127.0.0.1:8080/ 2>/dev/null) && break; sleep 1; done
echo "port: $page"
echo "exec: $(podman exec server /bin/busybox echo inside)"
podman stop -t 1 server >/dev/null
echo "left: $(podman ps -q | wc -l)"
for device in fuse net/tun; do : <>/dev/$device && echo "device $device: opens"; done`

// TestContainers: a container engine works in a VM, under banger's own init and under systemd.
func TestContainers(t *testing.T) {
	fixtures := fixture(t, "BANGER_TEST_CONTAINERS", "containers")
	u := newUser(t).withKernel()
	for _, init := range []string{"guest", "systemd"} {
		u.must("image", "pull", "oci:"+filepath.Join(fixtures, init)+":podman", "--name", init)
		got := u.must("vm", "run", "--rm", "--memory", "768MiB", init, "--", "sh", "-c", "cat /proc/1/comm; "+containers)
		process := map[string]string{"guest": "banger-guest", "systemd": "systemd"}[init]
		for _, want := range []string{
			process, "storage: overlay", "propagation: shared", "files: 1024 524288", "network none: 0", "network host: 0",
			"network bridge: 0", "memory: 67108864", "processes: 99", "port: served", "exec: inside", "left: 0",
			"device fuse: opens", "device net/tun: opens",
		} {
			if !strings.Contains("\n"+got, "\n"+want+"\n") {
				t.Errorf("init %s: want the line %q in\n%s", init, want, got)
			}
		}
	}
	u.leftovers()
}

// modules runs in an image whose modprobe was taken away: the kernel finds its modules all the same.
const modules = `set -e
rm /usr/sbin/modprobe
if grep -q '^overlay ' /proc/modules; then echo overlay is loaded already; fi
mkdir /lower /upper /work /merged
mount -t overlay -o lowerdir=/lower,upperdir=/upper,workdir=/work overlay /merged; echo overlay: mounted
ip link add type veth; ip link add type bridge; echo links: made
: <>/dev/fuse; : <>/dev/net/tun; echo devices: open
truncate -s 1M /disk; mount -t tmpfs none /tmp; losetup -f /disk; echo loop: $(losetup -n -O BACK-FILE)`

// TestModules: an image without modprobe, as most are, gets its modules loaded when something needs them.
func TestModules(t *testing.T) {
	fixtures := fixture(t, "BANGER_TEST_CONTAINERS", "containers")
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+filepath.Join(fixtures, "guest")+":podman", "--name", "guest")
	got := u.must("vm", "run", "--rm", "guest", "--", "sh", "-c", modules)
	if want := "overlay: mounted\nlinks: made\ndevices: open\nloop: /disk\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	u.leftovers()
}

// TestRenewedAgent: a VM runs the agent of the banger that boots it, whatever is in the image.
func TestRenewedAgent(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	disks, err := filepath.Glob(filepath.Join(u.home, "images", "*", "rootfs.ext4"))
	if err != nil || len(disks) != 1 {
		t.Fatalf("there are the disks %v (%v), want one", disks, err)
	}
	old := filepath.Join(u.dir, "old")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho this is an agent of long ago\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	commands := filepath.Join(u.dir, "commands")
	const agent = "/usr/lib/banger/banger-guest"
	text := "rm " + agent + "\nwrite " + old + " " + agent + "\nset_inode_field " + agent + " mode 0100755\n"
	if err := errors.Join(os.WriteFile(commands, []byte(text), 0o644), os.Chmod(disks[0], 0o644)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("debugfs", "-w", "-f", commands, disks[0]).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	got := u.must("vm", "run", "--rm", "alpine", "--", "sh", "-c",
		"umount -l "+agent+" && "+agent)
	if want := "this is an agent of long ago\n"; got != want {
		t.Errorf("under the running agent the image has one that prints %q, want %q", got, want)
	}
	u.leftovers()
}
