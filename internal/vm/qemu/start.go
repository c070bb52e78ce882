package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm"
)

const (
	// silenceLimit is how long the console may stay silent before the root's init runs. The longest silence in order is
	// the initramfs's wait for the root disk, of 20 s.
	silenceLimit = 40 * time.Second
	// watchInterval is how often the console is looked at.
	watchInterval = time.Second
	// pollInterval is how often files are looked at that QEMU makes.
	pollInterval = 5 * time.Millisecond
	// maxSocketPath is the size of sun_path less its final NUL, in bytes (unix(7)).
	maxSocketPath = 107
)

var (
	errEnded   = errors.New("the machine ended")
	errSilent  = errors.New("the console is silent")
	errTooLong = errors.New("the boot takes too long")
)

// Start boots a machine and returns when its agent answers. The machine ends with ctx, and with this process however
// that ends. random gives the secret of the channel's handshake.
//
// A machine that does not come up is a fault.Boot around a *vm.BootError, and leaves nothing but its logs in spec.Dir; the
// disk of an earlier start stays.
func Start(ctx context.Context, runner *system.CommandRunner, spec vm.Spec, random io.Reader) (*Machine, error) {
	if err := prepare(&spec); err != nil {
		return nil, err
	}
	var magic [channel.MagicSize]byte
	if _, err := io.ReadFull(random, magic[:]); err != nil {
		return nil, fmt.Errorf("making the channel's secret: %w", err)
	}
	m := &Machine{spec: spec, done: make(chan struct{}), log: filepath.Join(spec.Dir, Log), files: files{
		overlay: filepath.Join(spec.Dir, Overlay),
		console: filepath.Join(spec.Dir, "console.log"),
		socket:  filepath.Join(spec.RuntimeDir, "agent.sock"),
	}}
	if err := m.makeDisk(ctx, runner); err != nil {
		return nil, err
	}
	if err := m.launch(ctx, runner, magic); err != nil {
		m.removeNewDisk()
		return nil, err
	}
	if err := m.boot(ctx, magic); err != nil {
		m.cleanUp()
		return nil, err
	}
	go m.cleanUp()
	return m, nil
}

// prepare completes and checks the Spec.
func prepare(spec *vm.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if socket := filepath.Join(spec.RuntimeDir, "agent.sock"); len(socket) > maxSocketPath {
		err := fmt.Errorf("checking the runtime directory: the socket %q has more than %d bytes", socket, maxSocketPath)
		return fault.New(fault.Usage, err, "set XDG_RUNTIME_DIR to a shorter path")
	}
	for _, dir := range []string{spec.Dir, spec.RuntimeDir} {
		if err := checkPrivate(dir); err != nil {
			return err
		}
	}
	if spec.Accelerator == "" {
		spec.Accelerator, _ = HostAccelerator()
	}
	return nil
}

// checkPrivate refuses a directory that others can enter: whoever reaches the channel is root in the guest.
func checkPrivate(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("checking the VM's directories: %w", err)
	}
	if mode := info.Mode().Perm(); !info.IsDir() || mode&0o077 != 0 {
		return fmt.Errorf("checking the VM's directories: %q has the mode %#o, not 0700", dir, mode)
	}
	return nil
}

// launch starts QEMU.
func (m *Machine) launch(ctx context.Context, runner *system.CommandRunner, magic [channel.MagicSize]byte) error {
	log, err := m.makeLogs()
	if err != nil {
		return fmt.Errorf("making the VM's logs: %w", err)
	}
	defer func() { _ = log.Close() }()
	tsc := 0
	if m.spec.Accelerator == vm.TCG {
		tsc, _ = TSCKHz() // without it, the kernel measures
	}
	command := system.Command{
		Name: program, Dir: m.spec.Dir,
		Args: arguments(m.spec, m.files, m.spec.CommandLine(magic, tsc)),
	}
	m.process, err = runner.Start(ctx, command, log, log)
	if err != nil {
		return fmt.Errorf("starting the VM %q: %w", m.spec.Name, err)
	}
	return nil
}

