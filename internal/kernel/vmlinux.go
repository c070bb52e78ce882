package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// More offsets of the boot protocol's header (see image.go).
const (
	headerSetupAt   = 0x1f1 // 1 byte: sectors of the setup code, besides the first of the image; 0 is 4
	headerPayloadAt = 0x248 // 4 bytes, since protocol 2.08: where the payload is in what follows the setup code
	headerLengthAt  = 0x24c // 4 bytes: its length
	headerAllEnd    = 0x250

	sector = 512
)

// maxVmlinux bounds an uncompressed kernel, in bytes. Distributions' have 40 to 80 MiB.
const maxVmlinux = 1 << 30

// errNoVmlinux is a bzImage that has no kernel that a VMM could start without the code that decompresses it.
var errNoVmlinux = errors.New("the kernel cannot be started uncompressed")

// extractVmlinux writes the kernel that is inside the bzImage at path into the new file to: an ELF file that a VMM starts by
// its PVH entry. The machine is then spared from decompressing it, which takes an emulated one as long as a fifth of its
// whole boot. A kernel that has no such entry, or is compressed in a way that banger does not know, is errNoVmlinux, and
// leaves nothing.
func extractVmlinux(path, to string) (err error) {
	image, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }()
	payload, err := payloadOf(image)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = unpackVmlinux(payload, out)
	if err = errors.Join(err, out.Close()); err != nil {
		_ = os.Remove(to)
	}
	return err
}

// payloadOf returns the compressed kernel in a bzImage.
func payloadOf(image io.ReaderAt) (*io.SectionReader, error) {
	header := make([]byte, headerAllEnd)
	if _, err := image.ReadAt(header, 0); err != nil || string(header[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		return nil, errNoVmlinux
	}
	setup := int64(header[headerSetupAt])
	if setup == 0 {
		setup = 4
	}
	offset := int64(binary.LittleEndian.Uint32(header[headerPayloadAt:]))
	length := int64(binary.LittleEndian.Uint32(header[headerLengthAt:]))
	return io.NewSectionReader(image, (setup+1)*sector+offset, length), nil
}

// unpackVmlinux decompresses a payload and checks what comes out. The kernel's build appends the plain size to it, in 4
// bytes (scripts/Makefile.lib, size_append), except to gzip's, which ends with it anyway.
func unpackVmlinux(payload *io.SectionReader, out *os.File) error {
	var size [4]byte
	if payload.Size() < 8 {
		return errNoVmlinux
	}
	if _, err := payload.ReadAt(size[:], payload.Size()-4); err != nil {
		return errNoVmlinux
	}
	want := int64(binary.LittleEndian.Uint32(size[:]))
	plain, err := decompressPayload(payload)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoVmlinux, err)
	}
	defer func() { _ = plain.Close() }()
	n, err := io.Copy(out, io.LimitReader(plain, min(want, maxVmlinux)+1))
	var place *os.PathError
	switch {
	case errors.As(err, &place): // the disk, not the data
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errNoVmlinux, err)
	case n != want:
		return fmt.Errorf("%w: %d bytes instead of %d", errNoVmlinux, n, want)
	case !hasPVH(out):
		return fmt.Errorf("%w: it has no PVH entry", errNoVmlinux)
	}
	return nil
}

func decompressPayload(payload *io.SectionReader) (io.ReadCloser, error) {
	head := make([]byte, 4)
	if _, err := payload.ReadAt(head, 0); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("\x1f\x8b")) {
		return decompress(payload)
	}
	return decompress(io.NewSectionReader(payload, 0, payload.Size()-4))
}

// notePVH is the type of the note with the kernel's PVH entry: XEN_ELFNOTE_PHYS32_ENTRY of
// include/xen/interface/elfnote.h, with the name "Xen".
const notePVH = 18

// maxNotes bounds the notes that are looked at, in bytes. A kernel's have some hundred.
const maxNotes = 1 << 20

// hasPVH reports whether an ELF file can be started by a PVH entry.
func hasPVH(image io.ReaderAt) bool {
	file, err := elf.NewFile(image)
	if err != nil || file.Machine != elf.EM_X86_64 {
		return false
	}
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(segment.Open(), maxNotes))
		if err == nil && hasNote(notes, "Xen\x00", notePVH) {
			return true
		}
	}
	return false
}

// hasNote looks through notes: the sizes of name and content and the type, then both, each padded to 4 bytes (elf(5),
// "Notes").
func hasNote(notes []byte, name string, kind uint32) bool {
	for len(notes) >= 12 {
		nameSize, size := uint64(binary.LittleEndian.Uint32(notes)), uint64(binary.LittleEndian.Uint32(notes[4:]))
		found := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		end := (nameSize+3)&^3 + (size+3)&^3
		if end > uint64(len(notes)) {
			return false
		}
		if found == kind && string(notes[:nameSize]) == name {
			return true
		}
		notes = notes[end:]
	}
	return false
}
