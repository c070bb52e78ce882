package forward

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestWithoutIPv6: in a guest that has IPv4 alone nothing listens where IPv4 says so.
func TestWithoutIPv6(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	bringUp(t, "lo")
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"", "localhost"} {
		_, refused := connect(t.Context(), endpoint{tcp, host + ":1"})
		if refused == nil || refused.Reason != frame.NotFound || !strings.Contains(refused.Message, "nothing listens on") {
			t.Errorf("connecting to %q:1 is refused by %+v, not because nothing listens", host, refused)
		}
	}
	_, refused := connect(t.Context(), endpoint{tcp, "[::1]:1"})
	if refused == nil || refused.Reason != frame.Failed {
		t.Errorf("connecting to an address that is not there is refused by %+v", refused)
	}
}

func bringUp(t *testing.T, card string) {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(socket) }()
	up, err := unix.NewIfreq(card)
	if err != nil {
		t.Fatal(err)
	}
	up.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, up); err != nil {
		t.Fatal(err)
	}
}

// inNamespace runs the calling test again, as root of a user and network namespace of its own, and reports whether this is that
// run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "BANGER_TEST_NAMESPACE"
	if os.Getenv(marker) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL):
		if !slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), "userns") {
			t.Fatalf("making a namespace: %v", err)
		}
		t.Skipf("making a namespace: %v", err)
	default:
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
	return false
}
