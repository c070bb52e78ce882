package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// An index is the list of a layer's entries in a file beside the layer, so that who uses the layer again need not read
// and parse all of it. docs/oci.md has its format.

// indexMagic begins an index. The number is that of the format.
const indexMagic = "banger layer index 1\n"

// errIndex is an index that is damaged, or of a format that is not known, or of another layer.
var errIndex = errors.New("the layer's index does not match the layer")

// writeIndex writes the index of a layer of size bytes.
func writeIndex(out io.Writer, id digest.Digest, size int64, entries List) error {
	sum := crc32.New(castagnoli())
	w := indexWriter{out: bufio.NewWriterSize(io.MultiWriter(out, sum), 64<<10)}
	_, _ = w.out.WriteString(indexMagic)
	w.text(id.String())
	w.number(uint64(size))
	w.number(uint64(entries.Len()))
	for e := range entries.All() {
		w.entry(e)
	}
	if err := w.out.Flush(); err != nil { // the first error of all writing
		return fmt.Errorf("writing the layer's index: %w", err)
	}
	if err := binary.Write(out, binary.LittleEndian, sum.Sum32()); err != nil {
		return fmt.Errorf("writing the layer's index: %w", err)
	}
	return nil
}

type indexWriter struct {
	out     *bufio.Writer
	scratch [binary.MaxVarintLen64]byte
}

func (w *indexWriter) number(n uint64) {
	_, _ = w.out.Write(binary.AppendUvarint(w.scratch[:0], n))
}

func (w *indexWriter) signed(n int64) {
	_, _ = w.out.Write(binary.AppendVarint(w.scratch[:0], n))
}

func (w *indexWriter) text(s string) {
	w.number(uint64(len(s)))
	_, _ = w.out.WriteString(s)
}

func (w *indexWriter) entry(e *Entry) {
	w.text(e.Name)
	w.text(e.Link)
	for _, n := range [...]uint64{uint64(e.Type), uint64(e.Mode), uint64(e.UID), uint64(e.GID)} {
		w.number(n)
	}
	w.signed(e.MTime.Unix())
	w.number(uint64(e.MTime.Nanosecond()))
	w.number(uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		w.text(x.Name)
		w.text(x.Value)
	}
	switch e.Type {
	case CharDevice, BlockDevice:
		w.number(uint64(e.Major))
		w.number(uint64(e.Minor))
	case Regular:
		w.contents(e)
	}
}

func (w *indexWriter) contents(e *Entry) {
	w.number(uint64(e.Size))
	w.number(uint64(e.Sum))
	w.number(uint64(len(e.Extents)))
	for _, x := range e.Extents {
		w.number(uint64(x.Logical))
		w.number(uint64(x.Offset))
		w.number(uint64(x.Length))
	}
}

// readIndex reads the entries of a layer of size bytes from the file at path. Whatever is wrong with the index is
// errIndex, or the error of reading it.
func readIndex(path string, id digest.Digest, size int64) (List, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return List{}, err
	}
	defer func() { _ = file.Close() }()
	length, err := checkIndex(file)
	if err != nil {
		return List{}, err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(file, 0, length), 64<<10)
	r := indexReader{in: in, left: length, size: size, strings: make(map[string]string)}
	return r.layer(id)
}

// checkIndex compares an index with its own sum and returns how many bytes that is about.
func checkIndex(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	length := info.Size() - crc32.Size
	if length < 0 {
		return 0, errIndex
	}
	sum := crc32.New(castagnoli())
	var stored [crc32.Size]byte
	_, err1 := io.Copy(sum, io.NewSectionReader(file, 0, length))
	_, err2 := file.ReadAt(stored[:], length)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	if binary.LittleEndian.Uint32(stored[:]) != sum.Sum32() {
		return 0, errIndex
	}
	return length, nil
}

// indexReader reads an index. The first thing that is wrong ends it; what comes after that is zero.
type indexReader struct {
	in      *bufio.Reader
	left    int64 // bytes that the index still can have
	size    int64 // of the layer
	strings map[string]string
	shared  []Extent // from which the files with one extent get theirs
	err     error
}

