package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/fsync"
)

// writeJSON replaces the file at path by value, so that a reader sees the old file or the new one, never a part.
func writeJSON(path string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %q: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), newPrefix+"*")
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if err := writeSynced(file, append(data, '\n')); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("publishing %q: %w", path, err)
	}
	return fsync.Path(filepath.Dir(path))
}

func writeSynced(file *os.File, data []byte) error {
	_, err := file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

func readJSON(path string, value any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	return nil
}
