package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// errBeginning is the beginning of a blob that an earlier process kept, and that was not of this blob.
var errBeginning = errors.New("what was kept of the download is damaged")

// fetch gets the layer and publishes it. The caller holds the layer's lock.
func (s *Store) fetch(ctx context.Context, id digest.Digest, b Blob) (*Layer, error) {
	path := s.path(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, noSpace(fmt.Errorf("making the layer store: %w", err))
	}
	s.removeAbandoned(filepath.Dir(path))
	gunzip := s.Gunzip
	for {
		l, err := s.fetchOnce(ctx, id, b, gunzip)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, err
		case errors.As(err, new(programError)):
			gunzip = nil
		case !errors.Is(err, errBeginning): // which is there only once
			return l, err
		}
	}
}

// fetchOnce writes the layer's file and its index and publishes both.
func (s *Store) fetchOnce(ctx context.Context, id digest.Digest, b Blob, gunzip Gunzip) (*Layer, error) {
	temp := s.path(id) + partial
	file, err := create(temp)
	if err != nil {
		return nil, noSpace(fmt.Errorf("making the layer's file: %w", err))
	}
	entries, err := s.download(ctx, file, id, b, gunzip)
	if err == nil {
		err = s.publish(id, file, entries)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(temp)
		return nil, err
	}
	return s.layer(id, file, entries), nil
}

// create makes a new file in place of any other. One that was emptied would be another matter: ext4 takes it for one that
// is being replaced and waits for the disk when it is closed (fs/ext4/inode.c, ext4_truncate: EXT4_STATE_DA_ALLOC_CLOSE).
func create(path string) (*os.File, error) {
	_ = os.Remove(path)
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

// download fills the file from the blob, and parses and checks what goes through.
func (s *Store) download(ctx context.Context, file *os.File, id digest.Digest, b Blob, gunzip Gunzip) (List, error) {
	d, err := s.newDownload(ctx, id, b)
	if err != nil {
		return List{}, err
	}
	if b.Size >= 0 && b.Size < worthProgram {
		gunzip = nil
	}
	d.gunzip = gunzip
	entries, err := d.unpack(ctx, file, id)
	d.Close(err)
	return entries, err
}

// publish makes the layer's file visible under its name, and its index.
func (s *Store) publish(id digest.Digest, file *os.File, entries List) error {
	s.drop(id)
	if err := os.Rename(s.path(id)+partial, s.path(id)); err != nil {
		return noSpace(fmt.Errorf("publishing the layer: %w", err))
	}
	s.removeBeginnings(id)
	return s.publishIndex(id, file, entries)
}

// publishIndex writes the index of a layer.
func (s *Store) publishIndex(id digest.Digest, file *os.File, entries List) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	temp := s.path(id) + index + partial
	out, err := create(temp)
	if err != nil {
		return noSpace(fmt.Errorf("making the layer's index: %w", err))
	}
	err = errors.Join(writeIndex(out, id, info.Size(), entries), out.Close())
	if err == nil {
		_ = os.Remove(s.path(id) + index)
		err = os.Rename(temp, s.path(id)+index)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return noSpace(err)
}
