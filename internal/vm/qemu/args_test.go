package qemu

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/vm"
)

func exampleSpec() vm.Spec {
	return vm.Spec{
		Name: "web", Dir: "/vms/web", RuntimeDir: "/run/1", Vmlinuz: "/k/vmlinuz", Initramfs: "/vms/web/initramfs.cpio",
		RootImage: "/i/rootfs.ext4", ModulesImage: "/k/modules.ext4", Init: "/sbin/init", CPUs: 3, MemoryMiB: 700,
		Hostname: "web", Network: true, BootTimeout: time.Minute, Accelerator: vm.TCG,
	}
}

func exampleFiles() files {
	return files{overlay: "/vms/web/root.qcow2", console: "/vms/web/console.log", socket: "/run/1/agent.sock"}
}

// option returns all values of an option.
func option(args []string, name string) []string {
	var values []string
	for i, arg := range args {
		if arg == name && i+1 < len(args) {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArguments(t *testing.T) {
	args := arguments(exampleSpec(), exampleFiles(), []string{"console=ttyS0", "panic=-1"})
	tests := []struct {
		option string
		want   string
	}{
		{"-M", "microvm,acpi=on"},
		{"-accel", "tcg,thread=multi"},
		{"-cpu", "max"},
		{"-smp", "3"},
		{"-m", "700M"},
		{"-kernel", "/k/vmlinuz"},
		{"-initrd", "/vms/web/initramfs.cpio"},
		{"-append", "console=ttyS0 panic=-1"},
		{"-chardev", "file,id=console,append=on,path=/vms/web/console.log"},
		{"-serial", "chardev:console"},
		{"-chardev", "socket,id=channel,server=on,wait=off,path=/run/1/agent.sock"},
		{"-device", "virtserialport,chardev=channel,name=banger.guest.0"},
		{"-device", "virtio-blk-device,drive=root,serial=banger-root,werror=report"},
		{"-device", "virtio-blk-device,drive=modules,serial=banger-modules,werror=report"},
		{"-device", "virtio-net-device,netdev=network"},
		{"-device", "virtio-rng-device"},
	}
	for _, test := range tests {
		if got := option(args, test.option); !slices.Contains(got, test.want) {
			t.Errorf("%s is %q, want %q among them", test.option, got, test.want)
		}
	}
	for _, flag := range []string{"-nodefaults", "-no-user-config", "-no-reboot"} {
		if !slices.Contains(args, flag) {
			t.Errorf("the arguments lack %s: %q", flag, args)
		}
	}
}

// TestKernelOf: only an emulated machine boots the uncompressed kernel, if there is one.
func TestKernelOf(t *testing.T) {
	for _, test := range []struct{ accelerator, vmlinux, want string }{
		{vm.TCG, "/k/vmlinux", "/k/vmlinux"}, {vm.TCG, "", "/k/vmlinuz"}, {vm.KVM, "/k/vmlinux", "/k/vmlinuz"},
	} {
		spec := exampleSpec()
		spec.Accelerator, spec.Vmlinux = test.accelerator, test.vmlinux
		if got := kernelOf(spec); got != test.want {
			t.Errorf("with %s and the uncompressed kernel %q, %q is booted, want %q", test.accelerator, test.vmlinux, got, test.want)
		}
	}
}

func TestArgumentsWithoutExtras(t *testing.T) {
	spec := exampleSpec()
	spec.Network, spec.ModulesImage, spec.Accelerator = false, "", vm.KVM
	args := arguments(spec, exampleFiles(), nil)
	for _, unwanted := range []string{"net", "banger-modules", "tcg"} {
		for _, arg := range args {
			if strings.Contains(arg, unwanted) {
				t.Errorf("argument %q has %q, which was not asked for", arg, unwanted)
			}
		}
	}
	if got := option(args, "-cpu"); !slices.Equal(got, []string{"host"}) {
		t.Errorf("-cpu under KVM is %q, want the host's", got)
	}
}

// TestPathsOfAnyKind: a home directory may have any name.
func TestPathsOfAnyKind(t *testing.T) {
	const odd = `/home/a,b "c"/ü: %s`
	spec := exampleSpec()
	spec.ModulesImage = odd + "/modules.ext4"
	args := arguments(spec, files{overlay: odd + "/root.qcow2", console: odd + "/console.log", socket: odd + "/s"}, nil)
	var names []string
	for _, value := range option(args, "-blockdev") {
		var blockdev struct {
			File struct{ Filename string }
		}
		if err := json.Unmarshal([]byte(value), &blockdev); err != nil {
			t.Fatalf("-blockdev %s: %v", value, err)
		}
		names = append(names, blockdev.File.Filename)
	}
	if want := []string{odd + "/root.qcow2", odd + "/modules.ext4"}; !slices.Equal(names, want) {
		t.Errorf("the disks' files are %q, want %q", names, want)
	}
	want := "file,id=console,append=on,path=" + `/home/a,,b "c"/ü: %s/console.log`
	if got := option(args, "-chardev"); !slices.Contains(got, want) {
		t.Errorf("-chardev is %q, want %q among them", got, want)
	}
}
