package imagepull

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needMount skips or fails a test that mounts, where it cannot.
func needMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if excused("mount") {
		t.Skip("mounting needs root; excused by BANGER_TEST_EXCUSE")
	}
	t.Fatal("mounting needs root; BANGER_TEST_EXCUSE=mount skips this test")
}

// mounted mounts an image until the test ends, with the options, and returns where. The kernel must not warn of the file
// system while it is mounted.
func mounted(t *testing.T, image string, options string) (dir string, unmount func()) {
	t.Helper()
	dir, end, complaints := mountedDamaged(t, image, options)
	checked := false
	return dir, func() {
		t.Helper()
		end()
		if found := complaints(); len(found) > 0 && !checked {
			t.Errorf("the kernel complains of the file system:\n%s", strings.Join(found, "\n"))
		}
		checked = true
	}
}

// mountedDamaged is mounted for an image of which the kernel may complain: complaints returns what it said.
func mountedDamaged(t *testing.T, image string, options string) (dir string, unmount func(), complaints func() []string) {
	t.Helper()
	needMount(t)
	log := openKernelLog(t)
	dir = t.TempDir()
	run(t, "mount", "-o", options, image, dir)
	device := deviceOf(t, dir)
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			umount(t, dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount, func() []string { return log.complaints(t, filepath.Base(device)) }
}

// umount unmounts. A process that another test is starting holds this one's open files until it executes its program.
func umount(t *testing.T, dir string) {
	t.Helper()
	for tries := 0; ; tries++ {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EBUSY) || tries == 500 {
			t.Fatalf("unmounting %s: %v", dir, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// deviceOf returns the device that is mounted at dir (proc(5), mountinfo: the mount point is the fifth field, the device
// the second after the dash).
func deviceOf(t *testing.T, dir string) string {
	t.Helper()
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	device := ""
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		before, after, _ := strings.Cut(scanner.Text(), " - ")
		if fields := strings.Fields(before); len(fields) > 4 && fields[4] == dir {
			device = strings.Fields(after)[1]
		}
	}
	if device == "" {
		t.Fatalf("nothing is mounted at %s", dir)
	}
	return device
}

// kernelLog reads what the kernel says from when it was opened (Documentation/ABI/testing/dev-kmsg).
type kernelLog struct{ fd int }

func openKernelLog(t *testing.T) kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, unix.SEEK_END)
	}
	if err != nil {
		t.Fatalf("opening the kernel's log: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return kernelLog{fd}
}

// complaints returns the messages of the level warning or worse about ext4, or its journal, on a device.
func (l kernelLog) complaints(t *testing.T, device string) []string {
	t.Helper()
	const warning = 4
	var found []string
	for record := make([]byte, 8192); ; {
		n, err := unix.Read(l.fd, record)
		if errors.Is(err, unix.EAGAIN) {
			return found
		}
		if errors.Is(err, unix.EPIPE) { // the oldest were overwritten
			continue
		}
		if err != nil {
			t.Fatalf("reading the kernel's log: %v", err)
		}
		// "PRIORITY,SEQUENCE,TIME,FLAGS;TEXT\n"; the three lowest bits of the priority are the level.
		head, text, _ := strings.Cut(string(record[:n]), ";")
		priority, _, _ := strings.Cut(head, ",")
		level, err := strconv.Atoi(priority)
		if err != nil {
			t.Fatalf("the kernel's log has %q", record[:n])
		}
		about := strings.Contains(text, device+")") || strings.Contains(text, device+"-") || strings.Contains(text, device+":")
		if level&7 <= warning && about {
			found = append(found, strings.TrimSpace(text))
		}
	}
}

// openAt opens the directory of the host that a path of the mounted image leads to, however long the path is.
func openAt(root, path string) (fd int, err error) {
	fd, err = unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if err != nil || name == "" {
			break
		}
		next, errNext := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		_ = unix.Close(fd)
		if fd, err = next, errNext; err != nil {
			err = fmt.Errorf("opening %q: %w", name, err)
		}
	}
	return fd, err
}
