package kernel

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
	"github.com/pierrec/lz4/v4"
)

// maxWindow bounds the memory that a compressed stream may ask for. "xz -9" and "zstd --ultra -22" stay within.
const maxWindow = 128 << 20

// lz4Magic begins the legacy frames of LZ4 (lz4_Frame_format.md, "Legacy frame"), which the kernel's build makes.
const lz4Magic = "\x02\x21\x4c\x18"

// decompress returns the plain bytes of r, whichever compression its first bytes show, if any. The caller closes it.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := xz.NewReader(buffered, maxWindow)
		return io.NopCloser(z), err
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("opening zstd data: %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(buffered)), nil
	case bytes.HasPrefix(head, []byte(lz4Magic)):
		return io.NopCloser(lz4.NewReader(buffered)), nil
	}
	return io.NopCloser(buffered), nil
}
