package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/fsync"
)

// unsettled is the file beside a disk that may not be on the host's disk as a whole. It has the id of the boot in which the
// disk was written: until the machine goes down, what the page cache has counts.
const unsettled = "unsettled"

// bootID returns the random id of this boot of the host (random(4)).
func bootID() ([]byte, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("reading the id of this boot: %w", err)
	}
	return bytes.TrimSpace(id), nil
}

// unsettle marks the disk in a directory that is going to be published. The mark is there before the image is: it is older
// in the journal of the host's file system.
func unsettle(dir string) error {
	id, err := bootID()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, unsettled), id, 0o600)
}

// Unsettled tells whether Settle has to be called for an image.
func (s *Images) Unsettled(id string) bool {
	_, err := os.Lstat(s.path(id, unsettled))
	return err == nil
}

// Settle brings an image to the host's disk. Until then a crash of the machine may cost the image, which is noticed.
func (s *Images) Settle(id string) error {
	if !s.Unsettled(id) {
		return nil
	}
	for _, path := range []string{s.Disk(id), s.path(id, metaName), s.path(id, configName), s.path(id)} {
		if err := fsync.Path(path); err != nil {
			return err
		}
	}
	if err := os.Remove(s.path(id, unsettled)); err != nil {
		return fmt.Errorf("settling image %s: %w", short(id), err)
	}
	return fsync.Path(s.path(id))
}

// lost tells whether an image was published in an earlier boot, and the machine went down before it was settled.
func (s *Images) lost(id string) bool {
	written, err := os.ReadFile(s.path(id, unsettled))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	now, bootErr := bootID()
	return err != nil || bootErr != nil || !bytes.Equal(written, now)
}
