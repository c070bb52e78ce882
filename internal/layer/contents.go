package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// Contents is the uncompressed tar of a layer of the store, to be read once from its beginning to its end. It stays
// readable when the layer is removed from the store meanwhile.
type Contents struct {
	Size int64 // bytes

	store *Store
	id    digest.Digest
	file  *os.File
	hash  digest.Digester
	left  int64
}

// Contents opens a layer by its diff_id. One that the store does not have is fs.ErrNotExist. The caller closes it.
func (s *Store) Contents(diffID string) (*Contents, error) {
	id, err := parseDigest("diff_id", diffID)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(s.path(id), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the layer %s: %w", id, err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("opening the layer %s: %w", id, err)
	}
	return &Contents{
		Size: info.Size(), store: s, id: id, file: file, hash: id.Algorithm().Digester(), left: info.Size(),
	}, nil
}

// CopyTo writes the whole tar. The last piece is only written once all of it has turned out to have the digest that is
// the layer's name. A layer that is damaged is removed from the store; the error is a fault.Corrupt.
func (c *Contents) CopyTo(ctx context.Context, w io.Writer) error {
	buffer := make([]byte, pieceSize)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		piece := buffer[:min(c.left, pieceSize)]
		if _, err := io.ReadFull(c.file, piece); err != nil {
			return c.failed(ctx, err)
		}
		c.left -= int64(len(piece))
		_, _ = c.hash.Hash().Write(piece)
		if c.left == 0 && c.hash.Digest() != c.id {
			return c.failed(ctx, errDamaged)
		}
		if _, err := w.Write(piece); err != nil {
			return fmt.Errorf("copying the layer %s: %w", c.id, err)
		}
		if c.left == 0 {
			return nil
		}
	}
}

// failed removes a damaged layer.
func (c *Contents) failed(ctx context.Context, err error) error {
	err = fmt.Errorf("reading the layer %s: %w", c.id, err)
	if !errors.Is(err, errDamaged) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	_ = c.store.discard(ctx, c.id, c.file) // if that fails, whoever uses the layer next finds it damaged as well
	return fault.New(fault.Corrupt, err, "it has been removed: try again, and it is fetched anew")
}

// Close releases the file.
func (c *Contents) Close() error { return c.file.Close() }
