package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waitMarker makes the test binary a process that does nothing but wait, see TestWaitForever.
const waitMarker = "BANGER_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(waitMarker) != "" {
		waitForever()
	}
	os.Exit(m.Run())
}

// TestWaitForever: Go does not take the waiting for a deadlock. It looks for one only in a program without cgo, as the
// agent is.
func TestWaitForever(t *testing.T) {
	program := filepath.Join(t.TempDir(), "agent.test")
	build := osexec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building this test without cgo: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	cmd := osexec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), waitMarker+"=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() == nil {
		t.Errorf("the waiting ended by itself: %v\n%s", err, out)
	}
}

// makeFiles makes "dir/", "file" and "link -> target" below root.
func makeFiles(t *testing.T, root string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		name, target, isLink := strings.Cut(line, " -> ")
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseCommandLine(t *testing.T) {
	tests := []struct {
		text string
		want commandLine
	}{
		{"", commandLine{}},
		{"console=ttyS0 quiet\n", commandLine{}},
		{"a banger.init=/sbin/init  banger.hostname=vm banger.net=1,2,3 banger.magic=00ff\n", commandLine{init: "/sbin/init", hostname: "vm", net: "1,2,3", magic: "00ff"}},
		{"banger.init=/a=b banger.init=/c=d", commandLine{init: "/c=d"}},
		{"banger.init=/a banger.grow banger.modules", commandLine{init: "/a", grow: true, modules: true}},
		{"banger.init=/a banger.spawn", commandLine{init: "/a", spawn: true}},
		{"banger.grown banger.initx=/a xbanger.init=/b banger.magic", commandLine{}},
	}
	for _, test := range tests {
		if got := parseCommandLine(test.text); got != test.want {
			t.Errorf("parsing %q gave %+v, want %+v", test.text, got, test.want)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	n, err := parseNetwork("10.0.2.15/24,10.0.2.2,10.0.2.3")
	if got := fmt.Sprint(n.address, n.gateway, n.dns, err); got != "10.0.2.15/24 10.0.2.2 10.0.2.3 <nil>" {
		t.Errorf("got %s", got)
	}
	for _, bad := range []string{"", "10.0.2.15,10.0.2.2,10.0.2.3", "10.0.2.15/24,10.0.2.2", "10.0.2.15/33,10.0.2.2,10.0.2.3", "10.0.2.15/24,x,10.0.2.3", "10.0.2.15/24,10.0.2.2,", "a/24,b,c,d", "fd00::2/64,10.0.2.2,10.0.2.3"} {
		if n, err := parseNetwork(bad); err == nil {
			t.Errorf("parsing %q gave %v, want an error", bad, n)
		}
	}
}

func TestParseMagic(t *testing.T) {
	want := [16]byte([]byte("0123456789abcdef"))
	if got, err := parseMagic(hex.EncodeToString(want[:])); err != nil || got != want {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
	for _, bad := range []string{"", "00", "zz", strings.Repeat("00", 17)} {
		if _, err := parseMagic(bad); err == nil {
			t.Errorf("parsing %q gave no error", bad)
		}
	}
}

func TestHosts(t *testing.T) {
	n, _ := parseNetwork("10.0.2.15/24,10.0.2.2,10.0.2.3")
	for _, test := range []struct {
		net  network
		want string
	}{{n, "\n10.0.2.15\tvm\n10.0.2.2\thost.banger.internal\n"}, {network{}, "\n127.0.1.1\tvm\n"}} {
		if got := hosts("vm", test.net); !strings.HasSuffix(got, test.want) || !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") {
			t.Errorf("with the network %v got %q, want localhost first and %q last", test.net, got, test.want)
		}
	}
}

func TestResolveIn(t *testing.T) {
	root := t.TempDir()
	makeFiles(t, root, "usr/lib/modules/", "lib -> usr/lib", "abs -> /usr/lib", "up -> ../../../usr", "deep/down -> ../lib/modules",
		"loop -> loop", "gone -> /nowhere/at/all", "usr/file")
	tests := []struct{ path, want string }{
		{"/lib/modules", "/usr/lib/modules"},
		{"lib", "/usr/lib"},
		{"/abs/modules", "/usr/lib/modules"},
		{"/up/lib", "/usr/lib"},
		{"/deep/down", "/usr/lib/modules"},
		{"/gone/file", "/nowhere/at/all/file"},
		{"/not/there", "/not/there"},
		{"/../../etc", "/etc"},
		{"/lib/../x", "/usr/x"},
		{"/", "/"},
	}
	for _, test := range tests {
		want := filepath.Join(root, test.want)
		if got, err := resolveIn(root, test.path); err != nil || got != want {
			t.Errorf("resolving %q gave %q, %v, want %q", test.path, got, err, want)
		}
	}
	if got, err := resolveIn(root, "/loop/x"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("resolving a loop gave %q, %v, want %v", got, err, unix.ELOOP)
	}
}

func TestFindDisk(t *testing.T) {
	sysfs := t.TempDir()
	makeFiles(t, sysfs, "loop0/", "vda/", "vdb/")
	for disk, serial := range map[string]string{"vda": modulesSerial + "\n", "vdb": rootSerial} {
		if err := os.WriteFile(filepath.Join(sysfs, disk, "serial"), []byte(serial), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := waitForDisk(sysfs, rootSerial, 0); err != nil || got != "vdb" {
		t.Errorf("got %q, %v, want vdb", got, err)
	}
	if got, ok := findDisk(sysfs, "banger"); ok {
		t.Errorf("a part of a serial found %q, want nothing", got)
	}
	_, err := waitForDisk(sysfs, "other", 20*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "loop0, vda, vdb") {
		t.Errorf("error %v, want one that names the disks there are", err)
	}
	_, err = waitForDisk(t.TempDir(), "other", 0)
	if err == nil || !strings.Contains(err.Error(), "no disks at all") {
		t.Errorf("error %v, want one that says there are no disks", err)
	}
}

func TestWaitForDiskLate(t *testing.T) {
	sysfs := t.TempDir()
	time.AfterFunc(50*time.Millisecond, func() {
		_ = os.Mkdir(filepath.Join(sysfs, "vda"), 0o755)
		_ = os.WriteFile(filepath.Join(sysfs, "vda", "serial"), []byte(rootSerial), 0o644)
	})
	if got, err := waitForDisk(sysfs, rootSerial, 5*time.Second); err != nil || got != "vda" {
		t.Errorf("got %q, %v, want vda", got, err)
	}
}

// TestWhenReady: a disk that is not ready is waited for, and no other failure is.
func TestWhenReady(t *testing.T) {
	early := []error{unix.ENOENT, unix.ENXIO, unix.ENXIO}
	for _, c := range []struct {
		limit time.Duration
		then  error
		want  int
	}{{5 * time.Second, nil, 4}, {5 * time.Second, unix.EINVAL, 4}, {0, nil, 1}} {
		used := 0
		err := whenReady(c.limit, func() error {
			if used++; used <= len(early) {
				return early[used-1]
			}
			return c.then
		})
		want := c.then
		if c.want <= len(early) {
			want = early[c.want-1]
		}
		if used != c.want || !errors.Is(err, want) {
			t.Errorf("within %v: used %d times, got %v, want %d and %v", c.limit, used, err, c.want, want)
		}
	}
}

func TestUnmountOrder(t *testing.T) {
	const mounts = `proc /proc proc rw 0 0
devtmpfs /dev devtmpfs rw 0 0
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
/dev/vdb /lib/modules ext4 ro 0 0
cgroup2 /sys/fs/cgroup cgroup2 rw 0 0
overlay /mnt/with\040blank\134 overlay rw 0 0
tmpfs /run tmpfs rw 0 0
rootfs /usr/lib/banger/banger-guest rootfs rw 0 0
/dev/vdc /devices ext4 rw 0 0
server:/x /mnt/far nfs4 rw 0 0
files /mnt/sshfs fuse.sshfs rw 0 0
/dev/sda /mnt/near fuseblk rw 0 0
broken
`
	want := []mountpoint{
		{"/mnt/near", false}, {"/mnt/sshfs", true}, {"/mnt/far", true}, {"/devices", false}, {`/mnt/with blank\`, false}, {"/lib/modules", false},
	}
	if got := unmountOrder(mounts); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestInitOf(t *testing.T) {
	proc := t.TempDir()
	for _, test := range []struct {
		exe, comm string
		want      initKind
	}{
		{"/usr/lib/banger/banger-guest", "banger-guest", initGuest},
		{"/usr/lib/systemd/systemd", "systemd", initSystemd},
		{"/bin/busybox", "init", initOther},
	} {
		dir := filepath.Join(proc, test.comm)
		makeFiles(t, dir, "exe -> "+test.exe)
		if err := os.WriteFile(filepath.Join(dir, "comm"), []byte(test.comm+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := initOf(dir); got != test.want {
			t.Errorf("process 1 that runs %q is %q, want %q", test.exe, got, test.want)
		}
	}
}

func TestResolvedRuns(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		want  bool
	}{
		{"a plain file", []string{"etc/resolv.conf", "run/systemd/resolve/stub-resolv.conf"}, false},
		{"running", []string{"etc/resolv.conf -> ../run/systemd/resolve/stub-resolv.conf", "run/systemd/resolve/stub-resolv.conf"}, true},
		{"not started yet", []string{"etc/resolv.conf -> /run/systemd/resolve/stub-resolv.conf", "run/systemd/system/", "lib/systemd/systemd-resolved"}, true},
		{"under another init", []string{"etc/resolv.conf -> /run/systemd/resolve/stub-resolv.conf", "lib/systemd/systemd-resolved"}, false},
		{"not installed", []string{"etc/resolv.conf -> /run/systemd/resolve/stub-resolv.conf", "run/systemd/system/"}, false},
		{"nothing", nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			makeFiles(t, root, test.files...)
			if got := resolvedRuns(root); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPause(t *testing.T) {
	s := &supervisor{backoff: minBackoff, started: time.Now()}
	var got []time.Duration
	for range 9 {
		got = append(got, s.pause())
	}
	if got[0] != minBackoff || got[1] != 2*minBackoff || got[8] != maxBackoff {
		t.Errorf("an agent that ends at once waits %v, want from %v, doubled, to %v", got, minBackoff, maxBackoff)
	}
	s.started = time.Now().Add(-2 * maxBackoff)
	if got := s.pause(); got != minBackoff {
		t.Errorf("an agent that ran for long waits %v, want %v", got, minBackoff)
	}
}

// TestTakeSignals: process 1 lives on at every signal that anybody can send it, and shuts down at those that ask for that.
func TestTakeSignals(t *testing.T) {
	shutdown := takeSignals()
	defer signal.Reset()
	const last = 64 // _NSIG of include/uapi/asm/signal.h
	for number := syscall.Signal(1); number <= last; number++ {
		switch number {
		case syscall.SIGKILL, syscall.SIGSTOP, 32, 33, 34: // for which Go has no handler, so that process 1 gets none of them
		case syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2:
		default:
			if err := syscall.Kill(os.Getpid(), number); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, number := range []syscall.Signal{syscall.SIGTERM, syscall.SIGPWR} {
		if err := syscall.Kill(os.Getpid(), number); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-shutdown:
			if got != number {
				t.Errorf("the signal %v asks for the shutdown, want %v", got, number)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the signal %v does not ask for the shutdown", number)
		}
	}
}

// TestRestart: an agent that could not be started is started later, although process 1 has other children, of which none
// ends.
func TestRestart(t *testing.T) {
	t.Setenv(waitMarker, "1")
	s := &supervisor{agent: noChildren, ended: make(chan int), backoff: minBackoff, started: time.Now()}
	signals, done := make(chan os.Signal), make(chan struct{})
	go func() {
		defer close(done)
		s.run(signals)
	}()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
			break
		}
	}
	signals <- syscall.SIGTERM
	<-done
	if s.agent == noChildren {
		t.Fatal("the agent was not started within 10 s")
	}
	_ = syscall.Kill(s.agent, syscall.SIGKILL)
	if _, err := syscall.Wait4(s.agent, nil, 0, nil); err != nil {
		t.Errorf("waiting for the agent: %v", err)
	}
}

func TestWaitForAll(t *testing.T) {
	s := &supervisor{ended: make(chan int)}
	go func() {
		for _, pid := range []int{5, 6, noChildren} {
			s.ended <- pid
		}
	}()
	if !s.waitForAll(10 * time.Second) {
		t.Error("processes are left, want none")
	}
	if s.waitForAll(10 * time.Millisecond) {
		t.Error("no processes are left, want some")
	}
}

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	c := console{&b}
	c.step("root")
	c.say("no %s", "luck")
	if got, want := b.String(), "banger-guest: step root\nbanger-guest: no luck\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMainWithoutRole(t *testing.T) {
	if got := Main([]string{"banger-guest"}, 12345); got != 2 {
		t.Errorf("started by hand, the agent's exit code is %d, want 2", got)
	}
}

func TestLinkDevices(t *testing.T) {
	dev := t.TempDir()
	makeFiles(t, dev, "stdin")
	if err := linkDevices(dev); err != nil {
		t.Errorf("error %v, want none, although stdin is there", err)
	}
	if got, err := os.Readlink(filepath.Join(dev, "fd")); err != nil || got != "/proc/self/fd" {
		t.Errorf("fd leads to %q, %v, want /proc/self/fd", got, err)
	}
}

// inNamespace runs the calling test again, as root of a user, mount and network namespace of its own, and reports whether this
// is that run. It takes no privileges where the kernel lets users make namespaces.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "BANGER_TEST_NAMESPACE"
	if os.Getenv(marker) != "" {
		return true
	}
	cmd := osexec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL):
		excuse(t, "userns", fmt.Sprintf("making a namespace: %v", err))
	default:
		t.Errorf("in a namespace: %v\n%s", err, out)
	}
	return false
}

// excuse skips the test if BANGER_TEST_EXCUSE lists the reason, and fails it otherwise.
func excuse(t *testing.T, reason, text string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), reason) {
		t.Skip(text)
	}
	t.Fatal(text)
}

func TestOverlay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	root := t.TempDir()
	makeFiles(t, root, "etc/hosts", "etc/resolv.conf -> /elsewhere/resolv.conf")
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"} {
		for range 2 { // the second time by an agent that was restarted
			if err := overlay(root, file, "new "+file); err != nil {
				t.Errorf("putting %q in place: %v", file, err)
			}
		}
		target, err := resolveIn(root, file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(target); err != nil || string(got) != "new "+file {
			t.Errorf("%q has %q, %v, want %q", file, got, err, "new "+file)
		}
		if err := unix.Unmount(target, 0); err != nil {
			t.Errorf("unmounting %q, which is mounted once: %v", file, err)
		}
		if got, err := os.ReadFile(target); err != nil || len(got) != 0 {
			t.Errorf("the image's own %q has %q, %v, want it as it was: empty", file, got, err)
		}
	}
}

func TestMountAll(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	root := t.TempDir()
	table := []mount{
		{"/dev/shm", "tmpfs", unix.MS_NOSUID, "mode=1777", 0o1777},
		{"/bad", "no-such-file-system", 0, "", 0o755},
		{"/run/banger", "tmpfs", unix.MS_NOSUID, "mode=755", 0o755},
	}
	for range 2 {
		err := mountAll(root, table)
		if err == nil || !strings.Contains(err.Error(), `"/bad"`) || strings.Contains(err.Error(), "/run") {
			t.Errorf("error %v, want one about /bad only", err)
		}
	}
	info, err := os.Stat(filepath.Join(root, "/dev/shm"))
	if err != nil || info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("/dev/shm is %v, %v, want mode 1777", info, err)
	}
	for _, dir := range []string{"/dev/shm", "/run/banger"} {
		if err := unix.Unmount(filepath.Join(root, dir), 0); err != nil || mounted(filepath.Join(root, dir)) {
			t.Errorf("unmounting %q, which is mounted once: %v", dir, err)
		}
	}
}

// TestMountModules: the directory is made only in a /lib that is there.
func TestMountModules(t *testing.T) {
	root := t.TempDir()
	none := func() (string, error) { return "", errors.New("there is no disk") }
	if err := mountModules(none, root); err != nil {
		t.Errorf("an image without /lib: error %v, want none", err)
	}
	if exists(filepath.Join(root, "lib")) {
		t.Error("/lib was made, want it left out")
	}
	makeFiles(t, root, "usr/lib/", "lib -> usr/lib")
	if err := mountModules(none, root); err == nil {
		t.Error("mounting no disk gave no error")
	}
	if !exists(filepath.Join(root, "usr/lib/modules")) {
		t.Error("/usr/lib/modules was not made")
	}
}
