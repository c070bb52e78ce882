package layer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// command is a program that a test has decompress.
type command struct{ *exec.Cmd }

func (c command) Kill() { _ = c.Process.Kill() }

// gunzipBy starts a command in place of a decompressor.
func gunzipBy(words ...string) Gunzip {
	return func(ctx context.Context, stdin, stdout *os.File) (Process, error) {
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Stdin, cmd.Stdout = stdin, stdout
		return command{cmd}, cmd.Start()
	}
}

// decompressors are Go's own and the programs that banger uses.
func decompressors(t *testing.T) map[string]Gunzip {
	t.Helper()
	list := map[string]Gunzip{"go": nil}
	for _, name := range []string{"igzip", "unpigz"} {
		if _, err := exec.LookPath(name); err != nil {
			excuse(t, name, fmt.Sprintf("looking for a decompressor: %v", err))
			continue
		}
		list[name] = gunzipBy(name, "-d", "-c")
	}
	return list
}

// piped returns what a command makes of its input.
func piped(t *testing.T, input []byte, words ...string) []byte {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v: %s", words, err, stderr.Bytes())
	}
	return out
}

// stargz makes an eStargz: members of their own for each chunk and for the table of contents, and a footer that is an
// empty member whose extra field says where that table is (stargz-snapshotter, docs/estargz.md).
func stargz(t *testing.T, plain []byte) []byte {
	t.Helper()
	var blob []byte
	for chunk := range slices.Chunk(plain, 1<<20) {
		blob = append(blob, gzipped(t, chunk)...)
	}
	extra := fmt.Sprintf("%016xSTARGZ", len(blob))
	footer := []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255} // the flag FEXTRA
	footer = binary.LittleEndian.AppendUint16(footer, uint16(4+len(extra)))
	footer = append(footer, 'S', 'G')
	footer = binary.LittleEndian.AppendUint16(footer, uint16(len(extra)))
	footer = append(footer, extra...)
	footer = append(footer, 1, 0, 0, 0xff, 0xff) // an empty stored block, the last
	return append(blob, append(footer, make([]byte, 8)...)...)
}

// skippable makes a skippable frame (RFC 8878, 3.1.2).
func skippable(content string) []byte {
	frame := binary.LittleEndian.AppendUint32(nil, 0x184d2a50)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(content)))
	return append(frame, content...)
}

// chunked makes a zstd:chunked: a frame for each chunk, then the manifest and the footer in skippable frames
// (containers/storage, pkg/chunked/internal/minimal).
func chunked(t *testing.T, plain []byte) []byte {
	t.Helper()
	var blob []byte
	for chunk := range slices.Chunk(plain, 1<<20) {
		blob = append(blob, zstandard(t, chunk)...)
	}
	return slices.Concat(blob, skippable(string(zstandard(t, []byte(`{"version":1}`)))), skippable(strings.Repeat("x", 64)))
}

// windowed makes a frame of zstd with a window of 2^log bytes and some eighths of that more. Its blocks are not compressed
// (RFC 8878, 3.1.1).
func windowed(log, eighths int, plain []byte) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte((log-10)<<3 | eighths)}
	for chunk := range slices.Chunk(plain, 100_000) {
		header := binary.LittleEndian.AppendUint32(nil, uint32(len(chunk))<<3)
		frame = append(append(frame, header[:3]...), chunk...)
	}
	return append(frame, 1, 0, 0) // an empty block, the last
}

