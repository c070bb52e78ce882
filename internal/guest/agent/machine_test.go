package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountRun: /run begins with what the image has there and forgets what was added when it is unmounted.
func TestMountRun(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	root := t.TempDir()
	makeFiles(t, root, "run/lock/", "run/service/file", "run/link -> /elsewhere")
	file := filepath.Join(root, "run/service/file")
	if err := errors.Join(os.WriteFile(file, []byte("text"), 0o600), os.Chmod(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "run/lock"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(root, "run/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := mountRun(root); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	info, _ := os.Stat(file)
	if err != nil || string(text) != "text" || info.Mode() != 0o600 {
		t.Errorf("the image's file is %q (%v), want its text and the mode 0600", text, err)
	}
	if info, err := os.Stat(filepath.Join(root, "run/lock")); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("/run/lock is %v, %v, want mode 1777", info, err)
	}
	if link, err := os.Readlink(filepath.Join(root, "run/link")); err != nil || link != "/elsewhere" {
		t.Errorf("the link leads to %q, %v", link, err)
	}
	if exists(filepath.Join(root, "run/pipe")) {
		t.Error("a pipe was copied")
	}
	makeFiles(t, root, "run/new")
	if err := unix.Unmount(filepath.Join(root, "run"), 0); err != nil || exists(filepath.Join(root, "run/new")) {
		t.Errorf("what was made in /run is on the disk (unmounting: %v)", err)
	}
}

// TestMountRunTooLarge: an image with much in /run keeps it.
func TestMountRunTooLarge(t *testing.T) {
	root := t.TempDir()
	makeFiles(t, root, "run/big")
	if err := os.Truncate(filepath.Join(root, "run/big"), maxVolatile+1); err != nil {
		t.Fatal(err)
	}
	if err := mountRun(root); err == nil || !strings.Contains(err.Error(), "too large") || mounted(filepath.Join(root, "run")) {
		t.Errorf("a /run of more than %d bytes gave %v, want it left alone", maxVolatile, err)
	}
}

func TestFindModules(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/fs/overlayfs/overlay.ko:\nkernel/net/stp.ko: kernel/net/llc.ko\nkernel/net/llc.ko:\n" +
			"kernel/net/bridge.ko: kernel/net/stp.ko kernel/net/llc.ko\nkernel/crypto/aes-x.ko.xz:\n",
		"modules.alias": "# Aliases\nalias fs-overlay overlay\nalias rtnl-link-bridge bridge\nalias pci:v0000*d* aes_x\nbroken\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]string{
		"overlay":          {"kernel/fs/overlayfs/overlay.ko"},
		"fs-overlay":       {"kernel/fs/overlayfs/overlay.ko"},
		"rtnl-link-bridge": {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"rtnl_link_bridge": {"kernel/net/llc.ko", "kernel/net/stp.ko", "kernel/net/bridge.ko"},
		"aes-x":            {"kernel/crypto/aes-x.ko.xz"},
		"pci:v00001d0002":  {"kernel/crypto/aes-x.ko.xz"},
		"fs-xfs":           nil,
		"":                 nil,
	} {
		if got := findModules(dir, []string{name}); !slices.Equal(got, want) {
			t.Errorf("for %q the kernel gets %q, want %q", name, got, want)
		}
	}
	if got := findModules(t.TempDir(), []string{"overlay"}); got != nil {
		t.Errorf("without modules the kernel gets %q", got)
	}
}

func TestIsModprobe(t *testing.T) {
	for line, want := range map[string]bool{
		"/x -q -- fs-overlay": true, "/x agent": false, "/x init": false, "/x": false, "/x -q fs-overlay": false,
	} {
		if got := isModprobe(strings.Fields(line)); got != want {
			t.Errorf("%q as the kernel's call of modprobe: %v, want %v", line, got, want)
		}
	}
}

func TestVirtualization(t *testing.T) {
	for text, want := range map[string]string{
		"flags\t\t: fpu vmx ssse3\n": "kvm_intel", "flags: svm fpu\n": "kvm_amd", "flags: fpu svmx\n": "",
	} {
		file := filepath.Join(t.TempDir(), "cpuinfo")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(virtualization(file), " "); got != want {
			t.Errorf("a CPU with %q needs %q, want %q", text, got, want)
		}
	}
}

func TestParseDevices(t *testing.T) {
	got := parseDevices("# Device nodes\nfuse fuse c10:229\ntun net/tun c10:200\nx mapper/x b252:3\nloop loop-control c10:237\n" +
		"bad ../out c1:1\nbad c1:1\n\nbad x c1\n")
	want := []device{
		{"fuse", unix.Mkdev(10, 229), unix.S_IFCHR | 0o666}, {"net/tun", unix.Mkdev(10, 200), unix.S_IFCHR | 0o666},
		{"mapper/x", unix.Mkdev(252, 3), unix.S_IFBLK | 0o600}, {"loop-control", unix.Mkdev(10, 237), unix.S_IFCHR | 0o600},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestDelegate: a controller that the kernel does not give up is named, and the others are given all the same.
func TestDelegate(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := delegate(dir); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err != nil || string(text) != "+pids" {
		t.Errorf("the last that was written is %q, %v, want +pids", text, err)
	}
	if err := os.Remove(filepath.Join(dir, "cgroup.subtree_control")); err != nil {
		t.Fatal(err)
	}
	makeFiles(t, dir, "cgroup.subtree_control/")
	if err := delegate(dir); err == nil || !strings.Contains(err.Error(), `"cpu"`) || !strings.Contains(err.Error(), `"pids"`) {
		t.Errorf("error %v, want one about each controller", err)
	}
}

// TestRenew: the running banger's agent is seen in the image, whose own stays on the disk.
func TestRenew(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	root, program := t.TempDir(), filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(program, []byte("new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if kept, err := renew(program, root); kept || err != nil {
		t.Errorf("in an image without an agent: kept %v, %v, want neither", kept, err)
	}
	makeFiles(t, root, "usr/lib/banger/banger-guest")
	agent := filepath.Join(root, agentPath)
	if kept, err := renew(program, root); !kept || err != nil {
		t.Fatalf("kept %v, %v, want true and no error", kept, err)
	}
	if text, err := os.ReadFile(agent); err != nil || string(text) != "new" {
		t.Errorf("the agent is %q, %v, want the new one", text, err)
	}
	if err := unix.Unmount(agent, 0); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(agent); err != nil || len(text) != 0 {
		t.Errorf("the image's own agent is %q, %v, want it as it was", text, err)
	}
}
