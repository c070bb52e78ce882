package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// tape is the stream under archive/tar's reader. It knows its position, lets the reader skip contents, and keeps the
// blocks that describe a sparse file, because archive/tar reads those but does not tell what they say.
type tape struct {
	source stream
	offset int64 // of the next byte to read

	nextHeader int64 // where a header block is expected; -1 between an entry's header and its contents
	header     [blockSize]byte
	headerAt   int64
	after      []byte // what was read between the header and the contents: the map of a sparse file
	content    summed // the file that passes
}

// stream is what a tape reads.
type stream interface {
	io.Reader
	// skip drops n bytes, shows them to see, and returns how many there were: fewer only with an error.
	skip(n int64, see func([]byte)) (skipped int64, err error)
	// failure returns the error that has ended the stream, unless that is its end.
	failure() error
}

// direct is the stream of a reader.
type direct struct {
	*bufio.Reader
	err error
}

func (d *direct) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	d.err = err
	return n, err
}

func (d *direct) skip(n int64, see func([]byte)) (skipped int64, err error) {
	for skipped < n && err == nil {
		var piece []byte
		piece, err = d.Peek(int(min(n-skipped, int64(d.Size()))))
		see(piece)
		_, _ = d.Discard(len(piece))
		skipped += int64(len(piece))
	}
	d.err = err
	return skipped, err
}

func (d *direct) failure() error { return notEnd(d.err) }

func notEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Read fills p unless the stream ends.
func (t *tape) Read(p []byte) (int, error) {
	n, err := fill(t.source, p)
	t.record(p[:n])
	t.pass(p[:n])
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// Seek skips forward. archive/tar uses it for contents that nobody asked for.
func (t *tape) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return t.offset, errors.New("a stream cannot be rewound")
	}
	_, err := t.source.skip(offset, t.pass)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t.offset, err
}

// pass moves on behind bytes of the tar.
func (t *tape) pass(p []byte) {
	t.content.add(p, t.offset)
	t.offset += int64(len(p))
}

func (t *tape) record(p []byte) {
	switch {
	case t.nextHeader < 0:
		t.after = append(t.after, p...)
	case t.offset == t.nextHeader && len(p) == blockSize:
		t.recordHeader(p)
	}
}

// recordHeader keeps the header of an entry, and steps over the headers that only add to the next one.
func (t *tape) recordHeader(p []byte) {
	t.headerAt = t.offset
	copy(t.header[:], p)
	switch t.header[typeFlagAt] {
	case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
		size, err := parseNumber(t.header[sizeAt:][:12])
		if err != nil {
			size = 0 // archive/tar refuses the header
		}
		t.nextHeader = t.offset + blockSize + padded(size)
	default:
		t.nextHeader = -1
		t.after = t.after[:0]
	}
}

// contents returns where the contents of the current entry begin. It fails if archive/tar and the tape do not agree
// on what the entry's header was.
func (t *tape) contents() (int64, error) {
	if t.nextHeader >= 0 || t.offset != t.headerAt+blockSize+int64(len(t.after)) {
		return 0, fmt.Errorf("losing track of the tar at byte %d", t.offset)
	}
	return t.offset, nil
}

// expectHeader tells the tape where the next entry begins: after size bytes of contents at start.
func (t *tape) expectHeader(start, size int64) {
	t.nextHeader = start + padded(size)
}

// padded rounds up to whole blocks.
func padded(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// Fields of a header that are read here (tar(5), "Old-Style Archive Format" and "GNU tar Archives").
const (
	sizeAt       = 124 // 12 bytes
	typeFlagAt   = 156
	gnuSparseAt  = 386 // 4 pairs of 12-byte numbers: offset and length of a piece
	gnuExtendAt  = 482 // not 0: more of them in the next block
	gnuPairs     = 4
	blockPairs   = 21  // in an extension block, from its start
	blockExtend  = 504 // in an extension block
	numberLength = 12
)

// parseNumber reads a numeric field: octal digits, or base-256 when the first bit is set, as GNU tar writes numbers
// that need more. Numbers below zero are errors.
func parseNumber(field []byte) (n int64, err error) {
	if field[0]&0x80 == 0 {
		return parseOctal(field)
	}
	for i, b := range field {
		if i == 0 {
			b &= 0x7f
		}
		if n>>55 != 0 {
			return 0, fmt.Errorf("the number %x is too large", field)
		}
		n = n<<8 | int64(b)
	}
	return n, nil
}

func parseOctal(field []byte) (n int64, err error) {
	digits := bytes.Trim(field, " \x00")
	if end := bytes.IndexByte(digits, 0); end >= 0 {
		digits = digits[:end]
	}
	for _, d := range digits {
		if d < '0' || d > '7' {
			return 0, fmt.Errorf("the number %q is not octal", field)
		}
		n = n<<3 | int64(d-'0') // 12 digits fit
	}
	return n, nil
}
