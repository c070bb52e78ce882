package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

// sample is a layer of some megabytes, which do not compress, so that it takes several pieces.
func sample(t testing.TB) []byte {
	t.Helper()
	large := make([]byte, 3<<20+77)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	return tarOf(t,
		member{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, ""},
		member{tar.Header{Name: "etc/large", Typeflag: tar.TypeReg, Mode: 0o644}, string(large)},
		member{tar.Header{Name: "etc/hello", Typeflag: tar.TypeReg, Mode: 0o644}, "hello"},
	)
}

func gzipped(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, part := range parts {
		w, err := gzip.NewWriterLevel(&out, gzip.HuffmanOnly)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func zstandard(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, part := range parts {
		out = w.EncodeAll(part, out)
	}
	return out
}

// blobOf describes a blob that is what it should be. It counts how often it is opened.
func blobOf(plain, stored []byte, opened *atomic.Int32) Blob {
	return Blob{
		Digest: digest.FromBytes(stored).String(), DiffID: digest.FromBytes(plain).String(), Size: int64(len(stored)),
		Open: func(context.Context) (io.ReadCloser, error) {
			if opened != nil {
				opened.Add(1)
			}
			return io.NopCloser(bytes.NewReader(stored)), nil
		},
	}
}

// checkLayer checks that the layer is the sample or another tar, by its entries and by its bytes.
func checkLayer(t *testing.T, l *Layer, plain []byte) {
	t.Helper()
	if want := digest.FromBytes(plain).String(); l.DiffID != want {
		t.Errorf("got the layer %s, want %s", l.DiffID, want)
	}
	got, err := io.ReadAll(io.NewSectionReader(l.Blob, 0, int64(len(plain))+1))
	if err != nil || !bytes.Equal(got, plain) {
		t.Errorf("the layer's blob: got %d bytes, %v; want the %d of the tar", len(got), err, len(plain))
	}
	checkContents(t, plain, collect(l.Entries))
	if err := l.Close(); err != nil {
		t.Errorf("closing the layer: %v", err)
	}
}

// stored lists the files of the store, without locks.
func stored(t *testing.T, dir string) []string {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), "sha*/*")
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}

func TestEnsureFormats(t *testing.T) {
	plain := sample(t)
	half := len(plain) / 2
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	tests := []struct {
		name   string
		stored []byte
	}{
		{"plain", plain},
		{"gzip", gzipped(t, plain)},
		{"gzip members", gzipped(t, plain[:half], plain[half:], nil)},
		{"gzip with padding", append(gzipped(t, plain), make([]byte, 1000)...)},
		{"zstd", zstandard(t, plain)},
		{"zstd frames", slices.Concat(skippable, zstandard(t, plain[:half]), skippable, zstandard(t, plain[half:]), skippable)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			var opened atomic.Int32
			blob := blobOf(plain, test.stored, &opened)
			blob.MediaType = "application/vnd.oci.image.layer.v1.tar+unheard-of"
			for range 2 {
				l, err := NewStore(dir).Ensure(t.Context(), blob)
				if err != nil {
					t.Fatalf("Ensure: %v", err)
				}
				checkLayer(t, l, plain)
			}
			if got := opened.Load(); got != 1 {
				t.Errorf("the blob was opened %d times, want once for two calls", got)
			}
			hex := digest.FromBytes(plain).Encoded()
			if got, want := stored(t, dir), []string{hex, hex + index}; !slices.Equal(got, want) {
				t.Errorf("the store has %v, want %v", got, want)
			}
		})
	}
}

func TestEnsureDataAfterTheTar(t *testing.T) {
	plain := append(sample(t), "not read by tar, but a part of the digest"...)
	l, err := NewStore(t.TempDir()).Ensure(t.Context(), blobOf(plain, gzipped(t, plain), nil))
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	checkLayer(t, l, plain)
}

func TestEnsureUnknownDigestAndSize(t *testing.T) {
	for _, plain := range [][]byte{sample(t), {}, make([]byte, 1024)} {
		blob := blobOf(plain, plain, nil)
		blob.Digest, blob.Size = "", -1
		l, err := NewStore(t.TempDir()).Ensure(t.Context(), blob)
		if err != nil {
			t.Fatalf("Ensure of %d bytes: %v", len(plain), err)
		}
		checkLayer(t, l, plain)
	}
}

