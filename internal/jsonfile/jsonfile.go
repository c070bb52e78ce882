// Package jsonfile reads and writes the small JSON files in which banger keeps what it knows.
package jsonfile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/fsync"
)

// NewPrefix begins the names of files that are not finished.
const NewPrefix = ".new-"

// Write replaces the file at path by value, so that a reader sees the old file or the new one, never a part, even after
// a power cut.
func Write(path string, value any) error {
	if err := replace(path, value, true); err != nil {
		return err
	}
	return fsync.Path(filepath.Dir(path))
}

// WriteVolatile is Write for what means nothing after a power cut, or is synced later: it does not wait for the disk.
func WriteVolatile(path string, value any) error { return replace(path, value, false) }

func replace(path string, value any, sync bool) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %q: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), NewPrefix+"*")
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if err := fill(file, append(data, '\n'), sync); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("publishing %q: %w", path, err)
	}
	return nil
}

func fill(file *os.File, data []byte, sync bool) error {
	_, err := file.Write(data)
	if err == nil && sync {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Read decodes the file at path. A file that is not there is fs.ErrNotExist.
func Read(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	return nil
}
