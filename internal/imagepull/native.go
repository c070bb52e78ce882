package imagepull

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/ext4"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Native is the default Builder. Package ext4 writes the file system straight from the tree: no other program runs,
// nothing is staged, and equal trees of equal sizes give equal bytes.
//
// It adds the agent's files to the tree first (InjectGuestAgents) and then writes everything once (BuildExt4). There is
// no ApplyOwnership, because the inodes are written with their owners.
type Native struct{}

// Name implements Builder.
func (Native) Name() string { return "native" }

// Version implements Builder.
func (Native) Version() string { return "2" }

// MinSize implements Builder.
func (Native) MinSize(usage rootfs.Usage) int64 { return ext4.SizeFor(usage, spareBytes, spareInodes) }

// Build implements Builder. w.Dir is not used.
func (Native) Build(ctx context.Context, w Work, steps Steps) (int64, error) {
	if err := addAssets(&w, steps); err != nil {
		return 0, err
	}
	size, err := w.Size(w.Usage)
	if err != nil {
		return 0, err
	}
	return size, steps.RunOnFile("BuildExt4", w.OutFile, w.Usage.Blocks*blockSize, func() (string, error) {
		return units.BytesSize(float64(size)), writeExt4(ctx, w.Tree, w.OutFile, options(w.Usage, size))
	})
}

// options are those of a disk of size bytes. Beside the inodes of the tree, it has one for every inodeRatio bytes that
// are free, so that an image of many small files does not use up the inodes before the space.
func options(usage rootfs.Usage, size int64) ext4.Options {
	free := max(0, size-Native{}.MinSize(usage))
	return ext4.Options{Size: size, Label: label, SpareInodes: spareInodes + free/inodeRatio}
}

// addAssets is the step InjectGuestAgents of Native: the assets become part of the tree, and count in its usage.
func addAssets(w *Work, steps Steps) error {
	if len(w.Assets) == 0 {
		return nil
	}
	return steps.Run("InjectGuestAgents", func() (string, error) {
		if err := guest.Add(w.Tree, w.Assets); err != nil {
			return "", err
		}
		w.Usage = w.Tree.Usage()
		return w.Guest, nil
	})
}

// writeExt4 makes outFile an ext4 file system with the content of the tree.
func writeExt4(ctx context.Context, tree *rootfs.Tree, outFile string, o ext4.Options) error {
	if err := checkSize(o.Size); err != nil {
		return fmt.Errorf("building %q: %w", outFile, err)
	}
	f, err := createFile(outFile)
	if err != nil {
		return fmt.Errorf("building %q: %w", outFile, hostSpace(err))
	}
	_, err = ext4.Write(ctx, tree, f, o)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(outFile)
		return fmt.Errorf("building %q: %w", outFile, hostSpace(err))
	}
	return nil
}
