package engine

import (
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/store"
)

func TestChooseSize(t *testing.T) {
	tiny := rootfs.Usage{Inodes: 2, Blocks: 10}
	large := rootfs.Usage{Inodes: 36000, Blocks: 300000} // about 1.2 GiB
	for _, c := range []struct {
		name      string
		requested int64
		usage     rootfs.Usage
		low, high int64
		kind      fault.Kind
	}{
		{name: "tiny image, chosen", usage: tiny, low: gib, high: 2 * gib},
		{name: "tiny image, the smallest disk", requested: imagepull.MinExt4Size, usage: tiny, low: 64 * mib, high: 64 * mib},
		{name: "below the smallest disk", requested: 10 * mib, usage: tiny, kind: fault.NoSpace},
		{name: "large image, chosen", usage: large, low: 2 * gib, high: 4 * gib},
		{name: "large image, too small", requested: gib, usage: large, kind: fault.NoSpace},
		{name: "odd size", requested: 100*mib + 5, usage: tiny, low: 100 * mib, high: 100 * mib},
	} {
		got, err := chooseSize(c.requested, c.usage)
		if c.kind != 0 {
			if fault.KindOf(err) != c.kind || fault.HintOf(err) == "" {
				t.Errorf("%s: got (%d, %v), want a fault of kind %d with a hint", c.name, got, err, c.kind)
			}
			continue
		}
		if err != nil || got < c.low || got > c.high || got%blockSize != 0 {
			t.Errorf("%s: got (%d, %v), want whole blocks from %d to %d", c.name, got, err, c.low, c.high)
		}
	}
}

func TestDiskSize(t *testing.T) {
	image := store.Image{Size: 2*gib + 12*blockSize}
	for _, c := range []struct {
		name      string
		requested int64
		want      int64
		refused   bool
	}{
		{name: "not asked for", requested: 0, want: 0},
		{name: "the image's own", requested: image.Size, want: 0},
		{name: "a part of a block more", requested: image.Size + 5, want: 0},
		{name: "a block more", requested: image.Size + blockSize, want: image.Size + blockSize},
		{name: "odd size", requested: 20*gib + 5, want: 20 * gib},
		{name: "smaller", requested: 512 * mib, refused: true},
		{name: "a byte smaller", requested: image.Size - 1, refused: true},
		{name: "a byte", requested: 1, refused: true},
	} {
		got, err := diskSize(c.requested, image)
		if got != c.want || c.refused != (err != nil) {
			t.Errorf("%s: got (%d, %v), want %d", c.name, got, err, c.want)
		}
		if c.refused && (fault.KindOf(err) != fault.Usage || !strings.Contains(fault.HintOf(err), "--disk 2049MiB")) {
			t.Errorf("%s: got %v (hint %q), want a fault.Usage whose hint has the least size", c.name, err, fault.HintOf(err))
		}
	}
}

// TestManySmallFiles: an image of many files gets an inode for each of them.
func TestManySmallFiles(t *testing.T) {
	usage := rootfs.Usage{Inodes: 1_000_000, Blocks: 1_000_000}
	size, err := chooseSize(0, usage)
	if err != nil || size/inodeRatio < usage.Inodes+spareInodes {
		t.Errorf("got a disk of %d bytes (%v), which has %d inodes for %d files", size, err, size/inodeRatio, usage.Inodes)
	}
}
