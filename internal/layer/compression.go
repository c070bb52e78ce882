package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/internal/fault"
)

const (
	blockSize = 512 // of a tar, in bytes
	// maxWindow is the largest window of a zstd frame that is decoded, in bytes, and so the memory that a stream can
	// ask for, of which several come at once. "zstd --ultra -22" and "zstd --long" stay within, and zstd(1) decodes no
	// larger one unless it is told to.
	maxWindow = 128 << 20
)

// decompress returns the tar in r: r itself, or what its gzip members or zstd frames hold. What it is, the content
// decides, for registries and archives get the media type wrong. An error about the format is a fault.Unsupported;
// other errors are the source's.
//
// gzip is left to the program that gunzip starts, unless it is nil or does not start. The program, and nothing else, writes
// to the file.
func decompress(ctx context.Context, r io.Reader, gunzip Gunzip, file *os.File) (io.ReadCloser, error) {
	source := bufio.NewReaderSize(r, 64<<10)
	head, err := source.Peek(blockSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952, 2.3.1
		if gunzip != nil {
			if p, err := startProgram(ctx, gunzip, source, file); err == nil {
				return p, nil
			}
		}
		return io.NopCloser(&members{source: source}), nil
	case isZstd(head):
		decoder, err := zstd.NewReader(source, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1),
			zstd.IgnoreChecksum(true)) // the layer has a better one, its digest
		if err != nil {
			return nil, fmt.Errorf("starting to decompress: %w", err)
		}
		return decoder.IOReadCloser(), nil
	case isTar(head):
		return io.NopCloser(source), nil
	}
	return nil, fault.New(fault.Unsupported, errors.New("the layer is "+describe(head)+", not gzip, zstd or tar"), "")
}

// isZstd reports whether a frame or a skippable frame begins here (RFC 8878, 3.1.1 and 3.1.2).
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// isTar reports whether a tar begins here. A tar without entries is zeros, or nothing.
func isTar(head []byte) bool {
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, tar.ErrInsecurePath) ||
		len(head) == blockSize && errors.Is(err, io.ErrUnexpectedEOF) // a header that needs more blocks
}

func describe(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("BZh")):
		return "bzip2"
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return "xz"
	}
	return fmt.Sprintf("something that begins with %q", head[:min(len(head), 8)])
}

// members reads gzip members to the end of the source. Zeros after a member are padding, as gzip(1) has it.
type members struct {
	source *bufio.Reader // gzip.Reader does not read beyond a member of an io.ByteReader
	member *gzip.Reader  // nil before the first
}

func (m *members) Read(p []byte) (int, error) {
	if m.member == nil {
		if err := m.open(); err != nil {
			return 0, err
		}
	}
	for {
		n, err := m.member.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		if err := m.open(); err != nil {
			return 0, err
		}
	}
}

// open begins the next member. io.EOF says that there is none.
func (m *members) open() (err error) {
	if m.member == nil {
		m.member, err = gzip.NewReader(m.source)
	} else if err = m.skipPadding(); err == nil {
		err = m.member.Reset(m.source)
	}
	if err == nil {
		m.member.Multistream(false)
	}
	return err
}

func (m *members) skipPadding() error {
	padded := false
	for {
		b, err := m.source.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 && padded {
			return errors.New("data after the padding of a gzip member")
		}
		if b != 0 {
			return m.source.UnreadByte()
		}
		padded = true
	}
}
