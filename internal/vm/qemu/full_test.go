package qemu

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	guestexec "github.com/banger-vm/banger/internal/guest/exec"
)

// TestFullHost: a guest learns that its disk has no more room on the host, and is not stopped in the middle for good.
func TestFullHost(t *testing.T) {
	k := theKit(t)
	dir := privateDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
		missing(t, "mount", "mounting a small disk: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	spec := k.specIn(dir, privateDir(t))
	m := start(t, spec)
	_, errOut, code := in(t, m, nil, "/bin/guesttool", "fill", "60", "/large")
	t.Logf("writing more than there is room for: exit code %d: %s", code, errOut)
	m.sync()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := m.Open(ctx)
	if err == nil {
		_, err = guestexec.Hello(ctx, stream)
	}
	if err != nil {
		t.Errorf("the guest does not answer any more: %v", err)
	}
	console, err := os.ReadFile(m.files.console)
	if err != nil || !strings.Contains(string(console), "I/O error") {
		t.Errorf("the guest's kernel does not know of it (%v):\n%s", err, console)
	}
}
