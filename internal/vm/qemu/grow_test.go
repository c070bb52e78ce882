package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/ext4"
	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/system"
)

// TestGrow: on a disk that is larger than the image the guest has the whole disk's space and inodes, and only what it
// writes takes space of the host, whatever made the image.
func TestGrow(t *testing.T) {
	k := theKit(t)
	const size, imageSize = 20 << 30, 128 << 20
	mkfs := func(blockSize string) func(*testing.T, string) {
		return func(t *testing.T, image string) {
			run(t, "mkfs.ext4", "-F", "-q", "-b", blockSize, "-d", strings.TrimSuffix(k.root, ".ext4"),
				"-E", "root_owner=0:0", image, strconv.Itoa(imageSize>>10)+"K")
		}
	}
	for name, build := range map[string]func(t *testing.T, image string){
		"mkfs, blocks of 1 KiB": mkfs("1024"),
		"mkfs, blocks of 4 KiB": mkfs("4096"),
		"native":                func(t *testing.T, image string) { rewrite(t, k.root, image, imageSize) },
	} {
		t.Run(name, func(t *testing.T) {
			spec := k.spec(t)
			spec.RootImage, spec.DiskSize = filepath.Join(t.TempDir(), "root.ext4"), size
			build(t, spec.RootImage)
			inodes := superblock(t, spec.RootImage, "Inode count")
			m := start(t, spec)
			// The inode tables alone have 1.25 GiB.
			if taken := allocated(t, m.files.overlay); taken > 64<<20 {
				t.Errorf("the overlay of a VM that wrote nothing takes %d bytes, want fewer than 64 MiB", taken)
			}
			if _, errOut, code := in(t, m, nil, "/bin/guesttool", "fill", strconv.Itoa(imageSize>>20), "/large"); code != 0 {
				t.Errorf("writing a file of the image's size: exit code %d: %s", code, errOut)
			}
			in(t, m, nil, "/bin/guesttool", "write", "kept", "/written")
			if err := m.Shutdown(t.Context()); err != nil {
				t.Fatalf("shutting down: %v", err)
			}
			raw := rawDisk(t, m)
			checkDisk(t, raw, "/written", "kept")
			if got := superblock(t, raw, "Block count") * superblock(t, raw, "Block size"); got != size {
				t.Errorf("the file system has %d bytes, want the %d of its disk", got, int64(size))
			}
			if got, want := superblock(t, raw, "Free inodes"), inodes*(size/imageSize-1); got < want {
				t.Errorf("%d inodes are free, want %d for each of the image's %d", got, size/imageSize, inodes)
			}
		})
	}
}

// rewrite has package ext4 write the tree that is in one image to another, of size bytes.
func rewrite(t *testing.T, from, to string, size int64) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(in, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	tree, err := v.Tree()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if _, err := ext4.Write(t.Context(), tree, out, ext4.Options{Size: size}); err != nil {
		t.Fatal(err)
	}
}

// superblock returns a number that dumpe2fs shows of a disk's superblock.
func superblock(t *testing.T, disk, name string) int64 {
	t.Helper()
	result, err := newRunner().Run(context.Background(), system.Command{Name: "dumpe2fs", Args: []string{"-h", disk}})
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(fmt.Sprintf(`(?m)^%s:\s+(\d+)$`, name)).FindSubmatch(result.Stdout)
	if match == nil {
		t.Fatalf("dumpe2fs shows no %q:\n%s", name, result.Stdout)
	}
	number, err := strconv.ParseInt(string(match[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// allocated returns how many bytes of the host's disk a file takes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var info syscall.Stat_t
	if err := syscall.Stat(path, &info); err != nil {
		t.Fatal(err)
	}
	return info.Blocks * 512
}
