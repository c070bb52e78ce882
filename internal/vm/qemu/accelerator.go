package qemu

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/vm"
)

// Accelerator decides between vm.KVM and vm.TCG, and says why. cpuinfo is the text of /proc/cpuinfo; openKVM tries to
// open /dev/kvm for reading and writing. Both must agree: a container may show the device of a host whose CPU does not
// virtualize here, and then QEMU fails.
func Accelerator(cpuinfo string, openKVM func() error) (accelerator, reason string) {
	extension := virtualization(cpuinfo)
	if extension == "" {
		return vm.TCG, "this CPU does not offer hardware virtualization (no vmx or svm in /proc/cpuinfo)"
	}
	if err := openKVM(); err != nil {
		return vm.TCG, fmt.Sprintf("the CPU has %s, but KVM cannot be used: %v", extension, err)
	}
	return vm.KVM, fmt.Sprintf("the CPU has %s, and /dev/kvm opens", extension)
}

// virtualization returns the CPU's flag for it, "vmx" or "svm", or "".
func virtualization(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		flags := strings.Fields(value)
		for _, extension := range []string{"vmx", "svm"} {
			if slices.Contains(flags, extension) {
				return extension
			}
		}
	}
	return ""
}

// HostAccelerator is Accelerator for this host.
func HostAccelerator() (accelerator, reason string) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return vm.TCG, fmt.Sprintf("the CPU's features are unknown: %v", err)
	}
	return Accelerator(string(cpuinfo), func() error {
		device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return device.Close()
	})
}
