package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/lock"
)

// Blob is a layer as a registry or an archive holds it.
type Blob struct {
	Digest    string // of the bytes that Open returns, "sha256:…"; "" if the source does not know it
	DiffID    string // digest of the uncompressed tar; the layer's name in the store
	MediaType string // as the source says; the content decides how it is decompressed
	Size      int64  // number of the bytes that Open returns; -1 if the source does not know it
	// Open returns the bytes as the source has them: gzip, zstd or a plain tar. The caller closes the reader.
	Open func(ctx context.Context) (io.ReadCloser, error)
	// OpenAt is Open from a byte on, counted from 0. It is nil if the source cannot do that.
	OpenAt func(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// Store is a directory with layers. Any number of goroutines and processes may use one directory.
//
// It holds <algorithm>/<hex> for each layer, the uncompressed tar named after its digest; <algorithm>/<hex>.partial
// while a layer is being written; and locks/<hex>, held by whoever writes that layer.
type Store struct {
	dir string
}

// partial ends the name of a file that is being written.
const partial = ".partial"

// NewStore returns the store at dir, which is made when the first layer comes.
func NewStore(dir string) *Store { return &Store{dir: dir} }

func (s *Store) path(id digest.Digest) string {
	return filepath.Join(s.dir, id.Algorithm().String(), id.Encoded())
}

func (s *Store) lockPath(hex string) string { return filepath.Join(s.dir, "locks", hex) }

// Ensure returns the layer, and fetches it only if the store does not have it, or has it with other bytes than its
// digest says. Both digests and the size of the blob are checked. Who wants a layer that another fetches waits for
// it, until ctx ends. The caller closes the layer.
//
// After an error the store has nothing that it did not have before. What does not match is a fault.Corrupt, a blob that is no tar a
// fault.Unsupported, a full disk a fault.NoSpace; errors of Open and of reading what it returned keep their kind.
func (s *Store) Ensure(ctx context.Context, b Blob) (*Layer, error) {
	l, err := s.ensure(ctx, b)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("getting the layer %s: %w", b.DiffID, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("getting the layer %s: %w", b.DiffID, err)
	}
	return l, nil
}

func (s *Store) ensure(ctx context.Context, b Blob) (*Layer, error) {
	id, err := parseDigest("diff_id", b.DiffID)
	if err != nil {
		return nil, err
	}
	l, err := s.open(ctx, id)
	if err == nil || !isAbsent(err) {
		return l, err
	}
	held, err := lock.Acquire(ctx, s.lockPath(id.Encoded()))
	if err != nil {
		return nil, err
	}
	defer held.Release()
	l, err = s.open(ctx, id) // another may have fetched it meanwhile
	if err == nil || !isAbsent(err) {
		return l, err
	}
	if errors.Is(err, errDamaged) {
		_ = os.Remove(s.path(id)) // if that fails, the rename replaces it
	}
	return s.fetch(ctx, id, b)
}

// errDamaged is a layer of the store that is not what its name says.
var errDamaged = errors.New("the stored layer does not match its digest")

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) }

// open reads a layer of the store from end to end.
func (s *Store) open(ctx context.Context, id digest.Digest) (*Layer, error) {
	file, err := os.OpenFile(s.path(id), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	l, err := read(ctx, file, id)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return l, nil
}

// read checks and parses an uncompressed layer. The layer owns the file if there is no error.
func read(ctx context.Context, file *os.File, id digest.Digest) (*Layer, error) {
	hash := id.Algorithm().Hash()
	f := newFlow(contextReader{ctx, file}, hash)
	defer f.Close()
	entries, parseErr := readEntries(f)
	if err := f.drain(); err != nil {
		return nil, err
	}
	if digest.NewDigest(id.Algorithm(), hash) != id {
		return nil, errDamaged
	}
	if parseErr != nil {
		return nil, parseErr
	}
	return &Layer{DiffID: id.String(), Entries: entries, Blob: file, close: file.Close}, nil
}

// contextReader ends with ctx.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// fetch writes the layer and publishes it. The caller holds the layer's lock.
func (s *Store) fetch(ctx context.Context, id digest.Digest, b Blob) (*Layer, error) {
	path := s.path(id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, noSpace(fmt.Errorf("making the layer store: %w", err))
	}
	s.removeAbandoned(filepath.Dir(path))
	temp := path + partial
	file, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, noSpace(fmt.Errorf("making the layer's file: %w", err))
	}
	l, err := s.write(ctx, file, id, b)
	if err == nil {
		err = publish(file, temp, path)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(temp)
		return nil, err
	}
	return l, nil
}

// write fills the file from the blob, and parses and checks what goes through.
func (s *Store) write(ctx context.Context, file *os.File, id digest.Digest, b Blob) (*Layer, error) {
	d, err := newDownload(ctx, b)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.unpack(file, id)
	if err != nil {
		return nil, err
	}
	return &Layer{DiffID: id.String(), Entries: entries, Blob: file, close: file.Close}, nil
}

// publish makes the file last, and then visible under its name.
func publish(file *os.File, temp, path string) error {
	if err := file.Sync(); err != nil {
		return noSpace(fmt.Errorf("saving the layer: %w", err))
	}
	if err := os.Rename(temp, path); err != nil {
		return noSpace(fmt.Errorf("publishing the layer: %w", err))
	}
	if err := fsync.Path(filepath.Dir(path)); err != nil {
		return fmt.Errorf("publishing the layer: %w", err)
	}
	return nil
}

// removeAbandoned removes what processes left that were killed: partial files whose lock nobody holds. A failure costs
// only the space, and the next fetch tries again.
func (s *Store) removeAbandoned(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*"+partial))
	for _, file := range files {
		held, err := lock.Try(s.lockPath(strings.TrimSuffix(filepath.Base(file), partial)))
		if err != nil || held == nil {
			continue
		}
		_ = os.Remove(file)
		held.Release()
	}
}

// noSpace makes a full disk a fault.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.NoSpace, err, "free some space on the disk that holds banger's home directory")
	}
	return err
}
