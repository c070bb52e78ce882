package contender

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/ext4"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// label is the volume name that banger's disks have.
const label = "banger-rootfs"

// native merges the layers, which is not measured, and writes the tree.
func native(ctx context.Context, job Job) (Measurement, error) {
	tree, release, err := openTree(ctx, job)
	if err != nil {
		return Measurement{}, err
	}
	defer release()
	return measure(job.Out, never, func() error {
		out, err := job.create()
		if err != nil {
			return err
		}
		_, err = ext4.Write(ctx, tree, out, ext4.Options{Size: job.Size, Label: label})
		return errors.Join(err, out.Close())
	})
}

// builder merges the layers, which is not measured, stages the tree and has mkfs.ext4 and debugfs make the file. It
// leaves the staged tree: for some minutes after many files were removed, ext4 is slow to make others (recently_deleted
// in fs/ext4/ialloc.c), which the next run would suffer from.
func builder(ctx context.Context, job Job) (Measurement, error) {
	tree, release, err := openTree(ctx, job)
	if err != nil {
		return Measurement{}, err
	}
	defer release()
	staged, err := os.MkdirTemp(filepath.Dir(job.Out), "staged-*")
	if err != nil {
		return Measurement{}, err
	}
	return measure(job.Out, always, func() error {
		if err := rootfs.Stage(ctx, tree, staged); err != nil {
			return err
		}
		runner := system.NewCommandRunner(os.Getenv("PATH"))
		if err := imagepull.BuildExt4(ctx, runner, staged, job.Out, job.Size); err != nil {
			return err
		}
		return imagepull.ApplyOwnership(ctx, runner, tree, job.Out)
	})
}