func (r *indexReader) layer(id digest.Digest) (List, error) {
	magic := make([]byte, len(indexMagic))
	r.fill(magic)
	if string(magic) != indexMagic || r.text() != id.String() || r.number(1<<62) != uint64(r.size) {
		return List{}, errIndex
	}
	var entries List
	for n := r.number(1 << 62); n > 0 && r.err == nil; n-- {
		entries.Append(r.entry())
	}
	if r.err != nil || r.left > 0 {
		return List{}, errIndex
	}
	return entries, nil
}

func (r *indexReader) fill(p []byte) {
	if r.err == nil {
		_, r.err = io.ReadFull(r.in, p)
		r.left -= int64(len(p))
	}
}

// ReadByte is what package binary reads numbers with.
func (r *indexReader) ReadByte() (byte, error) {
	r.left--
	return r.in.ReadByte()
}

// number reads a number up to limit.
func (r *indexReader) number(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(r)
	if err == nil && n > limit {
		err = errIndex
	}
	if err != nil {
		r.err = err
		return 0
	}
	return n
}

func (r *indexReader) signed() (n int64) {
	if r.err == nil {
		n, r.err = binary.ReadVarint(r)
	}
	return n
}

func (r *indexReader) text() string {
	text := make([]byte, r.number(uint64(max(0, r.left))))
	r.fill(text)
	return string(text)
}

// share is text for what many entries share.
func (r *indexReader) share() string {
	n := int(r.number(uint64(max(0, r.left))))
	if peeked, err := r.in.Peek(n); err == nil { // short: not copied if it is known
		if s, ok := r.strings[string(peeked)]; ok {
			_, _ = r.in.Discard(n)
			r.left -= int64(n)
			return s
		}
	}
	text := make([]byte, n)
	r.fill(text)
	s := string(text)
	r.strings[s] = s
	return s
}

func (r *indexReader) entry() Entry {
	const max32 = 1<<32 - 1
	e := Entry{Name: r.text(), Link: r.share()}
	e.Type = Type(r.number(uint64(FIFO)))
	e.Mode = uint16(r.number(0o7777))
	e.UID, e.GID = uint32(r.number(max32)), uint32(r.number(max32))
	seconds := r.signed()
	e.MTime = time.Unix(seconds, int64(r.number(1e9-1))).UTC()
	for n := r.number(uint64(max(0, r.left))); n > 0 && r.err == nil; n-- {
		e.Xattrs = append(e.Xattrs, Xattr{Name: r.share(), Value: r.share()})
	}
	switch e.Type {
	case CharDevice, BlockDevice:
		e.Major, e.Minor = uint32(r.number(max32)), uint32(r.number(max32))
	case Regular:
		r.contents(&e)
	}
	return e
}

func (r *indexReader) contents(e *Entry) {
	e.Size = int64(r.number(1<<63 - 1))
	e.Sum, e.HasSum = Sum(r.number(1<<32-1)), true
	n := r.number(uint64(max(0, r.left)))
	if n == 1 {
		e.Extents = r.one(e.Size)
		return
	}
	end := int64(0)
	for ; n > 0 && r.err == nil; n-- {
		x := r.extent(end, e.Size)
		e.Extents = append(e.Extents, x)
		end = x.Logical + x.Length
	}
}

// one reads one extent, without an allocation of its own.
func (r *indexReader) one(size int64) []Extent {
	if len(r.shared) == cap(r.shared) {
		r.shared = make([]Extent, 0, 512)
	}
	n := len(r.shared)
	r.shared = append(r.shared, r.extent(0, size))
	return r.shared[n : n+1 : n+1]
}

// extent reads an extent of a file of size bytes that begins at start or later.
func (r *indexReader) extent(start, size int64) Extent {
	x := Extent{Logical: int64(r.number(uint64(size))), Offset: int64(r.number(uint64(r.size)))}
	x.Length = int64(r.number(uint64(min(size-x.Logical, r.size-x.Offset))))
	if x.Logical < start {
		r.err = errIndex
	}
	return x
}
