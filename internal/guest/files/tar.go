package files

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// xattrRecord is the prefix of the pax records that hold extended attributes, as star, GNU tar and bsdtar have them.
const xattrRecord = "SCHILY.xattr."

// keywordOf returns the keyword of an attribute's record, which ends at its first "=". One in the attribute's name is written
// as GNU tar does it (xheader.c, xattr_encode_keyword).
func keywordOf(xattr string) string {
	return xattrRecord + strings.NewReplacer("%", "%25", "=", "%3D").Replace(xattr)
}

// xattrOf undoes keywordOf, but for the prefix.
func xattrOf(keyword string) string {
	return strings.NewReplacer("%25", "%", "%3D", "=").Replace(keyword)
}

// zeroBlock is the unit in which holes of a sparse file are found, in bytes.
const zeroBlock = 4096

// tarWriter is the sink that writes a tar with pax headers. A tar of that kind has no holes: they become zeros.
type tarWriter struct {
	ctx    context.Context
	w      *tar.Writer
	zeros  []byte
	prefix string // the name of the top
	size   int64  // of the last file
	at     int64  // how much of it has been written
	notes  []string
}

func newTarWriter(ctx context.Context, w io.Writer, prefix string) *tarWriter {
	return &tarWriter{ctx: ctx, w: tar.NewWriter(w), prefix: prefix}
}

// tarTypes are the kinds of a tar's entries (pax(1), "ustar Interchange Format", typeflag).
var tarTypes = [...]byte{
	Directory: tar.TypeDir, Regular: tar.TypeReg, Symlink: tar.TypeSymlink, HardLink: tar.TypeLink,
	FIFO: tar.TypeFifo, CharDevice: tar.TypeChar, BlockDevice: tar.TypeBlock,
}

func (t *tarWriter) entry(e *Entry) error {
	if err := t.fill(t.size); err != nil {
		return err
	}
	h := &tar.Header{
		Typeflag: tarTypes[e.Kind], Name: t.name(e.Name), Linkname: e.Target, Mode: int64(e.Mode),
		Uid: int(e.UID), Gid: int(e.GID), ModTime: e.MTime, Size: e.Size,
		Devmajor: int64(e.Major), Devminor: int64(e.Minor), Format: tar.FormatPAX,
	}
	switch e.Kind {
	case Directory:
		h.Name += "/"
	case HardLink:
		h.Linkname = t.name(e.Target)
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
	}
	for _, x := range e.Xattrs {
		h.PAXRecords[keywordOf(x.Name)] = x.Value
	}
	t.size, t.at = e.Size, 0
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("writing %q to the tar: %w", h.Name, err)
	}
	return nil
}

// name returns the name that an entry has in the tar.
func (t *tarWriter) name(name string) string {
	if name == top {
		return t.prefix
	}
	return t.prefix + "/" + name
}

func (t *tarWriter) data(off int64, p []byte) error {
	if err := t.fill(off); err != nil {
		return err
	}
	t.at += int64(len(p))
	return t.write(p)
}

// fill writes zeros up to an offset, which may be very far away.
func (t *tarWriter) fill(to int64) error {
	if t.at < to && t.zeros == nil {
		t.zeros = make([]byte, chunkSize)
	}
	for t.at < to {
		if err := t.ctx.Err(); err != nil {
			return context.Cause(t.ctx)
		}
		n := min(int64(len(t.zeros)), to-t.at)
		if err := t.write(t.zeros[:n]); err != nil {
			return err
		}
		t.at += n
	}
	return nil
}

func (t *tarWriter) write(p []byte) error {
	if _, err := t.w.Write(p); err != nil {
		return fmt.Errorf("writing the tar: %w", err)
	}
	return nil
}

func (t *tarWriter) end(notes []string) error {
	if err := t.fill(t.size); err != nil {
		return err
	}
	t.notes = notes
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("writing the tar: %w", err)
	}
	return nil
}

// tarReader gives the entries of a tar to a sink.
type tarReader struct {
	to    sink
	chunk []byte
	notes notes

	// Directories get their times when the receiver leaves them. In a tar that comes back to one, all are sent again.
	directories []*Entry
	left        map[string]bool
	last        string
	again       bool
}

func newTarReader(to sink) *tarReader {
	return &tarReader{to: to, chunk: make([]byte, chunkSize), left: map[string]bool{}, last: top}
}

// read passes the tar on to its end. It may be gzipped.
func (t *tarReader) read(r io.Reader) error {
	plain, err := gunzip(r)
	if err != nil {
		return fmt.Errorf("reading the tar: %w", err)
	}
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("reading the tar: %w", err)
		}
		if err := t.member(h, archive); err != nil {
			return err
		}
	}
	// Whoever writes the tar may write zeros after its end, and should not die of a pipe that is closed.
	if _, err := io.Copy(io.Discard, plain); err != nil && !errors.Is(err, gzip.ErrHeader) {
		return fmt.Errorf("reading the tar: %w", err) // the checksum is at the end, and perhaps what is no gzip behind it
	}
	if err := t.repeat(); err != nil {
		return err
	}
	return t.to.end(t.notes.all())
}

