package agent

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheckGrown: a file system may lack less than a group, here of 32768 blocks, at the end of its disk.
func TestCheckGrown(t *testing.T) {
	const group, wide = 32768, 0x80
	tests := []struct {
		name      string
		low, high uint32
		features  uint32
		want      uint64
		problem   string // part of the error; "" is none
	}{
		{"whole disk", 5 << 20, 0, wide, 5 << 20, ""},
		{"last group left out", 5<<20 - group, 0, wide, 5 << 20, ""},
		{"more than a group left out", 5<<20 - group - 1, 0, wide, 5 << 20, "5210111 of 5242880"},
		{"beyond 32 bits", 1, 2, wide, 2<<32 + 1, ""},
		{"stopped at 32 bits", 1, 0, wide, 2 << 32, "1 of 8589934592"},
		{"without the upper half", 1, 2, 0, 2<<32 + 1, "1 of 8589934593"},
	}
	for _, test := range tests {
		raw := make([]byte, 2048)
		binary.LittleEndian.PutUint32(raw[1024+0x04:], test.low)
		binary.LittleEndian.PutUint32(raw[1024+0x60:], test.features)
		binary.LittleEndian.PutUint32(raw[1024+0x150:], test.high)
		err := checkGrown(bytes.NewReader(raw), test.want, 4096)
		if (err == nil) != (test.problem == "") || err != nil && !strings.Contains(err.Error(), test.problem) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.problem)
		}
	}
	if err := checkGrown(bytes.NewReader(make([]byte, 2047)), 1, 4096); err == nil {
		t.Errorf("half a superblock gave no error, want %v", io.EOF)
	}
}

// TestGrowElsewhere: what is no ext4 file system does not know the request, and the error says what was tried.
func TestGrowElsewhere(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	err := grow(disk, "/proc")
	if err == nil || !strings.Contains(err.Error(), "to 8192 bytes: "+unix.ENOTTY.Error()) {
		t.Errorf("growing /proc gave %v, want %v", err, unix.ENOTTY)
	}
	if err := grow(filepath.Join(t.TempDir(), "gone"), "/proc"); !missing(err) {
		t.Errorf("growing a disk that is not there gave %v", err)
	}
}
