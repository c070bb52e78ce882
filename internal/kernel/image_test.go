package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

func TestImageVersion(t *testing.T) {
	altered := func(at int, data ...byte) []byte {
		image := bzImage("6.1.0")
		copy(image[at:], data)
		return image
	}
	vmlinux := func(machine elf.Machine, text string) []byte {
		// The version stands across the border of two windows of the search.
		image := append(elfModule(nil, nil), make([]byte, 64<<10)...)
		binary.LittleEndian.PutUint16(image[18:], uint16(machine))
		copy(image[64<<10-8:], text)
		return image
	}
	for _, test := range []struct {
		name    string
		image   []byte
		version string // or else
		err     string
	}{
		{"bzImage", bzImage("6.1.0-56-cloud-amd64"), "6.1.0-56-cloud-amd64", ""},
		{"bzImage of a local build", bzImage("6.9.0-rc3+"), "6.9.0-rc3+", ""},
		{"vmlinux", vmlinux(elf.EM_X86_64, "Linux version 6.12.3 (a@b)"), "6.12.3", ""},
		{"empty", nil, "", "neither a bzImage nor an ELF file"},
		{"arm64 Image", append([]byte("MZ"), make([]byte, 1000)...), "", "neither a bzImage nor an ELF file"},
		{"a short file", bzImage("6.1.0")[:headerXloadAt], "", "not for x86-64"},
		{"32 bits", altered(headerXloadAt, 0, 0), "", "not for x86-64"},
		{"old protocol", altered(headerProtocolAt, 0x0b, 2), "", "2.11"},
		{"no version", altered(headerVersionAt, 0, 0), "", "no version"},
		{"version after the end", altered(headerVersionAt, 0xff, 0xff), "", "no version of a kernel"},
		{"version with a slash", bzImage("6.1/../x"), "", "no version of a kernel"},
		{"vmlinux for arm64", vmlinux(elf.EM_AARCH64, "Linux version 6.12.3 (a@b)"), "", "AARCH64"},
		{"another program", vmlinux(elf.EM_X86_64, ""), "", "no Linux kernel"},
		{"damaged ELF", []byte(elf.ELFMAG), "", "checking the kernel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := imageVersion(bytes.NewReader(test.image), int64(len(test.image)))
			if test.err != "" {
				wantFault(t, err, fault.Unsupported, test.err, "vmlinuz")
			} else if got != test.version || err != nil {
				t.Errorf("the version is %q (%v), want %q", got, err, test.version)
			}
		})
	}
}

// FuzzImage: no header makes the check panic.
func FuzzImage(f *testing.F) {
	f.Add(bzImage("6.1.0"))
	f.Add(elfModule(nil, nil))
	f.Add([]byte(strings.Repeat("\x00", headerEnd)))
	f.Fuzz(func(_ *testing.T, image []byte) {
		_, _ = imageVersion(bytes.NewReader(image), int64(len(image)))
	})
}
