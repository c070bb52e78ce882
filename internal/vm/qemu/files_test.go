package qemu

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	guestfiles "github.com/banger-vm/banger/internal/guest/files"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// copying is a way to copy through a machine's channel.
type copying func(context.Context, net.Conn, string, string, guestfiles.Options) (guestfiles.Result, error)

// copyThrough copies and returns how long it took.
func copyThrough(t testing.TB, m *Machine, way copying, src, dest string, o guestfiles.Options) (time.Duration, error) {
	t.Helper()
	stream, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = way(t.Context(), stream, src, dest, o)
	return time.Since(began), err
}

// TestCopyTree: a tree with all that a file system has goes into a guest and comes back as it was, and the guest's disk
// has it.
func TestCopyTree(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "only root can make files of every owner")
	}
	m := start(t, theKit(t).spec(t))
	dir := t.TempDir()
	script(t, dir, `mkdir -p src/d/empty; cd src; echo hello >d/file; ln d/file d/link; ln -s nothing/at/all d/symlink; mkfifo d/pipe
		mknod d/null c 1 3; mknod d/loop b 7 300; echo s >setuid; chown 1234:70000 setuid d; chmod 6755 setuid; chmod 3777 d
		printf x >$'odd\xff\n name'; truncate -s 2G sparse; printf x | dd of=sparse bs=1 seek=1G conv=notrunc status=none
		setfattr -n user.x -v 1 d/file; setfattr -n trusted.x -v 2 d; setcap cap_net_raw+ep setuid; setfacl -m u:7:r,d:u:8:rwx d
		for i in $(seq 500); do echo $i >d/empty/$i; done; touch -d '1999-12-31 23:59:59.123456789' d/file; touch -h -d '2001-01-01 00:00:00.5' d/symlink d .`)
	archive := guestfiles.Options{Archive: true}
	if _, err := copyThrough(t, m, guestfiles.CopyIn, dir+"/src", "/copied", archive); err != nil {
		t.Fatal(err)
	}
	if _, err := copyThrough(t, m, guestfiles.CopyOut, "copied", dir+"/back", archive); err != nil {
		t.Fatal(err)
	}
	script(t, dir, `rsync -aHAXn --numeric-ids -i -c --delete src/ back/ >differs; cat differs; test ! -s differs
		test $(stat -c %b back/sparse) -lt 100`)
	if err := m.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	script(t, dir, `mkdir disk; mount -o ro,loop `+rawDisk(t, m)+` disk; trap 'umount disk' EXIT
		rsync -aHAXn --numeric-ids -i -c --delete src/ disk/copied/ >differs; cat differs; test ! -s differs; test $(stat -c %b disk/copied/sparse) -lt 100`)
}

// script runs a shell script and fails the test with its output.
func script(t testing.TB, dir, text string) {
	t.Helper()
	cmd := exec.Command("bash", "-euc", text)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestCopyFull: a file that is larger than the guest's disk ends with an error of the guest while it is sent, and takes no
// space afterwards. The channel goes on.
func TestCopyFull(t *testing.T) {
	m := start(t, theKit(t).spec(t))
	dir := t.TempDir()
	script(t, dir, "head -c 300M /dev/zero >large; echo 1 >small")
	_, err := copyThrough(t, m, guestfiles.CopyIn, dir+"/large", "/", guestfiles.Options{})
	if guestfiles.ReasonOf(err) != frame.NoSpace {
		t.Fatalf("got the error %v, want one that says that the disk is full", err)
	}
	for _, name := range []string{"large", "small"} {
		_, err := copyThrough(t, m, guestfiles.CopyOut, name, dir+"/got", guestfiles.Options{})
		if guestfiles.ReasonOf(err) != frame.NotFound {
			t.Errorf("copying /%s, which there is not, gave %v", name, err)
		}
	}
	if _, err := copyThrough(t, m, guestfiles.CopyIn, dir+"/small", "/", guestfiles.Options{}); err != nil {
		t.Errorf("after the disk was full: %v", err)
	}
}

// TestCopySpeed copies a file of BANGER_TEST_COPY MiB, or a small one, each way, and logs how fast. What comes back is
// what went in.
func TestCopySpeed(t *testing.T) {
	size := 32
	if text := os.Getenv("BANGER_TEST_COPY"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	spec := theKit(t).spec(t)
	spec.DiskSize = 8 << 30
	m := start(t, spec)
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	script(t, dir, "head -c "+strconv.Itoa(size)+"M /dev/urandom >big")
	into, err := copyThrough(t, m, guestfiles.CopyIn, big, "/big", guestfiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out, err := copyThrough(t, m, guestfiles.CopyOut, "/big", dir+"/back", guestfiles.Options{})
	if err != nil {
		t.Fatal(err)
	}
	script(t, dir, "cmp big back")
	t.Logf("%d MiB: in %.1f MB/s, out %.1f MB/s", size, rate(size, into), rate(size, out))
	t.Logf("the agent: %s", bytes.TrimSpace([]byte(memoryOfAgent(t, m))))
}

func rate(size int, took time.Duration) float64 { return float64(size<<20) / 1e6 / took.Seconds() }

// memoryOfAgent returns what /proc says of the memory of the guest's process 1, which is the agent.
func memoryOfAgent(t testing.TB, m *Machine) string {
	var lines []byte
	for line := range bytes.Lines([]byte(show(t, m, "/proc/1/status"))) {
		if bytes.HasPrefix(line, []byte("VmHWM")) || bytes.HasPrefix(line, []byte("VmRSS")) {
			lines = append(lines, line...)
		}
	}
	return string(lines)
}
