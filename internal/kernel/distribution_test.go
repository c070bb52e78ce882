package kernel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDistribution imports a distribution's own packages, and has others judge what comes of it.
func TestDistribution(t *testing.T) {
	root := t.TempDir()
	s := NewStore(t.TempDir())
	k, err := s.Import(t.Context(), "", FromDeb(realDebs(t)...), unpack(filepath.Join(root, "lib/modules")), testTime())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("boot", func(t *testing.T) { testBoot(t, k, k.Vmlinuz()) })
	t.Run("boot uncompressed", func(t *testing.T) {
		if k.Vmlinux() == "" {
			t.Fatal("there is no uncompressed kernel")
		}
		testBoot(t, k, k.Vmlinux())
	})
	t.Run("depmod", func(t *testing.T) { testIndexes(t, k, root) })
}

// testIndexes: kmod's depmod makes the same of the modules below root, and its modprobe reads what is made here.
func testIndexes(t *testing.T, k *Kernel, root string) {
	dir := filepath.Join(root, "lib/modules", k.Version)
	out := run(t, nil, "modprobe", "-d", root, "-S", k.Version, "--show-depends", "wireguard")
	if !strings.Contains(out, "/wireguard.ko") || !strings.Contains(out, "/ip6_udp_tunnel.ko") {
		t.Errorf("to load wireguard, modprobe would only do:\n%s", out)
	}
	ours := map[string][]byte{}
	for _, file := range madeFiles() {
		ours[file] = readFile(t, filepath.Join(dir, file))
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "depmod", "-b", root, k.Version)
	for _, file := range []string{"modules.alias", "modules.alias.bin", "modules.softdep", "modules.devname", "modules.builtin.bin",
		"modules.builtin.alias.bin"} {
		if theirs := readFile(t, filepath.Join(dir, file)); !bytes.Equal(ours[file], theirs) {
			t.Errorf("%s is not the one of depmod: %d bytes, want %d", file, len(ours[file]), len(theirs))
		}
	}
	// These two have an order of their own; the dependencies' is checked by TestLoadOrder.
	for _, file := range []string{"modules.dep", "modules.symbols"} {
		got, want := sortedWords(ours[file]), sortedWords(readFile(t, filepath.Join(dir, file)))
		if !slices.Equal(got, want) {
			t.Errorf("%s has other entries than the one of depmod: %d lines, want %d", file, len(got), len(want))
		}
	}
}

// sortedWords returns the lines of a text in order, and the words of each.
func sortedWords(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		words := strings.Fields(line)
		slices.Sort(words)
		lines[i] = strings.Join(words, " ")
	}
	slices.Sort(lines)
	return lines
}

// testBoot: the kernel, in one of its files, boots in QEMU, unpacks both parts, and loads the modules in their order; then the disk and the
// port are there.
func testBoot(t *testing.T, k *Kernel, image string) {
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", init, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the init: %v\n%s", err, out)
	}
	initramfs := filepath.Join(dir, "initramfs")
	var archive bytes.Buffer
	if err := InitramfsWithInit(bytes.NewReader(readFile(t, k.Initramfs())), readFile(t, init), &archive); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, dir, map[string][]byte{"initramfs": archive.Bytes(), "disk": make([]byte, 1<<20)})
	console := boot(t, image, initramfs, filepath.Join(dir, "disk"))
	for _, want := range []string{"init: ext4 true", "init: disk banger-root", "init: port banger.guest.0"} {
		if !strings.Contains(console, want) {
			t.Errorf("the guest does not say %q:\n%s", want, console)
		}
	}
	for line := range strings.Lines(console) {
		// A checksum that needs an instruction which the processor lacks is no mistake.
		if strings.Contains(line, "init: load") && !strings.Contains(line, "<nil>") && !strings.Contains(line, "no such device") {
			t.Errorf("a module does not load: %s", line)
		}
	}
}

// boot boots a kernel until it ends the machine, and returns what it printed. A machine without KVM sometimes does not
// come up at the first attempt.
func boot(t *testing.T, image, initramfs, disk string) string {
	t.Helper()
	qemu := tool(t, "qemu-system-x86_64")
	var console []byte
	for range 3 {
		cmd := exec.CommandContext(t.Context(), qemu, "-nodefaults", "-no-user-config", "-M", "microvm", "-accel", "tcg,thread=multi",
			"-cpu", "max", "-m", "512", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", image, "-initrd", initramfs,
			"-append", "console=ttyS0 panic=-1 reboot=t tsc_early_khz=2500000",
			"-drive", "id=d,if=none,format=raw,file="+disk, "-device", "virtio-blk-device,drive=d,serial=banger-root",
			"-device", "virtio-serial-device", "-chardev", "null,id=c", "-device", "virtserialport,chardev=c,name=banger.guest.0")
		timer := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Kill() })
		var err error
		console, err = cmd.CombinedOutput()
		if timer.Stop() && err == nil {
			return string(console)
		}
	}
	t.Fatalf("the machine did not end by itself, three times; last it printed:\n%s", console)
	return ""
}
