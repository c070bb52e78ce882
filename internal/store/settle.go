package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

// unsettled is the file beside a disk that may not be on the host's disk as a whole. It has the id of the boot in which the
// disk was written: until the machine goes down, what the page cache has counts. Where the host's disk did not take the
// bytes it has unwritten, which is no id of a boot.
const (
	unsettled = "unsettled"
	unwritten = "unwritten"
)

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

// Settle brings an image to the host's disk. Until then a crash of the machine may cost the image, which is noticed, and so is
// that the host's disk does not take it. One that is not there needs nothing.
func (s *Images) Settle(id string) error {
	if err := s.settle(id, (*os.File).Sync); err != nil {
		return fmt.Errorf("settling image %s: %w", short(id), err)
	}
	return nil
}

// settle is Settle by means of sync, which is fsync(2).
func (s *Images) settle(id string, sync func(*os.File) error) error {
	settling, err := openUnsettled(s.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer settling.close()
	settling.sync = sync
	return settling.run()
}

// settling works within the directory that is an image's when it begins: an image of the same id that is published
// meanwhile has a mark of its own.
type settling struct {
	dir  *os.Root
	mark *os.File
	sync func(*os.File) error
}

// openUnsettled opens the directory of an image that has a mark; of any other it returns fs.ErrNotExist.
func openUnsettled(path string) (*settling, error) {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	mark, err := dir.OpenFile(unsettled, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return &settling{dir: dir, mark: mark}, nil
}

func (s *settling) close() {
	_ = s.mark.Close()
	_ = s.dir.Close()
}

// run settles the image, unless another has done so while it waited for its turn. Two at a time would not do: the kernel
// tells one of them of bytes that were not written (fsync(2)), and the other would take the mark away.
func (s *settling) run() error {
	if err := lock.Hold(s.mark); err != nil {
		return err
	}
	if _, err := s.dir.Lstat(unsettled); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	written, err := io.ReadAll(s.mark)
	if err != nil {
		return fmt.Errorf("reading the mark: %w", err)
	}
	if why := loss(written); why != "" {
		return fault.New(fault.Corrupt, errors.New(why), "pull the image again")
	}
	for _, name := range []string{diskName, metaName, configName, "."} {
		if err := s.bring(name); err != nil {
			return err
		}
	}
	if err := s.dir.Remove(unsettled); err != nil && !errors.Is(err, fs.ErrNotExist) { // with the image
		return err
	}
	return s.bring(".")
}

// bring brings a file of the image to the disk. One that is not there, or is removed meanwhile, needs nothing. What the disk
// does not take is told once: whoever syncs the file next hears of nothing, so that the mark has to say it.
func (s *settling) bring(name string) error {
	file, err := s.dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if err := s.sync(file); err != nil {
		return errors.Join(err, s.spoil())
	}
	return nil
}

// spoil makes the mark that of a disk that was not written. It takes no space, which may be what there is none of.
func (s *settling) spoil() error {
	_, err := s.mark.WriteAt([]byte(unwritten), 0)
	return errors.Join(err, s.mark.Truncate(int64(len(unwritten))))
}

// lost returns why an image that was published is not whole, or "".
func (s *Images) lost(id string) string {
	mark, err := os.ReadFile(s.path(id, unsettled))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return loss(mark)
}

// loss returns why an image with this mark is not whole, or "".
func loss(mark []byte) string {
	if string(mark) == unwritten {
		return "its disk could not be written"
	}
	now, err := bootID()
	switch {
	case err != nil:
		return err.Error()
	case !bytes.Equal(mark, now):
		return "the machine went down before its disk was written"
	}
	return ""
}
