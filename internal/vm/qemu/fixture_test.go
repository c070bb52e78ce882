package qemu

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm"
)

// excused reports whether BANGER_TEST_EXCUSE has the reason.
func excused(reason string) bool {
	return slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), reason)
}

// missing fails the test for what it lacks, or skips it if that is excused.
func missing(t testing.TB, reason, what string) {
	t.Helper()
	if excused(reason) {
		t.Skip(what)
	}
	t.Fatalf("%s (put %q into BANGER_TEST_EXCUSE to skip)", what, reason)
}

func newRunner() *system.CommandRunner { return system.NewCommandRunner(os.Getenv("PATH")) }

// run runs a program of the host to its end.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if _, err := newRunner().Run(context.Background(), system.Command{Name: name, Args: args}); err != nil {
		t.Fatal(err)
	}
}

// kit is what the boot tests boot: a kernel, an initramfs and an image from scratch. The tests share it and do not
// write to it.
type kit struct {
	dir       string
	vmlinuz   string
	initramfs string
	root      string // image with agent and guesttool
	agent     string // program
	tool      string // program
}

// sharedKit is made by the first test that needs it and removed by TestMain.
var sharedKit struct {
	once sync.Once
	kit
}

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedKit.dir != "" {
		_ = os.RemoveAll(sharedKit.dir)
	}
	os.Exit(code)
}

// theKit returns the kit. The kernel comes from the Debian package that BANGER_TEST_KERNEL_DEB names.
func theKit(t testing.TB) kit {
	t.Helper()
	deb := os.Getenv("BANGER_TEST_KERNEL_DEB")
	if deb == "" {
		missing(t, "kernel-deb", "BANGER_TEST_KERNEL_DEB does not name a kernel package")
	}
	if excused("boot") {
		t.Skip("boots are excused")
	}
	sharedKit.once.Do(func() {
		dir, err := os.MkdirTemp("", "banger-vm-")
		if err != nil {
			t.Fatal(err)
		}
		sharedKit.dir = dir
		sharedKit.kit = makeKit(t, deb, dir)
	})
	if sharedKit.root == "" {
		t.Fatal("what the boot tests boot could not be made")
	}
	return sharedKit.kit
}

func makeKit(t testing.TB, deb, dir string) kit {
	t.Helper()
	k := kit{
		dir: dir, initramfs: filepath.Join(dir, "initramfs.cpio"),
		agent: filepath.Join(dir, "banger-guest"), tool: filepath.Join(dir, "guesttool"),
	}
	run(t, "dpkg-deb", "-x", deb, filepath.Join(dir, "kernel"))
	k.vmlinuz = only(t, filepath.Join(dir, "kernel/boot/vmlinuz-*"))
	goBuild(t, k.agent, "../../../cmd/banger-guest")
	goBuild(t, k.tool, "./testdata/guesttool")
	packInitramfs(t, k.initramfs, k.agent, modules(t, filepath.Join(dir, "kernel")))
	k.root = makeRoot(t, filepath.Join(dir, "root"), map[string]string{
		"usr/lib/banger/banger-guest": k.agent, "bin/guesttool": k.tool,
	})
	return k
}

func goBuild(t testing.TB, out, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
}

// only returns the one file that matches.
func only(t testing.TB, pattern string) string {
	t.Helper()
	matches, err := filepath.Glob(pattern)
	if err != nil || len(matches) != 1 {
		t.Fatalf("%s matches %q (%v), want one file", pattern, matches, err)
	}
	return matches[0]
}

// modules returns the drivers in the order in which they depend on each other.
func modules(t testing.TB, kernel string) []string {
	t.Helper()
	tree := only(t, filepath.Join(kernel, "lib/modules/*/kernel"))
	var files []string
	for _, name := range []string{
		"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_mmio", "drivers/block/virtio_blk",
		"drivers/char/virtio_console", "net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net",
		"drivers/char/hw_random/virtio-rng",
	} {
		files = append(files, filepath.Join(tree, name+".ko"))
	}
	return files
}

// packInitramfs makes a cpio archive with init (no /init if it is "") and the modules.
func packInitramfs(t testing.TB, out, init string, modules []string) {
	t.Helper()
	var archive cpioWriter
	archive.directory("banger")
	var list []string
	for n, file := range modules { // named as package kernel does it
		name := fmt.Sprintf("%02d-%s", n, filepath.Base(file))
		list = append(list, name)
		archive.file("banger/"+name, read(t, file), 0o644)
	}
	archive.file("banger/modules.list", []byte(strings.Join(list, "\n")+"\n"), 0o644)
	if init != "" {
		archive.file("init", read(t, init), 0o755)
	}
	write(t, out, archive.close(), 0o644)
}

// makeRoot makes an ext4 image, dir.ext4, with the files (path in the image → file of the host), each executable.
func makeRoot(t testing.TB, dir string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, source := range files {
		target := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, target, read(t, source), 0o755)
	}
	image := dir + ".ext4"
	run(t, "mkfs.ext4", "-F", "-q", "-d", dir, "-E", "root_owner=0:0", image, "128M")
	return image
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t testing.TB, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

// privateDir returns a short path with mode 0700.
func privateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// spec is a machine that boots the kit.
func (k kit) spec(t testing.TB) vm.Spec {
	t.Helper()
	return k.specIn(privateDir(t), privateDir(t))
}

func (k kit) specIn(dir, runtimeDir string) vm.Spec {
	return vm.Spec{
		Name: "test", Dir: dir, RuntimeDir: runtimeDir, Hostname: "guest-of-test",
		Vmlinuz: k.vmlinuz, Initramfs: k.initramfs, RootImage: k.root, Init: "/usr/lib/banger/banger-guest",
		CPUs: 2, MemoryMiB: 256, Network: true, BootTimeout: bootLimit,
	}
}

const bootLimit = 90 * time.Second

// start boots a machine that the test's end kills.
func start(t testing.TB, spec vm.Spec) *Machine {
	t.Helper()
	m, err := Start(t.Context(), newRunner(), spec, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Kill()
		<-m.Done()
	})
	return m
}
