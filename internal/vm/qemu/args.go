package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/vm"
)

// program is the VMM's name, for guests of this architecture.
const program = "qemu-system-x86_64"

// The serial numbers by which the guest knows its disks (ARCHITECTURE.md).
const (
	rootSerial    = "banger-root"
	modulesSerial = "banger-modules"
)

// files are the machine's files besides those of the Spec.
type files struct {
	overlay string // qcow2 whose backing file is the root image
	console string
	socket  string // of the channel
}

// arguments returns QEMU's command line. spec.Accelerator is decided; kernelArgs is the kernel's command line.
func arguments(spec vm.Spec, f files, kernelArgs []string) []string {
	args := []string{
		"-name", spec.Name,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// QEMU, which an escaping guest would own, can start no program and gain no privilege.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", "microvm,acpi=on", // by ACPI the kernel finds the virtio-mmio devices
		"-smp", strconv.Itoa(spec.CPUs),
		"-m", fmt.Sprintf("%dM", spec.MemoryMiB),
		"-kernel", kernelOf(spec),
		"-initrd", spec.Initramfs,
		"-append", strings.Join(kernelArgs, " "),
		"-global", "virtio-mmio.force-legacy=false", // virtio 1.0
	}
	args = append(args, processor(spec.Accelerator)...)
	args = append(args, consoleDevice(f.console)...)
	args = append(args, channelDevice(f.socket)...)
	args = append(args, "-device", "virtio-rng-device")
	args = append(args, rootDisk(f.overlay, spec.Volatile)...)
	if spec.ModulesImage != "" {
		args = append(args, modulesDisk(spec.ModulesImage)...)
	}
	if spec.Network {
		args = append(args, "-netdev", "user,id=network,ipv6=off", "-device", "virtio-net-device,netdev=network")
	}
	return args
}

// kernelOf chooses the file of the kernel. An emulated processor is spared from decompressing it, about 0.3 s. One with KVM
// boots it as its distribution built it, which places it at random in memory (KASLR).
func kernelOf(spec vm.Spec) string {
	if spec.Accelerator == vm.TCG && spec.Vmlinux != "" {
		return spec.Vmlinux
	}
	return spec.Vmlinuz
}

func processor(accelerator string) []string {
	if accelerator == vm.KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

// consoleDevice appends to the file, so that whoever cuts it leaves no hole.
func consoleDevice(path string) []string {
	return []string{"-chardev", "file,id=console,append=on,path=" + escape(path), "-serial", "chardev:console"}
}

func channelDevice(path string) []string {
	return []string{
		"-chardev", "socket,id=channel,server=on,wait=off,path=" + escape(path),
		// The guest sets two queues up for each port that there may be, of which 0 is a console's.
		"-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=channel,name=" + channel.PortName,
	}
}

// rootDisk is the overlay. What the guest discards is freed. Where the disk is volatile, a flush of the guest does not
// reach the host's disk; it always reaches the host's page cache, which a killed QEMU leaves intact.
func rootDisk(overlay string, volatile bool) []string {
	cache := map[string]any{"no-flush": volatile}
	return disk("root", rootSerial, map[string]any{
		"driver":  "qcow2",
		"discard": "unmap",
		"cache":   cache,
		"file":    map[string]any{"driver": "file", "filename": overlay, "cache": cache},
	})
}

func modulesDisk(image string) []string {
	return disk("modules", modulesSerial, map[string]any{
		"driver":    "raw",
		"read-only": true,
		"file":      map[string]any{"driver": "file", "filename": image, "read-only": true},
	})
}

// disk returns a block device in QEMU's JSON form, in which a path needs no escapes. The guest is told of a write that the
// host's disk has no room for: by itself QEMU would stop the machine until somebody has it go on.
func disk(node, serial string, blockdev map[string]any) []string {
	blockdev["node-name"] = node
	text, _ := json.Marshal(blockdev) // strings and booleans always encode
	return []string{"-blockdev", string(text), "-device", "virtio-blk-device,drive=" + node + ",serial=" + serial + ",werror=report"}
}

// escape doubles commas, which separate QEMU's options (qemu(1), "-chardev").
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