// makeLogs makes both logs readable for the user alone, and opens QEMU's, to append to it: whoever cuts it leaves no hole.
func (m *Machine) makeLogs() (*os.File, error) {
	if err := os.WriteFile(m.files.console, nil, 0o600); err != nil {
		return nil, err
	}
	return os.OpenFile(m.log, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
}

// Files of a machine's directory.
const (
	Overlay = "root.qcow2" // the machine's own disk: a qcow2 in front of the root image
	Log     = "qemu.log"   // what QEMU prints, which a guest can have it do without end
)

// unfinished ends the name of a disk that is being made. Whoever is killed meanwhile leaves no disk that cannot be read.
const unfinished = ".new"

// makeDisk makes an empty disk in front of the root image, unless there is one from an earlier start. What is behind the
// image's end reads as zeros.
func (m *Machine) makeDisk(ctx context.Context, runner *system.CommandRunner) error {
	if _, err := os.Stat(m.files.overlay); err == nil {
		return nil
	}
	m.newDisk = true
	made := m.files.overlay + unfinished
	args := []string{"create", "-q", "-f", "qcow2", "-b", m.spec.RootImage, "-F", "raw", made}
	if m.spec.DiskSize != 0 {
		args = append(args, strconv.FormatInt(m.spec.DiskSize, 10))
	}
	_, err := runner.Run(ctx, system.Command{Name: "qemu-img", Args: args})
	if err == nil {
		err = os.Rename(made, m.files.overlay)
	}
	if err != nil {
		_ = os.Remove(made)
		return fmt.Errorf("making the VM's disk in front of %q: %w", m.spec.RootImage, err)
	}
	return nil
}

// removeNewDisk removes a disk that nothing of worth can be on.
func (m *Machine) removeNewDisk() {
	if m.newDisk {
		_ = os.Remove(m.files.overlay)
	}
}

// boot waits for the agent. A machine that fails to come up has ended when boot returns.
func (m *Machine) boot(ctx context.Context, magic [channel.MagicSize]byte) error {
	start := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, m.spec.BootTimeout, errTooLong)
	defer cancel()
	watched, stop := context.WithCancelCause(limited)
	defer stop(nil)
	go m.watch(watched, stop)
	session, err := m.dial(watched, magic)
	if err == nil {
		m.keep(session, magic)
		return nil
	}
	if cause := context.Cause(watched); cause != nil {
		err = cause
	}
	return m.fail(ctx, err, time.Since(start))
}

// watch ends the boot when QEMU has ended or the guest hangs.
func (m *Machine) watch(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	silence := silence{since: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.process.Done():
			stop(errEnded)
			return
		case now := <-tick.C:
			if silence.lasts(m.files.console, now) > silenceLimit && !vm.HandedOver(readTail(m.files.console)) {
				stop(errSilent)
				return
			}
		}
	}
}

// silence is how a console log has grown.
type silence struct {
	size  int64
	since time.Time
}

// lasts returns how long the log has not grown.
func (s *silence) lasts(path string, now time.Time) time.Duration {
	if info, err := os.Stat(path); err == nil && info.Size() != s.size {
		s.size, s.since = info.Size(), now
	}
	return now.Sub(s.since)
}

// dial connects to the channel as soon as QEMU has made its socket.
func (m *Machine) dial(ctx context.Context, magic [channel.MagicSize]byte) (*channel.Session, error) {
	conn, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	return channel.Dial(ctx, conn, magic)
}

// connect dials QEMU's socket: at first by its path, as soon as that is there, and then whatever has become of the path,
// which is in a directory that is removed when the user logs out (pam_systemd(8)).
func (m *Machine) connect(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	if m.socket != nil {
		return dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", m.socket.Fd()))
	}
	for {
		conn, err := dialer.DialContext(ctx, "unix", m.files.socket)
		if err == nil {
			if err = m.secure(); err != nil {
				_ = conn.Close()
				return nil, err
			}
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pollInterval):
		}
	}
}

// secure keeps others from the channel's socket, and keeps hold of it. The directory is private already; the mode keeps the
// socket so wherever it is moved.
func (m *Machine) secure() (err error) {
	if err := os.Chmod(m.files.socket, 0o600); err != nil {
		return err
	}
	m.socket, err = os.OpenFile(m.files.socket, unix.O_PATH|unix.O_NOFOLLOW, 0)
	return err
}

// fail ends the machine and says why it did not boot.
func (m *Machine) fail(ctx context.Context, cause error, waited time.Duration) error {
	evidence := vm.Evidence{Name: m.spec.Name, Log: m.files.console, Ended: m.endsItself(cause), Waited: waited}
	m.process.Kill()
	exit := m.process.Wait()
	m.removeNewDisk()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("booting the VM %q: %w", m.spec.Name, context.Cause(ctx))
	case evidence.Ended && exit != nil:
		evidence.VMM = withWords(exit, m.log).Error()
	case !evidence.Ended && !errors.Is(cause, errTooLong) && !errors.Is(cause, errSilent):
		return fmt.Errorf("booting the VM %q: %w", m.spec.Name, cause)
	}
	evidence.Console = readTail(m.files.console)
	return vm.Diagnose(evidence)
}

// endsItself reports whether QEMU has ended, or does so now: it closes the channel a little before.
func (m *Machine) endsItself(cause error) bool {
	if errors.Is(cause, errTooLong) || errors.Is(cause, errSilent) {
		return false
	}
	select {
	case <-m.process.Done():
		return true
	case <-time.After(exitLimit):
		return false
	}
}
