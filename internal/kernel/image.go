package kernel

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// Offsets of the x86 boot protocol's header (Documentation/arch/x86/boot.rst of the kernel, "The Real-Mode Kernel
// Header"). All numbers are little-endian.
const (
	headerMagicAt    = 0x202 // "HdrS"
	headerProtocolAt = 0x206 // 2 bytes, e.g. 0x020f for 2.15
	headerVersionAt  = 0x20e // 2 bytes: where the text of the version is, less 0x200
	headerXloadAt    = 0x236 // 2 bytes, since protocol 2.12: flags
	headerEnd        = 0x238

	xloadKernel64 = 1 << 0
)

// imageVersion checks that image is a Linux kernel for x86-64, a bzImage or an ELF vmlinux, and returns its release.
// Other data is fault.Unsupported.
func imageVersion(image io.ReaderAt, size int64) (string, error) {
	header := make([]byte, headerEnd)
	if _, err := image.ReadAt(header, 0); err != nil && err != io.EOF {
		return "", fmt.Errorf("reading the kernel: %w", err)
	}
	var version string
	var err error
	switch {
	case bytes.HasPrefix(header, []byte(elf.ELFMAG)):
		version, err = elfVersion(image, size)
	case string(header[headerMagicAt:headerMagicAt+4]) == "HdrS":
		version, err = bzImageVersion(image, header)
	default:
		err = errors.New("it is neither a bzImage nor an ELF file")
	}
	if err != nil {
		err = fmt.Errorf("checking the kernel: %w", err)
		return "", fault.New(fault.Unsupported, err, "give a vmlinuz for x86-64, such as a distribution's /boot/vmlinuz-*")
	}
	return version, nil
}

func bzImageVersion(image io.ReaderAt, header []byte) (string, error) {
	if protocol := binary.LittleEndian.Uint16(header[headerProtocolAt:]); protocol < 0x020c {
		return "", fmt.Errorf("its boot protocol %d.%02d is too old", protocol>>8, protocol&0xff)
	}
	if binary.LittleEndian.Uint16(header[headerXloadAt:])&xloadKernel64 == 0 {
		return "", errors.New("it is not for x86-64")
	}
	offset := int64(binary.LittleEndian.Uint16(header[headerVersionAt:]))
	if offset == 0 {
		return "", errors.New("its header has no version")
	}
	// The text is "RELEASE (BUILDER) #NUMBER DATE", ended by NUL.
	text := make([]byte, 256)
	n, err := image.ReadAt(text, offset+0x200)
	if err != nil && err != io.EOF {
		return "", err
	}
	return release(text[:n])
}

// banner begins the text that the kernel prints at boot (linux_banner in init/version.c).
const banner = "Linux version "

func elfVersion(image io.ReaderAt, size int64) (string, error) {
	file, err := elf.NewFile(image)
	if err != nil {
		return "", err
	}
	if file.Machine != elf.EM_X86_64 {
		return "", fmt.Errorf("it is for %v, not for x86-64", file.Machine)
	}
	r := bufio.NewReaderSize(io.NewSectionReader(image, 0, size), 1<<20)
	for {
		window, err := r.Peek(64 << 10)
		if i := bytes.Index(window, []byte(banner)); i >= 0 {
			_, _ = r.Discard(i)
			text, _ := r.Peek(256)
			return release(text[len(banner):])
		}
		if err != nil {
			return "", errors.New("it is no Linux kernel")
		}
		_, _ = r.Discard(len(window) - len(banner))
	}
}

// release returns the first word of text, which must look like a kernel's release.
func release(text []byte) (string, error) {
	word, _, _ := strings.Cut(string(text), " ")
	if ok, _ := regexp.MatchString(`^[0-9]+\.[0-9][0-9A-Za-z.+~_-]{0,200}$`, word); !ok {
		return "", fmt.Errorf("%.40q is no version of a kernel", word)
	}
	return word, nil
}
