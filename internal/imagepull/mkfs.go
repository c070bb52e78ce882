package imagepull

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// Mkfs is the reference Builder. It stages the tree as a directory which belongs to the calling user and has mkfs.ext4
// copy that (BuildExt4), sets what the user could not give the files (ApplyOwnership), and adds the agent's files to the
// file system (InjectGuestAgents). docs/mkfs-builder.md says how, and what it cannot do.
type Mkfs struct {
	Runner *system.CommandRunner
}

// Name implements Builder.
func (Mkfs) Name() string { return "mkfs" }

// Version implements Builder.
func (Mkfs) Version() string { return "1" }

// MinSize implements Builder. The room for the guest has its agent in it.
func (Mkfs) MinSize(usage rootfs.Usage) int64 {
	const mib = 1 << 20
	content := usage.Blocks*blockSize + spareBytes
	inodes := usage.Inodes + spareInodes
	size := int64(MinExt4Size)
	for capacity(size) < content || inodeCount(size) < inodes {
		size += max(mib, (content-capacity(size))/2/mib*mib)
	}
	return size
}

// Build implements Builder. The staged tree is below w.Dir while Build runs.
func (b Mkfs) Build(ctx context.Context, w Work, steps Steps) (int64, error) {
	size, err := w.Size(w.Usage)
	if err != nil {
		return 0, err
	}
	if err := b.buildExt4(ctx, w, size, steps); err != nil {
		return 0, err
	}
	if err := b.complete(ctx, w, steps); err != nil {
		_ = os.Remove(w.OutFile)
		return 0, err
	}
	return size, nil
}

// buildExt4 is the step BuildExt4.
func (b Mkfs) buildExt4(ctx context.Context, w Work, size int64, steps Steps) error {
	staged := filepath.Join(w.Dir, "staged")
	defer func() { _ = os.RemoveAll(staged) }()
	return steps.Run("BuildExt4", func() (string, error) {
		if err := w.Tree.Check(ctx); err != nil {
			return "", fmt.Errorf("staging the tree: %w", err)
		}
		if err := os.Mkdir(staged, 0o700); err != nil {
			return "", fmt.Errorf("staging the tree: %w", err)
		}
		if err := rootfs.Stage(ctx, w.Tree, staged); err != nil {
			return "", fmt.Errorf("staging the tree: %w", err)
		}
		return units.BytesSize(float64(size)), BuildExt4(ctx, b.Runner, staged, w.OutFile, size)
	})
}

// complete is the steps ApplyOwnership and InjectGuestAgents.
func (b Mkfs) complete(ctx context.Context, w Work, steps Steps) error {
	err := steps.Run("ApplyOwnership", func() (string, error) {
		return fmt.Sprintf("%d inodes", w.Usage.Inodes), ApplyOwnership(ctx, b.Runner, w.Tree, w.OutFile)
	})
	if err != nil || len(w.Assets) == 0 {
		return err
	}
	return steps.Run("InjectGuestAgents", func() (string, error) {
		return w.Guest, InjectGuestAgents(ctx, b.Runner, w.Assets, w.OutFile)
	})
}
