// Package fsync brings what has been written to the disk (fsync(2)), before and after the rename that publishes it.
package fsync

import (
	"fmt"
	"os"
)

// Path brings a file's bytes, or a directory's entries, to the disk.
func Path(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing %q: %w", path, err)
	}
	defer func() { _ = file.Close() }()
	if err := file.Sync(); err != nil {
		return fmt.Errorf("syncing %q: %w", path, err)
	}
	return nil
}
