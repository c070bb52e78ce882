package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vmlinux returns an ELF file for x86-64 with one note: of that owner and type. It has megabytes after that, half of them
// random.
func vmlinux(owner string, kind uint32) []byte {
	data := make([]byte, 64+56, 20<<20)
	copy(data, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(data[16:], 2)  // ET_EXEC
	le.PutUint16(data[18:], 62) // EM_X86_64
	le.PutUint32(data[20:], 1)
	le.PutUint64(data[32:], 64) // e_phoff
	for i, half := range []uint16{64, 56, 1, 64, 0, 0} {
		le.PutUint16(data[52+2*i:], half)
	}
	note := append(le.AppendUint32(nil, uint32(len(owner))), 4, 0, 0, 0)
	note = append(append(le.AppendUint32(note, kind), owner...), 1, 2, 3, 4)
	le.PutUint32(data[64:], 4)                  // PT_NOTE
	le.PutUint64(data[72:], uint64(len(data)))  // p_offset
	le.PutUint64(data[96:], uint64(len(note)))  // p_filesz
	le.PutUint64(data[104:], uint64(len(note))) // p_memsz
	data = append(data, note...)
	source := rand.NewChaCha8([32]byte{1})
	for len(data) < 18<<20 {
		piece := make([]byte, 64<<10)
		_, _ = source.Read(piece[:32<<10])
		data = append(data, piece...)
	}
	return data
}

// pack returns a bzImage with that payload, and the payload's plain size if the kernel's build would append it.
func pack(payload []byte, size int, appended bool) []byte {
	image := bzImage(testRelease)
	le := binary.LittleEndian
	image[headerSetupAt] = 7 // 4096 bytes with the first sector
	if appended {
		payload = le.AppendUint32(bytes.Clone(payload), uint32(size))
	}
	le.PutUint32(image[headerPayloadAt:], 16)
	le.PutUint32(image[headerLengthAt:], uint32(len(payload)))
	return append(append(append(image, make([]byte, 16)...), payload...), "what follows"...)
}

// extract runs extractVmlinux, which leaves nothing when it fails.
func extract(t *testing.T, image []byte) ([]byte, error) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "vmlinux")
	err := extractVmlinux(writeTemp(t, image), to)
	data, readErr := os.ReadFile(to)
	if (err == nil) != (readErr == nil) {
		t.Fatalf("extracting: %v, reading the result: %v", err, readErr)
	}
	return data, err
}

// TestVmlinux: what the programs compress that the kernel's build uses (scripts/Makefile.lib) comes out again.
func TestVmlinux(t *testing.T) {
	plain := vmlinux("Xen\x00", 18)
	for _, test := range []struct {
		name     string
		command  []string
		appended bool
	}{
		{"gzip", []string{"gzip", "-n", "-c"}, false},
		{"lz4", []string{"lz4", "-l", "-c"}, true},
		{"lz4, the best", []string{"lz4", "-l", "-9", "-c"}, true},
		{"zstd", []string{"zstd", "-q", "-c"}, true},
		{"xz", []string{"xz", "--check=crc32", "--x86", "--lzma2=preset=1", "-c"}, true},
		{"bzip2", []string{"bzip2", "-c"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			packed := []byte(run(t, plain, test.command[0], test.command[1:]...))
			got, err := extract(t, pack(packed, len(plain), test.appended))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("extracting what %s compressed: %d bytes, %v; want the %d bytes again",
					strings.Join(test.command, " "), len(got), err, len(plain))
			}
		})
	}
}

func TestNoVmlinux(t *testing.T) {
	plain := vmlinux("Xen\x00", 18)
	packed := []byte(run(t, plain, "gzip", "-1", "-n", "-c"))
	lz4 := []byte(run(t, plain, "lz4", "-l", "-c"))
	other := vmlinux("GNU\x00", 18)
	damaged := bytes.Clone(lz4)
	damaged[5<<20] ^= 0x10
	for _, test := range []struct {
		name  string
		image []byte
	}{
		{"no payload", bzImage(testRelease)},
		{"payload behind the end", pack(packed, len(plain), false)[:8<<10]},
		{"no bzImage", plain},
		{"unknown compression", pack([]byte("\x89LZO\x00\x0d\x0a\x1a\x0a and so on"), len(plain), true)},
		{"another size", pack(lz4, len(plain)-1, true)},
		{"larger than it says", pack(lz4, 1000, true)},
		{"cut", pack(lz4[:len(lz4)/2], len(plain), true)},
		{"no PVH entry", pack([]byte(run(t, other, "gzip", "-1", "-n", "-c")), len(other), false)},
		{"no ELF file", pack([]byte(run(t, []byte("text"), "gzip", "-n", "-c")), 4, false)},
		{"damaged", pack(damaged, len(plain), true)[:9<<20]},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := extract(t, test.image); !errors.Is(err, errNoVmlinux) {
				t.Errorf("extracting = %v, want %v", err, errNoVmlinux)
			}
		})
	}
}

// FuzzVmlinux: no kernel makes the extraction panic.
func FuzzVmlinux(f *testing.F) {
	f.Add(pack([]byte(lz4Magic+"\x05\x00\x00\x00\x40abcd"), 4, true))
	f.Add(vmlinux("Xen\x00", 18)[:256])
	f.Fuzz(func(_ *testing.T, image []byte) {
		hasPVH(bytes.NewReader(image))
		if payload, err := payloadOf(bytes.NewReader(image)); err == nil {
			if plain, err := decompressPayload(payload); err == nil {
				_ = plain.Close()
			}
		}
	})
}
