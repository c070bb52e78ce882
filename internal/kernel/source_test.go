package kernel

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// hostRoot returns a root file system with the files, whose running kernel is testRelease.
func hostRoot(t *testing.T, files map[string][]byte) string {
	t.Helper()
	root := t.TempDir()
	files["proc/sys/kernel/osrelease"] = []byte(testRelease + "\n")
	writeFiles(t, root, files)
	return root
}

func TestFromHost(t *testing.T) {
	debian := kernelFiles("lib/modules")
	fedora := kernelFiles("lib/modules")
	fedora["lib/modules/"+testRelease+"/vmlinuz"] = bzImage(testRelease)
	delete(fedora, "boot/vmlinuz-"+testRelease)
	for name, files := range map[string]map[string][]byte{"boot": debian, "lib/modules": fedora} {
		root := hostRoot(t, files)
		for _, link := range []string{"build", "source"} {
			if err := os.Symlink("/usr/src/linux", filepath.Join(root, "lib/modules", testRelease, link)); err != nil {
				t.Fatal(err)
			}
		}
		k := importInto(t, NewStore(t.TempDir()), "", FromHost(root))
		if k.Version != testRelease || k.Modules != 10 {
			t.Errorf("vmlinuz in %s: version %q with %d modules, want %q with 10", name, k.Version, k.Modules, testRelease)
		}
		if tree := modulesOf(t, k); strings.Contains(tree, "/build") || !strings.Contains(tree, "/modules.dep.bin ") {
			t.Errorf("vmlinuz in %s: the tree has the link, or lacks an index:\n%s", name, tree)
		}
	}
}

func TestFromHostRefused(t *testing.T) {
	onlyImage := map[string][]byte{"boot/vmlinuz-" + testRelease: bzImage(testRelease)}
	noImage := kernelFiles("lib/modules")
	delete(noImage, "boot/vmlinuz-"+testRelease)
	for _, test := range []struct {
		name, root, text string
	}{
		{"a container", hostRoot(t, map[string][]byte{}), "no modules"},
		{"no modules", hostRoot(t, onlyImage), "no modules"},
		{"no kernel", hostRoot(t, noImage), "no vmlinuz"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewStore(t.TempDir())
			_, err := s.Import(t.Context(), "", FromHost(test.root), listing, testTime())
			wantFault(t, err, fault.NotFound, test.text, "linux-image")
			wantEntries(t, s)
		})
	}
}

// TestOpenImageSecret: Ubuntu's kernels are for root alone; the hint is a line that works.
func TestOpenImageSecret(t *testing.T) {
	root := hostRoot(t, kernelFiles("lib/modules"))
	image := filepath.Join(root, "boot/vmlinuz-"+testRelease)
	if err := os.Chmod(image, 0); err != nil {
		t.Fatal(err)
	}
	err := asNobody(t, func() error {
		_, err := openImage(image, "/lib/modules/x")
		return err
	})
	wantFault(t, err, fault.Failure, "permission denied",
		"sudo install -m 644 "+image+" . && banger kernel import --vmlinuz vmlinuz-"+testRelease+" --modules /lib/modules/x")
}

// asNobody runs f without root's right to read every file.
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	if os.Getuid() != 0 {
		return f()
	}
	result := make(chan error)
	go func() {
		// The thread ends with this goroutine, since it stays locked to it.
		runtime.LockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Errorf("giving up root's rights: %v", err)
		}
		result <- f()
	}()
	return <-result
}

func TestFromFilesRefused(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"vmlinuz": bzImage(testRelease), "text": []byte("hello")})
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, test := range []struct {
		name, vmlinuz, modules string
		kind                   fault.Kind
		text                   string
	}{
		{"no kernel", path("none"), dir, fault.NotFound, "none"},
		{"a text", path("text"), dir, fault.Unsupported, "neither a bzImage"},
		{"no modules", path("vmlinuz"), path("none"), fault.NotFound, "none"},
		{"another directory", path("vmlinuz"), dir, fault.Unsupported, "lacks virtio_mmio"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewStore(t.TempDir())
			_, err := s.Import(t.Context(), "", FromFiles(test.vmlinuz, test.modules), listing, testTime())
			wantFault(t, err, test.kind, test.text, "")
			wantEntries(t, s)
		})
	}
}

// TestFromFilesAlone: a kernel without modules is taken at its word.
func TestFromFilesAlone(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string][]byte{"vmlinuz": bzImage("6.1.0")})
	k := importInto(t, NewStore(t.TempDir()), "", FromFiles(filepath.Join(dir, "vmlinuz"), ""))
	if k.Modules != 0 || k.ModulesImage() != "" {
		t.Errorf("it has %d modules in %q, want none", k.Modules, k.ModulesImage())
	}
	if list := run(t, readFile(t, k.Initramfs()), "cpio", "--quiet", "-t"); list != "banger\nbanger/modules.list\n" {
		t.Errorf("the initramfs has %q, want an empty list of modules", list)
	}
}
