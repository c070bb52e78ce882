package kernel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInitramfs: cpio unpacks both parts, and finds in them what the guest expects.
func TestInitramfs(t *testing.T) {
	k := importInto(t, NewStore(t.TempDir()), "", testSource(t, testRelease))
	modules := readFile(t, k.Initramfs())
	list := run(t, modules, "cpio", "--quiet", "-tv", "--numeric-uid-gid")
	for _, want := range []string{" banger/00-virtio.ko\n", " banger/05-ext4.ko\n", " banger/modules.list\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("the initramfs lacks %q:\n%s", want, list)
		}
	}
	dir := t.TempDir()
	unpackCPIO(t, modules, dir)
	names := strings.Fields(string(readFile(t, filepath.Join(dir, "banger/modules.list"))))
	if len(names) != 9 {
		t.Errorf("the list names %q, want 9 modules", names)
	}
	for _, name := range names {
		if data := readFile(t, filepath.Join(dir, "banger", name)); !bytes.HasPrefix(data, []byte("\x7fELF")) {
			t.Errorf("%s is no module: %.20q", name, data)
		}
	}
	if got := readFile(t, filepath.Join(dir, "banger/05-ext4.ko")); !bytes.Equal(got, testModules()["kernel/fs/ext4/ext4.ko"]) {
		t.Errorf("ext4 has other bytes in the initramfs than in the source: %d, want %d", len(got), len(testModules()["kernel/fs/ext4/ext4.ko"]))
	}
}

func unpackCPIO(t *testing.T, archive []byte, dir string) {
	t.Helper()
	cmd := exec.Command(tool(t, "cpio"), "--quiet", "-idm")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpacking the initramfs: %v\n%s", err, out)
	}
}

func TestInitramfsWithInit(t *testing.T) {
	first := bytes.Repeat([]byte("f"), 100) // not a multiple of a block
	init := []byte("#!/bin/sh\n")
	var got bytes.Buffer
	if err := InitramfsWithInit(bytes.NewReader(first), init, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got.Bytes(), first) || got.Len()%cpioBlock != 0 {
		t.Fatalf("it has %d bytes and does not begin with the first part, or does not end at a block", got.Len())
	}
	list := run(t, got.Bytes()[cpioBlock:], "cpio", "--quiet", "-tv", "--numeric-uid-gid")
	want := []string{"drwxr-xr-x 2 0 0 0 dev", "crw------- 1 0 0 5, 1 dev/console", "-rwxr-xr-x 1 0 0 10 init"}
	lines := strings.Split(strings.TrimSpace(list), "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		date := len(fields) - 4 // "Jan 1 1970" before the name
		lines[i] = strings.Join(append(fields[:date:date], fields[len(fields)-1]), " ")
	}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("the members are\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestInitramfsWithInitFails(t *testing.T) {
	if err := InitramfsWithInit(bytes.NewReader(nil), []byte("x"), failing{}); err == nil {
		t.Error("a writer that fails was not noticed")
	}
}
