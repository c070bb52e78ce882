package oci

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/internal/fault"
)

// compression is how a file is compressed.
type compression int

const (
	uncompressed compression = iota
	gzipFormat
	zstdFormat
	bzip2Format
	xzFormat // which banger does not read
)

// maxWindow is the largest window of a zstd frame that is decoded, in bytes, and so the memory that an archive can ask for: as
// much as zstd(1) gives unless it is told to give more. A layer in an archive has a limit of its own (package layer).
const maxWindow = 128 << 20

// magicSize is how many bytes tell compressions apart.
const magicSize = 6

// compressionOf tells the compression from the first bytes: names and media types are often wrong.
func compressionOf(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952, 2.3.1
		return gzipFormat
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878, 3.1.1
		return zstdFormat
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // RFC 8878, 3.1.2
		return zstdFormat
	case bytes.HasPrefix(head, []byte("BZh")): // bzip2(1)
		return bzip2Format
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")): // xz-file-format.txt, 2.1.1.1
		return xzFormat
	}
	return uncompressed
}

// decompress returns what is in r, which may be compressed or not, and a function that ends the work.
func decompress(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(magicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch compressionOf(head) {
	case gzipFormat:
		unzipped, err := gzip.NewReader(r)
		return unzipped, func() {}, err
	case zstdFormat:
		decoder, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return decoder, decoder.Close, nil
	case bzip2Format:
		return bzip2.NewReader(r), func() {}, nil
	case xzFormat:
		err := errors.New("it is compressed with xz, which banger does not read")
		return nil, nil, fault.New(fault.Unsupported, err, fmt.Sprintf("unpack it on the way: xz -dc FILE | banger image pull %s%s",
			tarPrefix+stdinPath, " (or "+archivePrefix+stdinPath+")"))
	}
	return r, func() {}, nil
}