// gunzip undoes gzip, which the content shows (RFC 1952, 2.3.1).
func gunzip(r io.Reader) (io.Reader, error) {
	buffered := bufio.NewReaderSize(r, chunkSize)
	if head, _ := buffered.Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return gzip.NewReader(buffered)
	}
	return buffered, nil
}

// member passes one entry of the tar on.
func (t *tarReader) member(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	e, err := entryOfHeader(h)
	if err != nil {
		return fmt.Errorf("reading %q of the tar: %w", h.Name, err)
	}
	t.follow(e)
	if err := t.to.entry(e); err != nil || e.Kind != Regular {
		return err
	}
	return t.content(h, r)
}

// follow notices when the tar comes back to a directory that it had left.
func (t *tarReader) follow(e *Entry) {
	for dir := t.last; dir != top && !below(e.Name, dir); dir = path.Dir(dir) {
		t.left[dir] = true
	}
	t.last = path.Dir(e.Name)
	if e.Kind == Directory {
		t.last = e.Name
		t.directories = append(t.directories, e)
		delete(t.left, e.Name)
	}
	for dir := path.Dir(e.Name); dir != top; dir = path.Dir(dir) {
		t.again = t.again || t.left[dir]
	}
}

// below reports whether name is dir or lies in it.
func below(name, dir string) bool {
	return name == dir || strings.HasPrefix(name, dir) && name[len(dir)] == '/'
}

// repeat sends the directories once more, so that they get the times that were spoiled.
func (t *tarReader) repeat() error {
	if !t.again {
		return nil
	}
	for _, e := range t.directories {
		if err := t.to.entry(e); err != nil {
			return err
		}
	}
	return nil
}

// content passes a file's bytes on. The library gives the holes of sparse files as zeros.
func (t *tarReader) content(h *tar.Header, r io.Reader) error {
	sparse := isSparse(h)
	for off := int64(0); ; {
		n, err := io.ReadFull(r, t.chunk)
		if err := t.pieces(off, t.chunk[:n], sparse); err != nil {
			return err
		}
		off += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && off == h.Size:
			return nil
		case err != nil:
			return fmt.Errorf("reading %q of the tar: %w", h.Name, err)
		}
	}
}

// pieces passes p on, without its blocks of zeros if the file is sparse.
func (t *tarReader) pieces(off int64, p []byte, sparse bool) error {
	if !sparse {
		return t.piece(off, p)
	}
	for len(p) > 0 {
		n := 0
		for n < len(p) && !isZero(block(p[n:])) {
			n += len(block(p[n:]))
		}
		if err := t.piece(off, p[:n]); err != nil {
			return err
		}
		off, p = off+int64(n), p[n:]
		skip := 0
		for skip < len(p) && isZero(block(p[skip:])) {
			skip += len(block(p[skip:]))
		}
		off, p = off+int64(skip), p[skip:]
	}
	return nil
}

func (t *tarReader) piece(off int64, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return t.to.data(off, p)
}

// block returns the first block of p.
func block(p []byte) []byte { return p[:min(zeroBlock, len(p))] }

// isZero reports whether a block, which is not empty, has nothing but zeros.
func isZero(p []byte) bool {
	return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// isSparse reports whether a file has holes, in one of GNU tar's formats.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// entryOfHeader turns a tar's header into an entry. A leading slash means the target, as it does to tar(1).
func entryOfHeader(h *tar.Header) (*Entry, error) {
	e := &Entry{
		Name: path.Clean(strings.TrimLeft(h.Name, "/")), Mode: uint16(h.Mode & 0o7777),
		UID: uint32(h.Uid), GID: uint32(h.Gid), MTime: h.ModTime,
		Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	for _, n := range []int64{int64(h.Uid), int64(h.Gid), h.Devmajor, h.Devminor} {
		if n < 0 || n > math.MaxUint32 {
			return nil, fmt.Errorf("the number %d is out of range", n)
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		e.Kind = Directory
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Kind, e.Size = Regular, h.Size
	case tar.TypeLink:
		e.Kind, e.Target = HardLink, path.Clean(strings.TrimLeft(h.Linkname, "/"))
	case tar.TypeSymlink:
		e.Kind, e.Target = Symlink, h.Linkname
	case tar.TypeFifo:
		e.Kind = FIFO
	case tar.TypeChar:
		e.Kind = CharDevice
	case tar.TypeBlock:
		e.Kind = BlockDevice
	default:
		return nil, fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	if e.Kind != HardLink {
		e.Xattrs = xattrsOf(h)
	}
	return e, e.check()
}

func xattrsOf(h *tar.Header) []Xattr {
	var list []Xattr
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok {
			list = append(list, Xattr{xattrOf(name), value})
		}
	}
	return list
}
