package layer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/internal/lock"
)

// Use is the right of somebody who works with layers that they stay in the store. It ends with Release, or with the
// process.
type Use struct {
	locks []*lock.Lock
}

// usePath is the file whose lock users share. The time of its last change is that of the layer's last use.
func (s *Store) usePath(hex string) string { return filepath.Join(s.dir, "used", hex) }

// Use keeps layers, which need not be there yet, from being removed, and notes that they are used. It waits, until ctx
// ends, for a removal that is under way.
func (s *Store) Use(ctx context.Context, diffIDs []string) (*Use, error) {
	use := &Use{}
	for _, diffID := range diffIDs {
		id, err := parseDigest("diff_id", diffID)
		if err == nil {
			err = use.add(ctx, s.usePath(id.Encoded()))
		}
		if err != nil {
			use.Release()
			return nil, fmt.Errorf("using the layer %s: %w", diffID, err)
		}
	}
	return use, nil
}

func (u *Use) add(ctx context.Context, path string) error {
	held, err := lock.Share(ctx, path)
	if err != nil {
		return noSpace(err)
	}
	u.locks = append(u.locks, held)
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// Release ends the use. A second call does nothing.
func (u *Use) Release() {
	for _, held := range u.locks {
		held.Release()
	}
}
