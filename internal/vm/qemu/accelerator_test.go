package qemu

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/vm"
)

func TestAccelerator(t *testing.T) {
	const (
		intel = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme vmx ssse3\nvmx flags\t: vnmi ept\n"
		amd   = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm sse4a\n"
		none  = "processor\t: 0\nmodel name\t: vmx svm\nflags\t\t: fpu hypervisor vmxnet\nbugs\t\t: svm\n"
	)
	denied := fmt.Errorf("open /dev/kvm: %w", syscall.EACCES)
	absent := fmt.Errorf("open /dev/kvm: %w", syscall.ENOENT)
	tests := []struct {
		name    string
		cpuinfo string
		open    error
		want    string
		reason  string // part of it
	}{
		{"Intel", intel, nil, vm.KVM, "vmx"},
		{"AMD", amd, nil, vm.KVM, "svm"},
		{"not in the group kvm", intel, denied, vm.TCG, "permission denied"},
		{"module not loaded", amd, absent, vm.TCG, "no such file"},
		{"device without the extension", none, nil, vm.TCG, "vmx or svm"},
		{"neither", none, absent, vm.TCG, "vmx or svm"},
		{"empty", "", nil, vm.TCG, "vmx or svm"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, reason := Accelerator(test.cpuinfo, func() error { return test.open })
			if got != test.want || !strings.Contains(reason, test.reason) {
				t.Errorf("Accelerator = %q because %q, want %q because of %q", got, reason, test.want, test.reason)
			}
		})
	}
}

func TestHostAccelerator(t *testing.T) {
	got, reason := HostAccelerator()
	if reason == "" || got != vm.KVM && got != vm.TCG {
		t.Errorf("HostAccelerator = %q because %q, want one of the two, and a reason", got, reason)
	}
	if _, err := os.Stat("/dev/kvm"); err != nil && got == vm.KVM {
		t.Errorf("HostAccelerator = %q without /dev/kvm", got)
	}
}
