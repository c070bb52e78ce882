package channel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// PortName is the name of the virtio-serial port of the channel.
const PortName = "banger.guest.0"

// maxWrite is what the kernel's driver takes in one write, in bytes (drivers/char/virtio_console.c, port_fops_write).
const maxWrite = 32 << 10

// FindPort returns the device of the virtio-serial port called name: its directory in sysfs, usually
// /sys/class/virtio-ports, gives the name; dev, usually /dev, has the device. A port that is not there is fs.ErrNotExist.
func FindPort(sysfs, dev, name string) (string, error) {
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return "", fmt.Errorf("listing the virtio-serial ports: %w", err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(sysfs, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join(dev, e.Name()), nil
		}
	}
	return "", fmt.Errorf("finding the virtio-serial port %q: %w", name, os.ErrNotExist)
}

// OpenPort opens a virtio-serial port. The kernel lets one process at a time open it.
//
// The port is non-blocking and only Go's poller waits for it. A blocking write hangs for ever when something else polls
// the same port (virtio_console before Linux 6.19 loses the wakeup), so the file must never reach a child process.
func OpenPort(device string) (Port, error) {
	file, err := os.OpenFile(device, os.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the channel's port: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("opening the channel's port: %w", err)
	}
	return &port{file: file, raw: raw}, nil
}

type port struct {
	file *os.File
	raw  syscall.RawConn
}

// SetWriteDeadline ends a write that is under way, or yet to come, at t.
func (p *port) SetWriteDeadline(t time.Time) error { return p.file.SetWriteDeadline(t) }

// Read waits for data. The driver returns 0 while no host is connected, which is no end: the poller wakes when one is.
func (p *port) Read(b []byte) (n int, err error) {
	waitErr := p.raw.Read(func(fd uintptr) bool {
		n, err = retry(func() (int, error) { return syscall.Read(int(fd), b) })
		return !errors.Is(err, syscall.EAGAIN) && (n != 0 || err != nil)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

// Write writes all of b, waiting for a host and for room.
func (p *port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := p.writeSome(b[written:min(len(b), written+maxWrite)])
		written += n
		if err != nil {
			return written, err
		}
		if n == 0 {
			return written, io.ErrShortWrite
		}
	}
	return written, nil
}

func (p *port) writeSome(b []byte) (n int, err error) {
	waitErr := p.raw.Write(func(fd uintptr) bool {
		n, err = retry(func() (int, error) { return syscall.Write(int(fd), b) })
		return !errors.Is(err, syscall.EAGAIN)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