func TestEnsureFailures(t *testing.T) {
	plain := sample(t)
	packed := gzipped(t, plain)
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	broken := errors.New("the line is dead")
	good := blobOf(plain, packed, nil)
	tests := []struct {
		name  string
		blob  Blob
		sent  []byte
		fail  error // after what is sent
		kind  fault.Kind
		words string
	}{
		{"truncated", good, packed[:1000], nil, fault.Corrupt, fmt.Sprintf("sent 1000 of %d bytes", len(packed))},
		{"nothing", good, nil, nil, fault.Corrupt, fmt.Sprintf("sent 0 of %d bytes", len(packed))},
		{"unexpected end", good, packed[:1000], io.ErrUnexpectedEOF, fault.Corrupt, "sent 1000 of"},
		{"longer", good, append(bytes.Clone(packed), 0), nil, fault.Corrupt, "more than"},
		{"flipped bit", good, flipped, nil, fault.Corrupt, "have the digest"},
		{"broken line", good, packed[:1000], broken, fault.Failure, "after 1000 bytes: the line is dead"},
		{"unreachable", good, packed[:1000], fault.New(fault.Unreachable, broken, ""), fault.Unreachable, "dead"},
		{"truncated, size unknown", Blob{DiffID: good.DiffID, Size: -1}, packed[:1000], nil, fault.Corrupt, "decompressing"},
		{"other diff_id", blobOf([]byte("other"), packed, nil), packed, nil, fault.Corrupt, "uncompressed layer has the digest " + good.DiffID},
		{"bzip2", blobOf(plain, []byte("BZh91AY&SY"), nil), []byte("BZh91AY&SY"), nil, fault.Unsupported, "bzip2"},
		{"text", blobOf(plain, []byte("<html>"), nil), []byte("<html>"), nil, fault.Unsupported, "<html>"},
		{"zstd damage", blobOf(plain, zstandard(t, plain)[:1000], nil), zstandard(t, plain)[:1000], nil, fault.Corrupt, "decompressing"},
		{"broken tar", blobOf(plain[:2000], plain[:2000], nil), plain[:2000], nil, fault.Corrupt, `reading the tar after the entry`},
		{"bad diff_id", Blob{DiffID: "sha256:../../x"}, nil, nil, fault.Unsupported, "../../x"},
		{"bad digest", Blob{DiffID: good.DiffID, Digest: "md5:12"}, nil, nil, fault.Unsupported, "md5:12"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			var closed atomic.Bool
			test.blob.Open = func(context.Context) (io.ReadCloser, error) {
				return &sender{Reader: bytes.NewReader(test.sent), fail: test.fail, closed: &closed}, nil
			}
			l, err := NewStore(dir).Ensure(t.Context(), test.blob)
			if err == nil {
				_ = l.Close()
				t.Fatalf("Ensure succeeded, want an error with %q", test.words)
			}
			if got := fault.KindOf(err); got != test.kind {
				t.Errorf("error %q: got kind %d, want %d", err, got, test.kind)
			}
			if !strings.Contains(err.Error(), test.words) || !strings.Contains(err.Error(), test.blob.DiffID) {
				t.Errorf("error: got %q, want it to have %q and the diff_id", err, test.words)
			}
			if got := stored(t, dir); len(got) > 0 {
				t.Errorf("after the failure the store has %v, want nothing", got)
			}
			if !closed.Load() && !strings.HasPrefix(test.name, "bad") {
				t.Errorf("the blob's reader was not closed")
			}
		})
	}
}

// sender sends some bytes and then fails or ends.
type sender struct {
	io.Reader
	fail   error
	closed *atomic.Bool
}

func (s *sender) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if errors.Is(err, io.EOF) && s.fail != nil {
		err = s.fail
	}
	return n, err
}

func (s *sender) Close() error {
	s.closed.Store(true)
	return nil
}

func TestEnsureOpenFails(t *testing.T) {
	dir := t.TempDir()
	blob := blobOf(sample(t), nil, nil)
	blob.Open = func(context.Context) (io.ReadCloser, error) {
		return nil, fault.New(fault.Unreachable, errors.New("no route"), "")
	}
	_, err := NewStore(dir).Ensure(t.Context(), blob)
	if fault.KindOf(err) != fault.Unreachable || len(stored(t, dir)) > 0 {
		t.Errorf("got %v with %v in the store, want an unreachable fault and nothing", err, stored(t, dir))
	}
}

func TestEnsureReplacesDamage(t *testing.T) {
	plain := sample(t)
	flipped := bytes.Clone(plain)
	flipped[len(flipped)/2] ^= 0x10
	tests := []struct {
		name string
		data []byte
	}{
		{"empty", nil}, {"flipped bit", flipped}, {"short", plain[:len(plain)-1]}, {"long", append(bytes.Clone(plain), 0)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "sha256", digest.FromBytes(plain).Encoded())
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			var opened atomic.Int32
			l, err := NewStore(dir).Ensure(t.Context(), blobOf(plain, plain, &opened))
			if err != nil {
				t.Fatalf("Ensure: %v", err)
			}
			checkLayer(t, l, plain)
			if opened.Load() != 1 {
				t.Errorf("the blob was opened %d times, want once", opened.Load())
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("the store's file: got %d bytes, %v; want the layer's %d", len(got), err, len(plain))
			}
		})
	}
}