// TestCompressions: whatever made a blob, and whoever decompresses it, the layer is the same, or the error is.
func TestCompressions(t *testing.T) {
	plain := sample(t)
	half := len(plain) / 2
	packed := gzipped(t, plain)
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	wrongSum := bytes.Clone(packed)
	wrongSum[len(wrongSum)-8] ^= 1
	tests := []struct {
		name    string
		blob    []byte
		failure string // "" if the layer is to be right
	}{
		{"tar", plain, ""},
		{"gzip", piped(t, plain, "gzip", "-c"), ""},
		{"gzip with a name and a comment", piped(t, plain, "gzip", "-N", "-c"), ""},
		{"one member", packed, ""},
		{"many members", gzipped(t, slices.Collect(slices.Chunk(plain, 10_000))...), ""},
		{"an empty member first and last", gzipped(t, nil, plain, nil), ""},
		{"eStargz", stargz(t, plain), ""},
		{"zeros behind the member", append(bytes.Clone(packed), make([]byte, 10_000)...), ""},
		{"one zero behind the member", append(bytes.Clone(packed), 0), ""},
		{"garbage behind the member", append(bytes.Clone(packed), "garbage"...), ""},
		{"zeros and garbage behind the member", append(append(bytes.Clone(packed), make([]byte, 600)...), "garbage"...), ""},
		{"the sum of the member is wrong", wrongSum, ""},
		{"a bit of the member is wrong", flipped, "decompressing it"},
		{"the member is cut", packed[:len(packed)/2], "decompressing it"},
		{"the member ends before the tar does", gzipped(t, plain[:half]), "has the digest"},
		{"the second member is cut", append(gzipped(t, plain[:half]), gzipped(t, plain[half:])[:half/2]...), "decompressing it"},
		{"another member behind the tar", gzipped(t, plain, []byte("more")), "has the digest"},
		{"zstd", piped(t, plain, "zstd", "-q", "-c"), ""},
		{"zstd, by several threads", piped(t, plain, "zstd", "-q", "-T4", "-19", "-c"), ""},
		{"zstd with a long window", piped(t, plain, "zstd", "-q", "--long=27", "-c"), ""},
		{"zstd with the longest window", windowed(27, 0, plain), ""},
		{"many frames", chunked(t, plain)[:len(chunked(t, plain))-64-8], ""},
		{"a skippable frame first", append(skippable("first"), zstandard(t, plain)...), ""},
		{"zstd:chunked", chunked(t, plain), ""},
		{"the frame is cut", zstandard(t, plain)[:half], "decompressing it"},
	}
	for name, gunzip := range decompressors(t) {
		for _, test := range tests {
			t.Run(test.name+", "+name, func(t *testing.T) {
				store := NewStore(t.TempDir())
				store.Gunzip = gunzip
				l, err := store.Ensure(t.Context(), blobOf(plain, test.blob, nil))
				if test.failure == "" && err != nil {
					t.Fatalf("Ensure: %v", err)
				}
				if test.failure == "" {
					checkLayer(t, l, plain)
					return
				}
				if err == nil || !strings.Contains(err.Error(), test.failure) || fault.KindOf(err) != fault.Corrupt {
					t.Errorf("got the error %v of kind %d, want one of corruption with %q", err, fault.KindOf(err), test.failure)
				}
				if got := stored(t, store.dir); len(got) > 0 {
					t.Errorf("after the failure the store has %v, want nothing", got)
				}
			})
		}
	}
}

// TestTooLongWindows: a blob cannot ask for more memory than for the longest window of zstd, in any of its frames.
func TestTooLongWindows(t *testing.T) {
	plain := sample(t)
	half := len(plain) / 2
	for name, blob := range map[string][]byte{
		"the only frame": windowed(27, 1, plain),
		"a later frame":  append(zstandard(t, plain[:half]), windowed(29, 0, plain[half:])...),
		"a huge one":     windowed(41, 7, plain),
	} {
		_, err := NewStore(t.TempDir()).Ensure(t.Context(), blobOf(plain, blob, nil))
		if err == nil || fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), "windows of zstd may have at most 128 MiB") {
			t.Errorf("%s: got the error %v of kind %d, want one that has the longest window", name, err, fault.KindOf(err))
		}
	}
}

