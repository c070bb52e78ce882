package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// largeSample is a layer of which the beginning is worth keeping.
func largeSample(t testing.TB) []byte {
	t.Helper()
	large := make([]byte, 3*worthKeeping+123)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(large)
	return tarOf(t,
		member{tar.Header{Name: "large", Typeflag: tar.TypeReg, Mode: 0o644}, string(large)},
		member{tar.Header{Name: "last", Typeflag: tar.TypeReg, Mode: 0o644}, "the end"},
	)
}

// cut returns the blob as a source has it whose connection breaks after n bytes of each answer.
func cut(b Blob, n int64, broken error) Blob {
	openAt := b.OpenAt
	b.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		r, err := openAt(ctx, offset)
		if err != nil {
			return nil, err
		}
		return &sender{Reader: io.LimitReader(r, n), fail: broken, closed: new(atomic.Bool)}, nil
	}
	b.Open = func(ctx context.Context) (io.ReadCloser, error) { return b.OpenAt(ctx, 0) }
	return b
}

// oddDir returns a path, of nothing yet, with characters that mean something to shells.
func oddDir(t *testing.T) string { return filepath.Join(t.TempDir(), "a [home] *?") }

// TestDownloadGoesOn: a download that breaks is continued by the next one, until all is there.
func TestDownloadGoesOn(t *testing.T) {
	plain := largeSample(t)
	packed := gzipped(t, plain)
	broken := fault.New(fault.Unreachable, errors.New("the line is dead"), "")
	for name, gunzip := range decompressors(t) {
		for _, end := range []error{broken, nil} { // an error, or an answer that is too short
			store := NewStore(oddDir(t))
			store.Gunzip = gunzip
			var sent atomic.Int64
			blob := counted(blobOf(plain, packed, nil), &sent)
			pulls := 0
			for ; pulls < 10; pulls++ {
				l, err := store.Ensure(t.Context(), cut(blob, 4_000_000, end))
				if err == nil {
					checkLayer(t, l, plain)
					break
				}
				if len(stored(t, store.dir)) != 1 || !strings.HasSuffix(stored(t, store.dir)[0], unfinished) {
					t.Fatalf("%s: after %v the store has %v, want the beginning of the blob alone", name, err, stored(t, store.dir))
				}
			}
			if want := len(packed) / 4_000_000; pulls != want || sent.Load() != int64(len(packed)) {
				t.Errorf("%s: the layer was there after %d broken pulls and %d bytes, want %d and each of the %d bytes once",
					name, pulls, sent.Load(), want, len(packed))
			}
			hex := digest.FromBytes(plain).Encoded()
			if got, want := stored(t, store.dir), []string{hex, hex + index}; !slices.Equal(got, want) {
				t.Errorf("%s: the store has %v, want %v", name, got, want)
			}
		}
	}
}

// TestDamagedBeginning: what was kept of a download is not trusted.
func TestDamagedBeginning(t *testing.T) {
	plain := largeSample(t)
	packed := gzipped(t, plain)
	flipped := bytes.Clone(packed[:worthKeeping])
	flipped[100_000] ^= 1
	for name, kept := range map[string][]byte{
		"intact": packed[:worthKeeping], "complete": packed, "empty": {}, "flipped": flipped,
		"zeros": make([]byte, worthKeeping), "too long": append(bytes.Clone(packed), 0), "of another blob": bytes.Repeat([]byte("x"), len(packed)),
	} {
		t.Run(name, func(t *testing.T) {
			store := NewStore(t.TempDir())
			var sent atomic.Int64
			blob := counted(blobOf(plain, packed, nil), &sent)
			path := store.beginningPath(digest.Digest(blob.DiffID), digest.Digest(blob.Digest))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, kept, 0o600)); err != nil {
				t.Fatal(err)
			}
			l, err := store.Ensure(t.Context(), blob)
			if err != nil {
				t.Fatalf("Ensure: %v", err)
			}
			checkLayer(t, l, plain)
			if want := int64(len(packed) - len(kept)); (name == "intact" || name == "complete") && sent.Load() != want {
				t.Errorf("the source sent %d bytes, want the %d that were missing", sent.Load(), want)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("the beginning is still there")
			}
		})
	}
}

// TestOldBeginnings: what nobody continues is removed in the end, and what somebody is at, or may be soon, is not.
func TestOldBeginnings(t *testing.T) {
	store := NewStore(oddDir(t))
	plain := sample(t)
	dir := filepath.Join(store.dir, "sha256")
	old, young := strings.Repeat("a", 64)+".0123456789abcdef"+unfinished, strings.Repeat("b", 64)+".0123456789abcdef"+unfinished
	long := time.Now().Add(-2 * keptFor)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, old), []byte("x"), 0o600),
		os.WriteFile(filepath.Join(dir, young), []byte("x"), 0o600), os.Chtimes(filepath.Join(dir, old), long, long)); err != nil {
		t.Fatal(err)
	}
	l, err := store.Ensure(t.Context(), blobOf(plain, plain, nil))
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	checkLayer(t, l, plain)
	if got := stored(t, store.dir); slices.Contains(got, old) || !slices.Contains(got, young) {
		t.Errorf("the store has %v, want %s gone and %s there", got, old, young)
	}
}

