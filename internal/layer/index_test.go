package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// at is a moment as an entry has it.
func at(seconds, nanoseconds int64) time.Time { return time.Unix(seconds, nanoseconds).UTC() }

// variety is a tar with every kind of entry.
func variety(t testing.TB) []byte {
	t.Helper()
	return tarOf(t,
		member{tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 1 << 31, ModTime: at(-5, 7)}, ""},
		member{tar.Header{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o4755, ModTime: at(1<<40, 999_999_999), PAXRecords: map[string]string{
			paxXattr + "user.a": "value", paxXattr + "security.capability": "\x01\x00\x00\x02\xff",
		}}, "content"},
		member{tar.Header{Name: "dir/empty", Typeflag: tar.TypeReg}, ""},
		member{tar.Header{Name: "dir/link", Typeflag: tar.TypeLink, Linkname: "dir/file"}, ""},
		member{tar.Header{Name: "dir/symlink", Typeflag: tar.TypeSymlink, Linkname: "../\xff"}, ""},
		member{tar.Header{Name: "dir/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
		member{tar.Header{Name: "dir/disk", Typeflag: tar.TypeBlock, Devmajor: 1 << 20, Devminor: 1 << 20}, ""},
		member{tar.Header{Name: "dir/fifo", Typeflag: tar.TypeFifo}, ""},
		member{tar.Header{Name: "dir/.wh.gone", Typeflag: tar.TypeReg}, ""},
	)
}

// sparseEntry is a file with holes, which a tar of archive/tar cannot have.
func sparseEntry() Entry {
	return Entry{Name: "sparse", Type: Regular, MTime: at(0, 0), Size: 1 << 40, Sum: 7, HasSum: true, Extents: []Extent{
		{Logical: 10, Offset: 512, Length: 100}, {Logical: 1 << 39, Offset: 612, Length: 1},
	}}
}

func writtenIndex(t testing.TB, id digest.Digest, size int64, entries List) string {
	t.Helper()
	var out bytes.Buffer
	if err := writeIndex(&out, id, size, entries); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestIndex: what is read is what was written.
func TestIndex(t *testing.T) {
	plain := variety(t)
	entries, err := Entries(bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	entries.Append(sparseEntry())
	id, size := digest.FromBytes(plain), int64(len(plain))
	path := writtenIndex(t, id, size, entries)
	got, err := readIndex(path, id, size)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range collect(entries) {
		if e := collect(got)[i]; !reflect.DeepEqual(e, want) {
			t.Errorf("entry %d:\ngot  %+v\nwant %+v", i, e, want)
		}
	}
	if got.Len() != entries.Len() {
		t.Errorf("got %d entries, want %d", got.Len(), entries.Len())
	}
	for name, other := range map[string]func() (List, error){
		"another layer": func() (List, error) { return readIndex(path, digest.FromString("other"), size) },
		"another size":  func() (List, error) { return readIndex(path, id, size+1) },
	} {
		if _, err := other(); !errors.Is(err, errIndex) {
			t.Errorf("the index of %s: got %v, want %v", name, err, errIndex)
		}
	}
	if _, err := readIndex(path+"x", id, size); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no index: got %v", err)
	}
}

// TestDamagedIndex: an index with any bit flipped, or cut anywhere, is no index.
func TestDamagedIndex(t *testing.T) {
	plain := variety(t)
	entries, err := Entries(bytes.NewReader(plain))
	if err != nil {
		t.Fatal(err)
	}
	id, size := digest.FromBytes(plain), int64(len(plain))
	path := writtenIndex(t, id, size, entries)
	intact, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range intact {
		damaged := bytes.Clone(intact)
		damaged[i] ^= 1 << (i % 8)
		for _, data := range [][]byte{damaged, intact[:i]} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readIndex(path, id, size); !errors.Is(err, errIndex) {
				t.Fatalf("an index of %d bytes, cut or damaged at byte %d: got %v, want %v", len(data), i, err, errIndex)
			}
		}
	}
}

// FuzzIndex gives the reader indexes with a right checksum and any content: it must neither panic nor believe what cannot
// be, such as contents outside the layer.
func FuzzIndex(f *testing.F) {
	plain := variety(f)
	entries, err := Entries(bytes.NewReader(plain))
	if err != nil {
		f.Fatal(err)
	}
	entries.Append(sparseEntry())
	id, size := digest.FromBytes(plain), int64(len(plain))
	var out bytes.Buffer
	if err := writeIndex(&out, id, size, entries); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes()[:out.Len()-4])
	path := filepath.Join(f.TempDir(), "index")
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := Sum(0).Add(data)
		data = append(bytes.Clone(data), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readIndex(path, id, size)
		if err != nil {
			return
		}
		for e := range got.All() {
			for _, x := range e.Extents {
				if x.Offset < 0 || x.Length < 0 || x.Offset+x.Length > size || x.Logical < 0 || x.Logical+x.Length > e.Size {
					t.Fatalf("the entry %q has the extent %+v in a layer of %d bytes", e.Name, x, size)
				}
			}
		}
	})
}