func TestEnsureRemovesAbandonedFiles(t *testing.T) {
	dir := t.TempDir()
	s := NewStore(dir)
	dead, alive := strings.Repeat("d", 64), strings.Repeat("a", 64)
	plain := sample(t)
	own := digest.FromBytes(plain).Encoded()
	if err := os.MkdirAll(filepath.Join(dir, "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, hex := range []string{dead, alive, own} {
		if err := os.WriteFile(filepath.Join(dir, "sha256", hex+partial), make([]byte, 10<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := lock.Try(s.lockPath(alive))
	if err != nil || held == nil {
		t.Fatalf("taking a lock: %v", err)
	}
	defer held.Release()
	l, err := s.Ensure(t.Context(), blobOf(plain, plain, nil))
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	checkLayer(t, l, plain)
	want := []string{own, own + index, alive + partial}
	slices.Sort(want)
	if got := stored(t, dir); !slices.Equal(got, want) {
		t.Errorf("the store has %v, want the layer and the file whose writer lives, %v", got, want)
	}
}

func TestEnsureOnceForAll(t *testing.T) {
	dir := t.TempDir()
	plain := sample(t)
	var opened atomic.Int32
	blob := blobOf(plain, gzipped(t, plain), &opened)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			l, err := NewStore(dir).Ensure(t.Context(), blob)
			if err != nil {
				t.Errorf("Ensure: %v", err)
				return
			}
			checkLayer(t, l, plain)
		})
	}
	group.Wait()
	if got := opened.Load(); got != 1 {
		t.Errorf("the blob was opened %d times, want once for all", got)
	}
}

const (
	childStore = "BANGER_TEST_LAYER_STORE" // makes the test a child of TestEnsureOnceForAllProcesses
	childLog   = "BANGER_TEST_LAYER_LOG"
)

func TestEnsureOnceForAllProcesses(t *testing.T) {
	plain := sample(t)
	if dir := os.Getenv(childStore); dir != "" {
		ensureAsChild(t, dir, plain)
		return
	}
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestEnsureOnceForAllProcesses$")
			cmd.Env = append(os.Environ(), childStore+"="+dir, childLog+"="+log)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("child: %v\n%s", err, out)
			}
		})
	}
	group.Wait()
	if got, err := os.ReadFile(log); string(got) != "opened\n" {
		t.Errorf("the children's log: got %q, %v; want one download", got, err)
	}
}

func ensureAsChild(t *testing.T, dir string, plain []byte) {
	blob := blobOf(plain, plain, nil)
	open := blob.Open
	blob.Open = func(ctx context.Context) (io.ReadCloser, error) {
		f, err := os.OpenFile(os.Getenv(childLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		_, _ = f.WriteString("opened\n")
		time.Sleep(300 * time.Millisecond) // the others come meanwhile
		return open(ctx)
	}
	l, err := NewStore(dir).Ensure(t.Context(), blob)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	checkLayer(t, l, plain)
}

func TestEnsureCancelledWhileWaiting(t *testing.T) {
	s := NewStore(t.TempDir())
	plain := sample(t)
	held, err := lock.Try(s.lockPath(digest.FromBytes(plain).Encoded()))
	if err != nil || held == nil {
		t.Fatalf("taking the lock: %v", err)
	}
	defer held.Release()
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(enough) })
	if _, err := s.Ensure(ctx, blobOf(plain, plain, nil)); !errors.Is(err, enough) {
		t.Errorf("got %v, want the context's cause", err)
	}
}

func TestEnsureCancelledDownload(t *testing.T) {
	dir := t.TempDir()
	plain := sample(t)
	blob := blobOf(plain, plain, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	blob.Open = func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe() // a Read waits until it is closed, and knows nothing of ctx
		go func() {
			_, _ = w.Write(plain[:2<<20])
			cancel(enough)
		}()
		return r, nil
	}
	if _, err := NewStore(dir).Ensure(ctx, blob); !errors.Is(err, enough) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if got := stored(t, dir); len(got) > 0 {
		t.Errorf("after the cancellation the store has %v, want nothing", got)
	}
}

// smallDisk returns a directory on a file system of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		excuse(t, "mount", fmt.Sprintf("mounting a small disk: %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestEnsureDiskFull(t *testing.T) {
	dir := smallDisk(t, "size=1m")
	plain := sample(t)
	blob := blobOf(plain, plain, nil)
	blob.Open = func(context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { _, _ = w.Write(plain[:len(plain)-1]) }() // and then it stalls
		return r, nil
	}
	_, err := NewStore(dir).Ensure(t.Context(), blob)
	if fault.KindOf(err) != fault.NoSpace || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want a fault about the space", err)
	}
	if got := stored(t, dir); len(got) > 0 {
		t.Errorf("on the full disk the store has %v, want nothing", got)
	}
}

func BenchmarkEnsureStored(b *testing.B) {
	content := strings.Repeat("0123456789abcdef", 4<<20)
	plain := tarOf(b, member{tar.Header{Name: "f", Typeflag: tar.TypeReg}, content})
	s := NewStore(b.TempDir())
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		l, err := s.Ensure(b.Context(), blobOf(plain, plain, nil))
		if err != nil {
			b.Fatal(err)
		}
		_ = l.Close()
	}
}
