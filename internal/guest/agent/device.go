package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// device is a node in /dev whose driver is loaded when it is opened.
type device struct {
	name   string // below /dev
	number uint64
	mode   uint32 // type and permissions
}

// staticDevices returns the nodes of modules.devname of dir, as kmod(8), "static-nodes", and /dev/kvm where the CPU
// has virtualization.
func staticDevices(dir string) []device {
	text, _ := os.ReadFile(filepath.Join(dir, "modules.devname"))
	devices := parseDevices(string(text))
	for _, module := range virtualization("/proc/cpuinfo") {
		if len(findModules(dir, []string{module})) > 0 {
			devices = append(devices, device{"kvm", unix.Mkdev(10, 232), unix.S_IFCHR | 0o666})
		}
	}
	return devices
}

// parseDevices parses lines of "MODULE NAME cMAJOR:MINOR", b for block devices.
func parseDevices(text string) []device {
	var devices []device
	for line := range strings.Lines(text) {
		var module, name string
		var kind rune
		var major, minor uint32
		n, err := fmt.Sscanf(line, "%s %s %c%d:%d", &module, &name, &kind, &major, &minor)
		if n != 5 || err != nil || !filepath.IsLocal(name) {
			continue
		}
		mode := uint32(unix.S_IFCHR)
		if kind == 'b' {
			mode = unix.S_IFBLK
		}
		devices = append(devices, device{name, unix.Mkdev(major, minor), mode | permissions(name)})
	}
	return devices
}

// permissions are udev's (rules.d/50-udev-default.rules): for everybody what does no harm by itself.
func permissions(name string) uint32 {
	switch name {
	case "fuse", "net/tun":
		return 0o666
	}
	return 0o600
}

// makeDevices makes the nodes that are not there.
func makeDevices(dev string, devices []device) error {
	var failed []error
	for _, d := range devices {
		path := filepath.Join(dev, d.name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = unix.Mknod(path, d.mode, int(d.number))
		}
		if err == nil {
			err = unix.Chmod(path, d.mode&0o777) // mknod(2) takes the umask away
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			failed = append(failed, fmt.Errorf("making the device %q: %w", path, err))
		}
	}
	return errors.Join(failed...)
}
