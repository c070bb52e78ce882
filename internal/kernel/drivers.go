package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// driver is a part of the kernel that a virtual machine uses.
type driver struct {
	name        string // of the module, or of what is built in
	early       bool   // in the initramfs; else it is for what runs in the guest
	required    bool   // banger cannot boot without it
	consequence string // of lacking it
}

// drivers are what banger looks for, those of the initramfs in the order of their use.
func drivers() []driver {
	return []driver{
		{"virtio_mmio", true, true, "the machine's devices are not found"},
		{"virtio_pci", true, false, "machines with PCI cannot be used"},
		{"virtio_blk", true, true, "there are no disks"},
		{"ext4", true, true, "the root file system cannot be mounted"},
		{"virtio_console", true, true, "the guest agent cannot be reached"},
		{"virtio_rng", true, false, "the guest gathers randomness slowly"},
		{"virtio_net", true, false, "there is no network"},
		{"overlay", false, false, "container engines cannot use overlayfs"},
		{"fuse", false, false, "file systems in user space do not work"},
		{"tun", false, false, "VPNs and virtual interfaces do not work"},
		{"veth", false, false, "containers have no network of their own"},
		{"bridge", false, false, "containers cannot be bridged"},
		{"nf_tables", false, false, "firewalls and published ports of containers do not work"},
	}
}

// Lacks says which drivers the kernel lacks that banger likes, and what does not work without each, or "".
func (k *Kernel) Lacks() string {
	missing := make([]string, len(k.Missing))
	for i, name := range k.Missing {
		missing[i] = name
		for _, d := range drivers() {
			if d.name == name {
				missing[i] = name + " (" + d.consequence + ")"
			}
		}
	}
	return strings.Join(missing, ", ")
}

// selection is how a kernel has the drivers that banger looks for.
type selection struct {
	load    []*module // for the initramfs, in load order
	builtIn []string
	missing []string // none that is required
}

// selectDrivers finds the drivers. A kernel that lacks a required one is fault.Unsupported.
func (s *moduleSet) selectDrivers() (selection, error) {
	found := selection{builtIn: []string{}, missing: []string{}}
	var wanted []*module
	var fatal []string
	for _, d := range drivers() {
		m := s.byName[d.name]
		switch {
		case m != nil && d.early:
			wanted = append(wanted, m)
		case m != nil:
		case s.builtIn[d.name]:
			found.builtIn = append(found.builtIn, d.name)
		case d.required:
			fatal = append(fatal, fmt.Sprintf("%s (%s)", d.name, d.consequence))
		default:
			found.missing = append(found.missing, d.name)
		}
	}
	if len(fatal) > 0 {
		err := fmt.Errorf("the kernel lacks %s", strings.Join(fatal, ", "))
		return selection{}, fault.New(fault.Unsupported, err, "use a kernel for virtual machines, such as Debian's linux-image-cloud-amd64")
	}
	found.load = s.loadOrder(wanted)
	return found, s.checkLoad(found.load)
}

// checkLoad checks that nothing is lacking of what the initramfs loads.
func (s *moduleSet) checkLoad(load []*module) error {
	for _, m := range load {
		for _, dep := range m.depends {
			if s.byName[dep] == nil && !s.builtIn[dep] {
				err := fmt.Errorf("the kernel's module %s needs %s, which is not there", m.name, dep)
				return fault.New(fault.Unsupported, err, "give the package that has it as well, such as linux-modules-extra")
			}
		}
		if i := slices.Index(load, m); slices.ContainsFunc(s.hard(m), func(dep *module) bool { return slices.Index(load, dep) > i }) {
			return fault.New(fault.Corrupt, fmt.Errorf("the kernel's module %s needs itself", m.name), "")
		}
	}
	return nil
}
