package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// Settle brings an image to the host's disk. Until then a crash of the machine may cost the image, which is noticed. One that
// is not there needs nothing.
func (s *Images) Settle(id string) error {
	if err := s.settle(id, (*os.File).Sync); err != nil {
		return fmt.Errorf("settling image %s: %w", short(id), err)
	}
	return nil
}

// settle is Settle by means of sync, which is fsync(2). It works within the directory that is the image's when it begins:
// an image of the same id that is published meanwhile has a mark of its own.
func (s *Images) settle(id string, sync func(*os.File) error) error {
	dir, err := os.OpenRoot(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if _, err := dir.Lstat(unsettled); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range []string{diskName, metaName, configName, "."} {
		if err := syncIn(dir, name, sync); err != nil {
			return err
		}
	}
	if err := dir.Remove(unsettled); err != nil && !errors.Is(err, fs.ErrNotExist) { // another may settle it, too
		return err
	}
	return syncIn(dir, ".", sync)
}

// syncIn brings a file of a directory to the disk. One that is not there, or is removed meanwhile, needs nothing.
func syncIn(dir *os.Root, name string, sync func(*os.File) error) error {
	file, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return sync(file)
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
