package engine

import (
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/store"
)

func TestChooseSize(t *testing.T) {
	for _, c := range []struct {
		name      string
		requested int64
		need      int64
		want      int64
		kind      fault.Kind
	}{
		{name: "small image, chosen", need: 65 * mib, want: gib + 128*mib},
		{name: "small image, just enough", requested: 65 * mib, need: 65 * mib, want: 65 * mib},
		{name: "too small", requested: 65*mib - 1, need: 65 * mib, kind: fault.NoSpace},
		{name: "large image, chosen", need: 3 * gib, want: 6 * gib},
		{name: "odd size", requested: 100*mib + 5, need: 65 * mib, want: 100 * mib},
	} {
		got, err := chooseSize(c.requested, c.need)
		if fault.KindOf(err) != c.kind && c.kind != 0 || c.kind != 0 && fault.HintOf(err) == "" {
			t.Errorf("%s: got (%d, %v), want a fault of kind %d with a hint", c.name, got, err, c.kind)
		}
		if c.kind == 0 && err != nil || got != c.want {
			t.Errorf("%s: got (%d, %v), want %d", c.name, got, err, c.want)
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
