package engine

import (
	"fmt"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/store"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30

	blockSize = 4096
)

// chooseSize returns the size of the disk, in bytes, for an image that needs at least need bytes: the size asked for, or
// what is needed with headroom for the guest to work in if requested is 0. The file is sparse, so headroom costs nothing.
func chooseSize(requested, need int64) (int64, error) {
	if requested == 0 {
		return roundUp(need+max(gib, need), 64*mib), nil
	}
	if requested < need {
		err := fmt.Errorf("sizing the disk: %s is too small for this image, which needs at least %s",
			units.BytesSize(float64(requested)), units.BytesSize(float64(need)))
		return 0, fault.New(fault.NoSpace, err, fmt.Sprintf("pass --size %dMiB or more, or leave --size out", need/mib))
	}
	return requested / blockSize * blockSize, nil
}

// diskSize returns the size of a VM's disk, in bytes and whole blocks, for the size asked for; 0 stands for the image's
// own. A smaller one is a fault.Usage.
func diskSize(requested int64, image store.Image) (int64, error) {
	size := requested / blockSize * blockSize
	switch {
	case requested == 0 || size == image.Size:
		return 0, nil
	case size < image.Size:
		err := fmt.Errorf("sizing the disk: %s is less than the image's disk of %s",
			units.BytesSize(float64(requested)), units.BytesSize(float64(image.Size)))
		hint := fmt.Sprintf("a disk cannot shrink: pass --disk %dMiB or more, or leave --disk out",
			roundUp(image.Size, mib)/mib)
		return 0, fault.New(fault.Usage, err, hint)
	}
	return size, nil
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
