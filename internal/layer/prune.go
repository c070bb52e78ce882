package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/lock"
)

// Prune removes the layers that keep, which is given their diff_ids, does not want. A layer that is open somewhere stays
// readable there; one that is being written is left alone.
func (s *Store) Prune(ctx context.Context, keep func(diffID string) bool) error {
	algorithm := digest.SHA256
	entries, err := os.ReadDir(filepath.Join(s.dir, algorithm.String()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pruning the layers: %w", err)
	}
	for _, entry := range entries {
		id := digest.NewDigestFromEncoded(algorithm, entry.Name())
		if id.Validate() != nil || keep(id.String()) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.remove(id); err != nil {
			return fmt.Errorf("pruning the layer %s: %w", id, err)
		}
	}
	return nil
}

func (s *Store) remove(id digest.Digest) error {
	held, err := lock.Try(s.lockPath(id.Encoded()))
	if held == nil || err != nil {
		return err
	}
	defer held.Release()
	s.drop(id)
	return nil
}
