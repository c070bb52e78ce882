package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
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
// It holds <algorithm>/<hex> for each layer, the uncompressed tar named after its digest, and <hex>.index beside it, the
// list of its entries; <hex>.partial and <hex>.index.partial while these are being written; <hex>.<hex of the blob,
// shortened>.download with the beginning of a blob that has not come to its end; and locks/<hex>, held by whoever
// changes any of them.
//
// Nothing is synced to the disk: it takes as long as fetching. What a crash of the machine loses of a layer is found as
// any other damage is, by the sums in the index, and damage to the index by its own.
type Store struct {
	// Gunzip decompresses large layers in gzip. nil has Go do it, as is done whenever the program fails. It is set before
	// the store is used.
	Gunzip Gunzip
	dir    string
}

const (
	partial = ".partial" // ends the name of a file that is being written
	index   = ".index"   // ends the name of an index
)

// NewStore returns the store at dir, which is made when the first layer comes.
func NewStore(dir string) *Store { return &Store{dir: dir} }

func (s *Store) path(id digest.Digest) string {
	return filepath.Join(s.dir, id.Algorithm().String(), id.Encoded())
}

func (s *Store) lockPath(hex string) string { return filepath.Join(s.dir, "locks", hex) }

// Ensure returns the layer, and fetches it only if the store does not have it. A layer that is fetched has both of its
// digests and its size checked. One that the store has is taken by its index, if that is intact and of a file of this
// size: whoever reads the contents of its entries has to compare them with the entries' sums, and Discard the layer if they
// differ. Without such an index the layer is hashed, and fetched again if it is damaged.
//
// Who wants a layer that another fetches waits for it, until ctx ends. The caller closes the layer.
//
// After an error the store has nothing that it did not have before, except for the beginning of a large blob whose source
// can be asked for the rest. What does not match is a fault.Corrupt, a blob that is no tar a fault.Unsupported, a full disk
// a fault.NoSpace; errors of Open and of reading what it returned keep their kind.
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
	if l, err := s.openIndexed(id); err == nil {
		return l, nil
	}
	held, err := lock.Acquire(ctx, s.lockPath(id.Encoded()))
	if err != nil {
		return nil, err
	}
	defer held.Release()
	if l, err := s.openIndexed(id); err == nil { // another may have fetched it meanwhile
		return l, nil
	}
	l, err := s.reindex(ctx, id)
	if err == nil || !isAbsent(err) {
		return l, err
	}
	s.drop(id)
	return s.fetch(ctx, id, b)
}

// errDamaged is a layer of the store that is not what its name says.
var errDamaged = errors.New("the stored layer does not match its digest")

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) }

// drop removes a layer and its index. The caller holds the layer's lock.
func (s *Store) drop(id digest.Digest) {
	_ = os.Remove(s.path(id) + index)
	_ = os.Remove(s.path(id))
}

// openIndexed opens a layer of the store that has an index, and reads no more of it.
func (s *Store) openIndexed(id digest.Digest) (*Layer, error) {
	file, err := openStored(s.path(id))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var entries List
		if entries, err = readIndex(s.path(id)+index, id, info.Size()); err == nil {
			return s.layer(id, file, entries), nil
		}
	}
	return nil, errors.Join(err, file.Close())
}

func openStored(path string) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, errDamaged
	}
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
}

func (s *Store) layer(id digest.Digest, file *os.File, entries List) *Layer {
	return &Layer{DiffID: id.String(), Entries: entries, Blob: file, file: file, store: s}
}

// reindex reads a layer of the store from end to end, and gives it an index. The caller holds the layer's lock.
func (s *Store) reindex(ctx context.Context, id digest.Digest) (*Layer, error) {
	file, err := openStored(s.path(id))
	if err != nil {
		return nil, err
	}
	entries, err := read(ctx, file, id)
	if err == nil {
		err = s.publishIndex(id, file, entries)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s.layer(id, file, entries), nil
}

// read checks and parses an uncompressed layer.
func read(ctx context.Context, file io.Reader, id digest.Digest) (List, error) {
	hash := id.Algorithm().Hash()
	f := newFlow(contextReader{ctx, file}, hash)
	defer f.Close()
	entries, parseErr := readEntries(f)
	if err := f.drain(); err != nil {
		return List{}, err
	}
	if digest.NewDigest(id.Algorithm(), hash) != id {
		return List{}, errDamaged
	}
	return entries, parseErr
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

// discard removes a layer whose file turned out to be damaged, unless another has taken its place.
func (s *Store) discard(ctx context.Context, id digest.Digest, damaged *os.File) error {
	held, err := lock.Acquire(ctx, s.lockPath(id.Encoded()))
	if err != nil {
		return err
	}
	defer held.Release()
	mine, err := damaged.Stat()
	if err != nil {
		return err
	}
	if current, err := os.Lstat(s.path(id)); err == nil && os.SameFile(mine, current) {
		s.drop(id)
	}
	return nil
}

// noSpace makes a full disk a fault.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.NoSpace, err, "free some space on the disk that holds banger's home directory")
	}
	return err
}
