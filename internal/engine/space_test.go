package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// TestFullDisk: where the disk has no room for a lock or a directory, the error says what to do about it.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		excuse(t, "mount", fmt.Sprintf("mounting a small disk: %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	e, err := New(Config{Home: filepath.Join(dir, "home"), RuntimeDir: t.TempDir(), Path: os.Getenv("PATH"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{T: t, Engine: e, ids: map[string]string{}}
	s.image("box", 1, "a", "box:1")
	prepared := filepath.Join(dir, "vm")
	s.must("preparing a VM", os.MkdirAll(prepared, 0o700))
	_, err = e.vms.Publish(prepared, instance.Config{Name: "web", ImageID: "other"})
	s.must("making a VM", err)
	s.fill(dir)
	for name, do := range map[string]func() error{
		"pull":    func() error { _, err := e.PullImage(t.Context(), "oci:x:y", PullOptions{}); return err },
		"rm":      func() error { _, err := e.RemoveImage(t.Context(), "box:1"); return err },
		"rm a VM": func() error { return e.RemoveVM(t.Context(), "web", false) },
		"prune":   func() error { _, err := e.PruneImages(t.Context(), PruneOptions{All: true}); return err },
	} {
		err := do()
		if fault.KindOf(err) != fault.NoSpace || !strings.Contains(fault.HintOf(err), "system df") {
			t.Errorf("%s on a full disk: got %v with the hint %q", name, err, fault.HintOf(err))
		}
	}
}

// TestDoctorEnds: the doctor does not wait for ever for who removes something large.
func TestDoctorEnds(t *testing.T) {
	e := newEngine(t)
	held, err := lock.Acquire(t.Context(), e.home.Path("tmp", ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	ended := make(chan error, 1)
	go func() {
		_, err := e.Doctor(ctx)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, why) {
			t.Errorf("the doctor ended with %v, want %v", err, why)
		}
	case <-time.After(30 * time.Second):
		t.Error("the doctor did not end")
	}
}

// fill leaves a small disk no room for another file.
func (s *shelf) fill(dir string) {
	s.Helper()
	var info unix.Statfs_t
	s.must("looking at the disk", unix.Statfs(dir, &info))
	s.must("filling the disk", unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("nr_inodes=%d", info.Files-info.Ffree)))
	if err := os.Mkdir(filepath.Join(dir, "more"), 0o700); !errors.Is(err, syscall.ENOSPC) {
		s.Fatalf("making one more directory: got %v, want ENOSPC", err)
	}
}

// excuse skips the test if the environment excuses the reason by its name, and fails it otherwise.
func excuse(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("excused %q: %s", name, reason)
	}
	t.Fatalf("%s (set BANGER_TEST_EXCUSE=%s to go on without)", reason, name)
}