// TestDamagedStore damages the store in every way. The layer is right in the end, by being fetched again only where its
// tar is at fault, and where that shows only to who reads the contents, these do not have their sums.
func TestDamagedStore(t *testing.T) {
	plain := sample(t)
	flip := func(path string, at int) error {
		data, err := os.ReadFile(path)
		if err == nil {
			data[at] ^= 4
			err = os.WriteFile(path, data, 0o600)
		}
		return err
	}
	truncate := func(path string) error { return os.Truncate(path, 100_000) }
	tests := []struct {
		name   string
		damage func(layer, index string) error
		opened int32 // how often the blob is, the first time included
	}{
		{"none", func(string, string) error { return nil }, 1},
		{"no index", func(_, i string) error { return os.Remove(i) }, 1},
		{"no layer", func(l, _ string) error { return os.Remove(l) }, 2},
		{"empty index", func(_, i string) error { return os.Truncate(i, 0) }, 1},
		{"index cut", func(_, i string) error { return os.Truncate(i, 40) }, 1},
		{"index flipped", func(_, i string) error { return flip(i, 50) }, 1},
		{"index is a directory", func(_, i string) error { return errors.Join(os.Remove(i), os.Mkdir(i, 0o700)) }, 1},
		{"layer cut", func(l, _ string) error { return truncate(l) }, 2},
		{"layer longer", func(l, _ string) error { return os.Truncate(l, int64(len(plain)+512)) }, 2},
		{"layer cut, no index", func(l, i string) error { return errors.Join(truncate(l), os.Remove(i)) }, 2},
		{"layer flipped, no index", func(l, i string) error { return errors.Join(flip(l, 100_000), os.Remove(i)) }, 2},
		{"layer flipped, index cut", func(l, i string) error { return errors.Join(flip(l, 100_000), os.Truncate(i, 40)) }, 2},
		{"layer empty", func(l, _ string) error { return os.Truncate(l, 0) }, 2},
		{"layer is a symlink", func(l, _ string) error { return errors.Join(os.Remove(l), os.Symlink("/dev/zero", l)) }, 2},
		{"layer of a crash", func(l, _ string) error { return os.WriteFile(l, make([]byte, len(plain)), 0o600) }, 2},
		{"layer flipped", func(l, _ string) error { return flip(l, 100_000) }, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := NewStore(t.TempDir())
			var opened atomic.Int32
			blob := blobOf(plain, gzipped(t, plain), &opened)
			l, err := store.Ensure(t.Context(), blob)
			if err != nil {
				t.Fatal(err)
			}
			checkLayer(t, l, plain)
			path := store.path(digest.Digest(blob.DiffID))
			if err := test.damage(path, path+index); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if l, err = store.Ensure(t.Context(), blob); err != nil {
					t.Fatalf("Ensure: %v", err)
				}
				if sumsMatch(t, l) {
					break
				}
				if err := errors.Join(l.Discard(t.Context()), l.Close()); err != nil {
					t.Fatal(err)
				}
			}
			checkLayer(t, l, plain)
			if got := opened.Load(); got != test.opened {
				t.Errorf("the blob was opened %d times, want %d", got, test.opened)
			}
			l, err = store.Ensure(t.Context(), blob)
			if err != nil {
				t.Fatal(err)
			}
			checkLayer(t, l, plain)
			if got := opened.Load(); got != test.opened {
				t.Errorf("after the repair the blob was opened %d times, want %d", got, test.opened)
			}
		})
	}
}

// sumsMatch reads all files of the layer.
func sumsMatch(t *testing.T, l *Layer) bool {
	t.Helper()
	for e := range l.Entries.All() {
		var sum Sum
		for _, x := range e.Extents {
			data := make([]byte, x.Length)
			if _, err := l.Blob.ReadAt(data, x.Offset); err != nil {
				t.Fatal(err)
			}
			sum = sum.Add(data)
		}
		if e.Type == Regular && sum != e.Sum {
			return false
		}
	}
	return true
}

// TestDiscardOfWhatWasReplaced: a layer that another process has fetched again meanwhile stays.
func TestDiscardOfWhatWasReplaced(t *testing.T) {
	store := NewStore(t.TempDir())
	plain := sample(t)
	blob := blobOf(plain, plain, nil)
	old, err := store.Ensure(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Discard(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh, err := store.Ensure(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	checkLayer(t, fresh, plain)
	if err := errors.Join(old.Discard(t.Context()), old.Close()); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, store.dir); len(got) != 2 {
		t.Errorf("the store has %v, want the layer and its index", got)
	}
}

// BenchmarkIndex reads the index of a layer with many files.
func BenchmarkIndex(b *testing.B) {
	var entries List
	random := rand.New(rand.NewPCG(5, 6))
	for range 36_000 {
		e := Entry{Name: "usr/share/doc/" + string(rune('a'+random.IntN(26))) + "/copyright", Type: Regular, MTime: at(1, 2)}
		e.Size, e.HasSum = 1000, true
		e.Extents = []Extent{{Offset: 512, Length: 1000}}
		entries.Append(e)
	}
	id := digest.FromString("layer")
	path := writtenIndex(b, id, 1<<20, entries)
	for b.Loop() {
		if _, err := readIndex(path, id, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
