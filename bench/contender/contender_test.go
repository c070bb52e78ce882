package contender

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// input makes the three forms of a small tree.
func input(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "sh", "-c", `mkdir -p "$1/tree/d" && echo content >"$1/tree/d/file" && ln -s file "$1/tree/d/link" &&
		tar -C "$1/tree" -cf "$1/rootfs.tar" . && ../../scripts/oci-layout.sh "$1/oci" small "$1/rootfs.tar"`, "sh", dir)
	return dir
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Each contender makes a file system with the tree's file, and its measurement says what was waited for. e2fsck does not
// find that of hcsshim clean: its inode bitmap has no padding.
func TestRun(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	dir := input(t)
	tests := []struct {
		name          Name
		noSync        bool
		ready, synced bool
	}{
		{Mkfs, false, false, true},
		{Mkfs, true, true, false},
		{Builder, false, false, true},
		{Tar2ext4, false, true, true},
	}
	for _, tt := range tests {
		job := Job{Input: dir, Store: t.TempDir(), Out: filepath.Join(t.TempDir(), "out"), Size: 64 << 20, NoSync: tt.noSync}
		m, err := Run(context.Background(), tt.name, job)
		if err != nil {
			t.Fatal(err)
		}
		if (m.Ready > 0) != tt.ready || (m.Synced > 0) != tt.synced || m.CPU <= 0 {
			t.Errorf("%s without syncing %t: measured %+v", tt.name, tt.noSync, m)
		}
		if m.Memory < 1<<20 || m.Memory > 1<<30 || m.Stored < 16<<10 || m.Stored > job.Size {
			t.Errorf("%s: measured %d bytes of memory, and a file that takes %d", tt.name, m.Memory, m.Stored)
		}
		if tt.name != Tar2ext4 {
			run(t, "e2fsck", "-fn", job.Out)
		}
		if got := run(t, "debugfs", "-R", "cat /d/file", job.Out); !strings.HasSuffix(got, "\ncontent\n") {
			t.Errorf("%s: /d/file has the content %q", tt.name, got)
		}
	}
}

func TestUnknownContender(t *testing.T) {
	if _, err := Run(context.Background(), "tortoise", Job{}); err == nil {
		t.Error("there is a contender called tortoise")
	}
}
