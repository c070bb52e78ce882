// Package machine measures banger's virtual machines against what one does without banger: QEMU by hand, and OpenSSH.
package machine

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

// Bare is a machine of QEMU's without banger: a kernel, and an init that powers the machine off at once.
type Bare struct {
	Kernel string // bzImage
	Dir    string // for the initramfs and the console's log; it stays the caller's

	CPUs, MemoryMiB int
}

// loadAddress is where the init is loaded, in bytes.
const loadAddress = 0x400000

// powerOff is the machine code of reboot(LINUX_REBOOT_CMD_POWER_OFF), which does not return (reboot(2), with the number
// of the call for x86-64).
var powerOff = [...]byte{
	0xbf, 0xad, 0xde, 0xe1, 0xfe, // mov edi, LINUX_REBOOT_MAGIC1
	0xbe, 0x69, 0x19, 0x12, 0x28, // mov esi, LINUX_REBOOT_MAGIC2
	0xba, 0xdc, 0xfe, 0x21, 0x43, // mov edx, LINUX_REBOOT_CMD_POWER_OFF
	0xb8, 0xa9, 0x00, 0x00, 0x00, // mov eax, 169
	0x0f, 0x05, // syscall
	0xeb, 0xfe, // jmp to itself
}

// trivialInit returns the smallest program that there is: an ELF header, one segment, and powerOff (elf(5)).
func trivialInit() []byte {
	const headers = 64 + 56
	size := uint64(headers + len(powerOff))
	le := binary.LittleEndian
	b := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 bits, little endian
	b = le.AppendUint16(b, 2)                                            // ET_EXEC
	b = le.AppendUint16(b, 62)                                           // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, loadAddress+headers) // e_entry
	b = le.AppendUint64(b, 64)                  // e_phoff
	b = le.AppendUint64(b, 0)                   // e_shoff
	b = le.AppendUint32(b, 0)
	for _, half := range []uint16{64, 56, 1, 64, 0, 0} { // sizes and numbers of the headers
		b = le.AppendUint16(b, half)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, word := range []uint64{0, loadAddress, loadAddress, size, size, 0x1000} {
		b = le.AppendUint64(b, word)
	}
	return append(b, powerOff[:]...)
}

func (b Bare) initramfs() string { return filepath.Join(b.Dir, "bare.cpio") }

// Prepare makes the initramfs.
func (b Bare) Prepare() error {
	file, err := os.Create(b.initramfs())
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return kernel.InitramfsWithInit(strings.NewReader(""), trivialInit(), file)
}

// Boot boots the machine to its end.
func (b Bare) Boot(ctx context.Context) (time.Duration, error) {
	args, err := b.arguments()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("running QEMU: %w: %s", err, out)
	}
	return time.Since(start), nil
}

// arguments are those of banger, without the devices, the sandbox, and what the kernel's parameters say to the guest.
func (b Bare) arguments() ([]string, error) {
	accelerator, _ := qemu.HostAccelerator()
	accel, cpu, tsc := "tcg,thread=multi", "max", 0
	if accelerator == vm.KVM {
		accel, cpu = "kvm", "host"
	} else {
		var err error
		if tsc, err = qemu.TSCKHz(); err != nil {
			return nil, err
		}
	}
	parameters := slices.DeleteFunc(vm.Spec{}.CommandLine([16]byte{}, tsc), func(word string) bool {
		return strings.HasPrefix(word, "banger.")
	})
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm,acpi=on",
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(b.CPUs), "-m", fmt.Sprintf("%dM", b.MemoryMiB),
		"-kernel", b.Kernel, "-initrd", b.initramfs(), "-append", strings.Join(parameters, " "),
		"-chardev", "file,id=console,path=" + filepath.Join(b.Dir, "bare.log"), "-serial", "chardev:console",
	}, nil
}
