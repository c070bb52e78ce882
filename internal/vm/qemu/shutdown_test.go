package qemu

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/system"
)

// messyRoot makes a root image with what a shutdown has to cope with: modules that the guest may ask for, and an
// ext4 image in a file.
func (k kit) messyRoot(t *testing.T) string {
	t.Helper()
	tree := only(t, filepath.Join(k.dir, "kernel/lib/modules/*"))
	dir := filepath.Join(t.TempDir(), "root")
	modules := filepath.Join("lib/modules", filepath.Base(tree))
	index := filepath.Join(t.TempDir(), "index")
	write(t, index+".dep", []byte("kernel/drivers/block/loop.ko:\nkernel/fs/overlayfs/overlay.ko:\n"), 0o644)
	write(t, index+".alias", []byte("alias fs-overlay overlay\nalias char-major-10-237 loop\n"), 0o644)
	write(t, index+".devname", []byte("loop loop-control c10:237\n"), 0o644)
	inner := makeRoot(t, filepath.Join(t.TempDir(), "inner"), map[string]string{"hello": index + ".dep"})
	run(t, "truncate", "-s", "8M", inner)
	run(t, "mkfs.ext4", "-F", "-q", inner)
	files := map[string]string{
		"usr/lib/banger/banger-guest": k.agent, "bin/guesttool": k.tool, "inner.ext4": inner,
		modules + "/modules.dep": index + ".dep", modules + "/modules.alias": index + ".alias",
		modules + "/modules.devname": index + ".devname",
	}
	for _, module := range []string{"kernel/drivers/block/loop.ko", "kernel/fs/overlayfs/overlay.ko"} {
		files[filepath.Join(modules, module)] = filepath.Join(tree, module)
	}
	return makeRoot(t, dir, files)
}

// TestShutdown: whatever goes on in a guest, its disk is clean when it has powered off, and has what was written.
func TestShutdown(t *testing.T) {
	k := theKit(t)
	loop, overlay := []string{"mount-loop", "/inner.ext4", "/mnt"}, []string{"mount-overlay", "/layers"}
	tests := []struct {
		name  string
		mess  [][]string
		limit time.Duration
		files map[string]string // on the disk afterwards
		inner bool              // the image in a file is clean too
	}{
		{name: "idle", limit: 5 * time.Second},
		{name: "loop and overlay", mess: [][]string{loop, overlay}, limit: 6 * time.Second,
			files: map[string]string{"/layers/upperdir/file": "merged"}, inner: true},
		{name: "swap", mess: [][]string{{"swap-on", "/swap"}}, limit: 6 * time.Second},
		{name: "full disk", mess: [][]string{overlay, {"fill-disk", "/full"}}, limit: 5 * time.Second,
			files: map[string]string{"/layers/upperdir/file": "merged"}},
		{name: "processes that do not end", mess: [][]string{
			loop, overlay, {"linger", "stubborn", "/"}, {"linger", "stubborn", "/mnt"}, {"linger", "stubborn", "/layers/merged"},
		}, limit: 8 * time.Second, inner: true},
		{name: "process that cannot be killed", mess: [][]string{loop, {"linger", "stuck", "/mnt"}}, limit: 10 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := k.spec(t)
			spec.RootImage = k.messyRoot(t)
			m := start(t, spec)
			raw := shutDown(t, m, test.mess, test.limit)
			checkClean(t, raw)
			checkDisk(t, raw, "/written", "kept")
			for file, content := range test.files {
				checkDisk(t, raw, file, content)
			}
			if test.inner {
				inner := filepath.Join(t.TempDir(), "inner")
				run(t, "debugfs", "-R", "dump /inner.ext4 "+inner, raw)
				checkClean(t, inner)
				checkDisk(t, inner, "/inside", "inside")
			}
		})
	}
}

// shutDown makes the mess, powers the machine off, which may take no longer than limit, and returns its disk.
func shutDown(t *testing.T, m *Machine, mess [][]string, limit time.Duration) (raw string) {
	t.Helper()
	for _, command := range append([][]string{{"write", "kept", "/written"}}, mess...) {
		if _, errOut, code := in(t, m, nil, append([]string{"/bin/guesttool"}, command...)...); code != 0 {
			t.Fatalf("%q in the guest: %s\n%s", command, errOut, read(t, m.files.console))
		}
	}
	begin := time.Now()
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatalf("shutting down: %v\n%s", err, read(t, m.files.console))
	}
	took := time.Since(begin)
	t.Logf("from the request to the machine's end: %v", took.Round(time.Millisecond))
	if took > limit {
		t.Errorf("the shutdown took %v, want %v at most", took, limit)
	}
	return rawDisk(t, m)
}

// checkClean looks for anything that the next mount would have to recover: a journal with transactions, orphaned inodes,
// a missing mark of a clean file system.
func checkClean(t *testing.T, disk string) {
	t.Helper()
	run(t, "e2fsck", "-f", "-n", disk)
	result, err := newRunner().Run(t.Context(), system.Command{Name: "dumpe2fs", Args: []string{"-h", disk}})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(result.Stdout)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		features := name == "Filesystem features"
		if name == "Filesystem state" && value != "clean" || name == "First orphan inode" ||
			features && strings.Contains(value, "needs_recovery") || features && strings.Contains(value, "orphan_present") {
			t.Errorf("the disk is not clean: %s", line)
		}
	}
}