// TestToolsOfCompression: pigz and igzip compress, too.
func TestToolsOfCompression(t *testing.T) {
	plain := sample(t)
	for name, words := range map[string][]string{"pigz": {"pigz", "-c"}, "pigz -i": {"pigz", "-i", "-c"}, "igzip": {"igzip", "-c"}} {
		if _, err := exec.LookPath(words[0]); err != nil {
			excuse(t, words[0], fmt.Sprintf("looking for a compressor: %v", err))
			continue
		}
		blob := piped(t, plain, words...)
		for by, gunzip := range decompressors(t) {
			store := NewStore(t.TempDir())
			store.Gunzip = gunzip
			l, err := store.Ensure(t.Context(), blobOf(plain, blob, nil))
			if err != nil {
				t.Errorf("%s, decompressed by %s: %v", name, by, err)
				continue
			}
			checkLayer(t, l, plain)
		}
	}
}

// TestProgramsThatFail: whatever a program does, Go decompresses what it did not, without asking the source again where it
// could be asked for the rest.
func TestProgramsThatFail(t *testing.T) {
	plain := sample(t)
	blob := blobOf(plain, gzipped(t, plain), nil)
	tests := map[string]Gunzip{
		"does not start":              gunzipBy("/nonexistent"),
		"fails at once":               gunzipBy("false"),
		"does nothing":                gunzipBy("true"),
		"does not decompress":         gunzipBy("cat"),
		"stops early":                 gunzipBy("sh", "-c", "gzip -dc | head -c 1000000"),
		"dies":                        gunzipBy("sh", "-c", "head -c 1000000 >/dev/null; kill -9 $$"),
		"lies":                        gunzipBy("sh", "-c", "gzip -dc | tr h H"),
		"says more":                   gunzipBy("sh", "-c", "gzip -dc; echo more"),
		"succeeds and then complains": gunzipBy("sh", "-c", "gzip -dc; exit 3"),
		"reads nothing and ends":      gunzipBy("sh", "-c", "exec <&-; sleep 0.1"),
	}
	for name, gunzip := range tests {
		for _, resumable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, resumable %v", name, resumable), func(t *testing.T) {
				store := NewStore(t.TempDir())
				store.Gunzip = gunzip
				var sent atomic.Int64
				blob := counted(blob, &sent)
				if !resumable {
					blob.OpenAt = nil
				}
				l, err := store.Ensure(t.Context(), blob)
				if err != nil {
					t.Fatalf("Ensure: %v", err)
				}
				checkLayer(t, l, plain)
				hex := digest.FromBytes(plain).Encoded()
				if got, want := stored(t, store.dir), []string{hex, hex + index}; !slices.Equal(got, want) {
					t.Errorf("the store has %v, want %v", got, want)
				}
			})
		}
	}
}

// counted returns the blob with OpenAt, and counts what it sends.
func counted(b Blob, sent *atomic.Int64) Blob {
	open := b.Open
	b.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		r, err := open(ctx)
		if err != nil {
			return nil, err
		}
		if _, err := io.CopyN(io.Discard, r, offset); err != nil {
			return nil, err
		}
		return &countingBody{r, sent}, nil
	}
	b.Open = func(ctx context.Context) (io.ReadCloser, error) { return b.OpenAt(ctx, 0) }
	return b
}

type countingBody struct {
	io.ReadCloser
	sent *atomic.Int64
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.sent.Add(int64(n))
	return n, err
}

// TestProgramIsCancelled: the program ends with the pull.
func TestProgramIsCancelled(t *testing.T) {
	plain := sample(t)
	store := NewStore(t.TempDir())
	store.Gunzip = gunzipBy("sleep", "1000")
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(enough) })
	if _, err := store.Ensure(ctx, blobOf(plain, gzipped(t, plain), nil)); !errors.Is(err, enough) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if got := stored(t, store.dir); len(got) > 0 {
		t.Errorf("after the cancellation the store has %v, want nothing", got)
	}
}