// TestOtherBeginning: a layer that is there takes along what was kept of another blob of it.
func TestOtherBeginning(t *testing.T) {
	plain := sample(t)
	blob := blobOf(plain, plain, nil)
	store := NewStore(oddDir(t))
	hex := digest.FromBytes(plain).Encoded()
	dir := filepath.Join(store.dir, "sha256")
	err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, hex+".0123456789abcdef"+unfinished), []byte("x"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Ensure(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	checkLayer(t, l, plain)
	if got, want := stored(t, store.dir), []string{hex, hex + index}; !slices.Equal(got, want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
}

const killedStore = "BANGER_TEST_KILLED_STORE" // makes the test a child of TestKilled

// TestKilled kills processes that fetch a layer at any moment. Whatever they leave, the next one goes on, and the last has
// the layer and nothing else.
func TestKilled(t *testing.T) {
	plain := largeSample(t)
	packed := gzipped(t, plain)
	if dir := os.Getenv(killedStore); dir != "" {
		ensureSlowly(t, dir, plain, packed)
		return
	}
	random := rand.New(rand.NewPCG(3, 4))
	for _, gunzip := range []string{"", "igzip"} {
		dir := t.TempDir()
		for range 12 {
			cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
			cmd.Env = append(os.Environ(), killedStore+"="+dir, "GUNZIP="+gunzip)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(50+random.IntN(900)) * time.Millisecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			checkRemains(t, dir, plain)
		}
		l, err := NewStore(dir).Ensure(t.Context(), blobOf(plain, packed, nil))
		if err != nil {
			t.Fatalf("Ensure after the kills: %v", err)
		}
		checkLayer(t, l, plain)
		hex := digest.FromBytes(plain).Encoded()
		if got, want := stored(t, dir), []string{hex, hex + index}; !slices.Equal(got, want) {
			t.Errorf("after the kills the store has %v, want %v", got, want)
		}
	}
}

// checkRemains checks that what has the layer's name is the layer.
func checkRemains(t *testing.T, dir string, plain []byte) {
	t.Helper()
	path := NewStore(dir).path(digest.FromBytes(plain))
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, plain) {
		t.Errorf("after a kill the layer's file has %d bytes that are not the layer", len(got))
	}
}

// ensureSlowly fetches the layer again and again, so that the kill can come at every step.
func ensureSlowly(t *testing.T, dir string, plain, packed []byte) {
	store := NewStore(dir)
	if name := os.Getenv("GUNZIP"); name != "" {
		store.Gunzip = gunzipBy(name, "-d", "-c")
	}
	for {
		var sent atomic.Int64
		blob := counted(blobOf(plain, packed, nil), &sent)
		openAt := blob.OpenAt
		blob.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			r, err := openAt(ctx, offset)
			return struct {
				io.Reader
				io.Closer
			}{slowly{r}, r}, err
		}
		l, err := store.Ensure(t.Context(), blob)
		if err != nil {
			t.Fatalf("Ensure: %v", err)
		}
		checkLayer(t, l, plain)
		if err := l.Discard(t.Context()); err == nil {
			t.Fatal("a closed layer was discarded")
		}
		_ = os.Remove(store.path(digest.Digest(blob.DiffID)))
	}
}

// slowly reads 40 MB or so in a second.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 40_000)])
}

// TestDiskFullKeepsNothing: a download that does not fit leaves no beginning behind.
func TestDiskFullKeepsNothing(t *testing.T) {
	dir := smallDisk(t, "size=9m")
	plain := largeSample(t)
	for name, gunzip := range decompressors(t) {
		store := NewStore(dir)
		store.Gunzip = gunzip
		blob := counted(blobOf(plain, gzipped(t, plain), nil), new(atomic.Int64))
		_, err := store.Ensure(t.Context(), blob)
		if fault.KindOf(err) != fault.NoSpace {
			t.Errorf("%s: got %v, want a fault about the space", name, err)
		}
		if got := stored(t, dir); len(got) > 0 {
			t.Errorf("%s: on the full disk the store has %v, want nothing", name, got)
		}
	}
}

// TestRemoveTakesTheIndex: the index goes with it.
func TestRemoveTakesTheIndex(t *testing.T) {
	store := NewStore(t.TempDir())
	plain := sample(t)
	l, err := store.Ensure(t.Context(), blobOf(plain, plain, nil))
	if err != nil {
		t.Fatal(err)
	}
	checkLayer(t, l, plain)
	nothing := func() (func(string) bool, error) { return func(string) bool { return false }, nil }
	if removed, err := store.Remove(t.Context(), list(t, store), nothing); err != nil || len(removed) != 1 {
		t.Fatalf("removing the layer: %v, %v", removed, err)
	}
	if got := stored(t, store.dir); len(got) > 0 {
		t.Errorf("after everything was removed the store has %v", got)
	}
}
