// Package vm says what a virtual machine is made of and what a boot looks like from outside: the Spec, the kernel's
// command line, and the diagnosis of a boot that failed. How a machine is run is the matter of the packages below it,
// one for each VMM. It knows nothing of images and their store.
package vm

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// The accelerators that a Spec can ask for.
const (
	KVM = "kvm" // hardware virtualization
	TCG = "tcg" // software emulation
)

// MinMemoryMiB is the least memory that a distribution's kernel boots with, in MiB.
const MinMemoryMiB = 96

// diskUnit is what the size of a disk is a multiple of, in bytes: the block of ext4 and the largest sector of a disk.
const diskUnit = 4096

// Spec says what to boot. All paths are absolute; the files stay the caller's and are only read.
type Spec struct {
	Name string // for messages and the process list; the rules of Hostname
	// Dir is the machine's own directory, for the disk overlay and the logs. The caller makes it with mode 0700 and
	// removes it after the machine's end.
	Dir string
	// RuntimeDir is a directory with mode 0700 for sockets. The path is short, as a socket's address has 108 bytes
	// (unix(7)).
	RuntimeDir string

	Vmlinuz      string // bzImage
	Vmlinux      string // the same kernel uncompressed, an ELF file with a PVH entry, for emulation; "" is none
	Initramfs    string // complete cpio archive, with /init and the modules
	RootImage    string // ext4; writes of the guest go to an overlay in Dir
	DiskSize     int64  // bytes of the root disk, whose file system grows to it; 0 is RootImage's size, never to be less
	Volatile     bool   // the root disk is as short-lived as the machine: a power cut of the host may lose it
	ModulesImage string // ext4 that /lib/modules shows; "" is none
	Init         string // program of the root that becomes process 1
	SpawnAgent   bool   // Init does not start the agent: the initramfs does

	CPUs        int
	MemoryMiB   int
	Hostname    string        // letters, digits, "-" and ".", 64 bytes at most; "" leaves the name to the guest
	Network     bool          // false: no network card
	BootTimeout time.Duration // from the start of the VMM to the agent's answer
	Accelerator string        // KVM or TCG; "" takes KVM where the host has it
}

// maxHostname is __NEW_UTS_LEN of include/uapi/linux/utsname.h, in bytes.
const maxHostname = 64

// Validate returns an error for a Spec that cannot be booted as it is. It does not look at files.
func (s Spec) Validate() error {
	for _, problem := range []error{s.checkNames(), s.checkPaths(), s.checkSizes()} {
		if problem != nil {
			return fault.New(fault.Usage, fmt.Errorf("checking the VM %q: %w", s.Name, problem), "")
		}
	}
	return nil
}

func (s Spec) checkNames() error {
	if s.Name == "" || !isHostname(s.Name) {
		return fmt.Errorf("the name %q is empty, too long or has more than letters, digits, %q and %q", s.Name, "-", ".")
	}
	if !isHostname(s.Hostname) {
		return fmt.Errorf("the host name %q is too long or has more than letters, digits, %q and %q", s.Hostname, "-", ".")
	}
	if s.Accelerator != "" && s.Accelerator != KVM && s.Accelerator != TCG {
		return fmt.Errorf("the accelerator %q is neither %q nor %q", s.Accelerator, KVM, TCG)
	}
	return nil
}

// nameLetters are what a name may have: nothing that means something to the command line of a kernel or a VMM.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."

// isHostname accepts "".
func isHostname(s string) bool {
	return len(s) <= maxHostname && strings.Trim(s, nameLetters) == "" && strings.Trim(s, "-.") == s
}

func (s Spec) checkPaths() error {
	paths := []struct{ name, path string }{
		{"directory", s.Dir}, {"runtime directory", s.RuntimeDir}, {"kernel", s.Vmlinuz}, {"initramfs", s.Initramfs},
		{"root image", s.RootImage}, {"init", s.Init},
	}
	for _, p := range paths {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("the path %q of the %s is not absolute", p.path, p.name)
		}
	}
	for name, path := range map[string]string{"module image": s.ModulesImage, "uncompressed kernel": s.Vmlinux} {
		if path != "" && !filepath.IsAbs(path) {
			return fmt.Errorf("the path %q of the %s is not absolute", path, name)
		}
	}
	if strings.ContainsFunc(s.Init, func(r rune) bool { return r <= ' ' || r == '"' || r >= 0x7f }) {
		return fmt.Errorf("the path %q of the init cannot stand on a kernel command line", s.Init)
	}
	return nil
}

func (s Spec) checkSizes() error {
	switch {
	case s.CPUs < 1:
		return fmt.Errorf("%d CPUs are too few", s.CPUs)
	case s.MemoryMiB < MinMemoryMiB:
		return fmt.Errorf("%d MiB of memory are fewer than %d", s.MemoryMiB, MinMemoryMiB)
	case s.BootTimeout <= 0:
		return errors.New("the boot has no time limit")
	case s.DiskSize < 0 || s.DiskSize%diskUnit != 0:
		return fmt.Errorf("a disk cannot have %d bytes, which are no whole blocks of %d", s.DiskSize, diskUnit)
	}
	return nil
}
