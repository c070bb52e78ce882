package layer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// storedAs puts bytes into a store under the digest of others.
func storedAs(t *testing.T, s *Store, of, data []byte) digest.Digest {
	t.Helper()
	id := digest.FromBytes(of)
	if err := os.MkdirAll(s.dir+"/sha256", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(id), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestContents: all of a layer is copied, whatever its size, also one that is removed meanwhile.
func TestContents(t *testing.T) {
	s := NewStore(t.TempDir())
	for _, size := range []int{0, 1, pieceSize - 1, pieceSize, 3*pieceSize + 7} {
		data := bytes.Repeat([]byte("layer"), size/5+1)[:size]
		id := storedAs(t, s, data, data)
		c, err := s.Contents(id.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.remove(id); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := c.CopyTo(t.Context(), &out); err != nil || !bytes.Equal(out.Bytes(), data) || c.Size != int64(size) {
			t.Errorf("a layer of %d bytes: copied %d of %d (%v)", size, out.Len(), c.Size, err)
		}
		_ = c.Close()
		if _, err := s.Contents(id.String()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a layer that is not there: %v, want that it does not exist", err)
		}
	}
	if _, err := s.Contents("sha256:../../x"); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("a diff_id that is none: %v", err)
	}
}

// TestDamagedContents: of a damaged layer the end is never written, and it is gone from the store.
func TestDamagedContents(t *testing.T) {
	good := bytes.Repeat([]byte("layer"), pieceSize/2)
	other := bytes.Clone(good)
	other[len(other)-1] ^= 1
	for name, data := range map[string][]byte{"another last byte": other, "too short": good[:1000], "empty": nil} {
		s := NewStore(t.TempDir())
		id := storedAs(t, s, good, data)
		c, err := s.Contents(id.String())
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := c.CopyTo(t.Context(), &out); fault.KindOf(err) != fault.Corrupt || out.Len() >= len(data) && len(data) > 0 {
			t.Errorf("%s: copied %d of %d bytes (%v), want an error before the end", name, out.Len(), len(data), err)
		}
		_ = c.Close()
		if _, err := os.Stat(s.path(id)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the damaged layer is still in the store (%v)", name, err)
		}
	}
}

// TestContentsShrink: a file that is cut while it is read is damaged as well; a writer that fails and a context that ends
// are not the layer's fault.
func TestContentsShrink(t *testing.T) {
	s := NewStore(t.TempDir())
	data := bytes.Repeat([]byte("layer"), pieceSize/2)
	id := storedAs(t, s, data, data)
	open := func() *Contents {
		c, err := s.Contents(id.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open().CopyTo(ctx, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	full := errors.New("no room")
	if err := open().CopyTo(t.Context(), refusing{full}); !errors.Is(err, full) || fault.KindOf(err) != fault.Failure {
		t.Errorf("a writer that fails: %v, want its error", err)
	}
	c := open()
	if err := os.Truncate(s.path(id), pieceSize); err != nil {
		t.Fatal(err)
	}
	if err := c.CopyTo(t.Context(), &bytes.Buffer{}); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("a file that is cut: %v, want that it is damaged", err)
	}
}

// refusing refuses every byte.
type refusing struct{ error }

func (r refusing) Write([]byte) (int, error) { return 0, r.error }
