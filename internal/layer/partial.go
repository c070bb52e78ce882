package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/lock"
)

const (
	// unfinished ends the name of a file with the beginning of a blob, which the next process continues.
	unfinished = ".download"
	// worthKeeping is how large a blob is, in bytes, of which a beginning is kept.
	worthKeeping = 4 << 20
	// keptFor is how long the beginning of a blob waits for somebody to continue it.
	keptFor = 7 * 24 * time.Hour
)

// beginning is the file with the bytes of a blob that have come so far, those of earlier processes included. It is
// touched only by the holder of the layer's lock.
type beginning struct {
	ahead
	had    int64 // bytes that were in it at first
	passed int64 // bytes of the blob that were written, or were in it
}

// beginningPath is for a layer and one of the blobs that can hold it. Several registries may compress it differently.
func (s *Store) beginningPath(id, blob digest.Digest) string {
	return s.path(id) + "." + blob.Encoded()[:16] + unfinished
}

// openBeginning opens or makes the file for a blob of size bytes.
func openBeginning(path string, size int64) (*beginning, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, noSpace(fmt.Errorf("keeping the download: %w", err))
	}
	info, err := file.Stat()
	if err == nil && info.Size() > size {
		err = file.Truncate(0)
	} else if err == nil {
		return &beginning{ahead: ahead{file: file}, had: info.Size()}, nil
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keeping the download: %w", err), file.Close())
	}
	return &beginning{ahead: ahead{file: file}}, nil
}

// reader returns what is in the file.
func (b *beginning) reader() io.Reader { return io.NewSectionReader(b.file, 0, b.had) }

// Write takes the blob from its first byte on, and writes what is not in the file.
func (b *beginning) Write(p []byte) (int, error) {
	known := min(int64(len(p)), max(0, b.had-b.passed))
	b.passed += known
	b.reach(b.passed)
	n, err := b.file.WriteAt(p[known:], b.passed)
	b.passed += int64(n)
	return int(known) + n, err
}

// close keeps the file for the next process, or removes it.
func (b *beginning) close(keep bool) {
	if !keep || b.passed == 0 && b.had == 0 {
		_ = os.Remove(b.file.Name())
	} else {
		_ = b.trim()
	}
	_ = b.file.Close()
}

// removeBeginnings removes what was kept of the layer's blobs. The caller holds the layer's lock.
func (s *Store) removeBeginnings(id digest.Digest) {
	for _, file := range filesOf(filepath.Dir(s.path(id)), id.Encoded()+".", unfinished) {
		_ = os.Remove(file)
	}
}

// filesOf returns the paths of what is in a directory whose names begin and end so, and none if it cannot be read. The
// directory's own path may have any character, unlike that of filepath.Glob.
func filesOf(dir, prefix, suffix string) (paths []string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) && strings.HasSuffix(entry.Name(), suffix) {
			paths = append(paths, filepath.Join(dir, entry.Name()))
		}
	}
	return paths
}

// from opens a blob behind its beginning.
func (b Blob) from(ctx context.Context, begun *beginning) (io.ReadCloser, error) {
	if begun == nil || begun.had == 0 {
		return b.Open(ctx)
	}
	rest, err := b.OpenAt(ctx, begun.had)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(begun.reader(), rest), rest}, nil
}

// removeAbandoned removes what processes left that were killed, and the downloads that nobody has continued for long. A
// failure costs only the space, and the next fetch tries again.
func (s *Store) removeAbandoned(dir string) {
	files := filesOf(dir, "", partial)
	for _, file := range filesOf(dir, "", unfinished) {
		if info, err := os.Lstat(file); err == nil && time.Since(info.ModTime()) > keptFor {
			files = append(files, file)
		}
	}
	for _, file := range files {
		hex, _, _ := strings.Cut(filepath.Base(file), ".")
		held, err := lock.Try(s.lockPath(hex))
		if err != nil || held == nil {
			continue
		}
		_ = os.Remove(file)
		held.Release()
	}
}
