package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arMagic begins every ar archive (ar(5), <ar.h>).
const arMagic = "!<arch>\n"

var errNotAr = errors.New("not an ar archive")

// arReader reads the members of an ar archive in order, as deb(5) restricts it: names are at most 15 bytes, and there
// is no symbol or long-name table.
type arReader struct {
	r      io.Reader
	member *arMember
}

// arMember is the current member's data. It ends with io.ErrUnexpectedEOF if the archive does.
type arMember struct {
	name string
	r    io.Reader
	left int64
	pad  int64 // members begin at even offsets
}

// newArReader reads the archive's magic. What is no archive gives errNotAr.
func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	_, err := io.ReadFull(r, magic)
	if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil && string(magic) != arMagic {
		return nil, errNotAr
	}
	return &arReader{r: r}, err
}

// next returns the following member, or io.EOF after the last one. What is left of the one before is skipped.
func (a *arReader) next() (*arMember, error) {
	if a.member != nil {
		if err := a.member.skip(); err != nil {
			return nil, err
		}
	}
	// ar_name[16] ar_date[12] ar_uid[6] ar_gid[6] ar_mode[8] ar_size[10] ar_fmag[2]
	var header [60]byte
	if _, err := io.ReadFull(a.r, header[:]); err != nil {
		return nil, err
	}
	if !bytes.Equal(header[58:], []byte("`\n")) {
		return nil, errors.New("a member's header is damaged")
	}
	name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
	size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 62)
	if err != nil {
		return nil, fmt.Errorf("the length of member %q is no number: %w", name, err)
	}
	a.member = &arMember{name: name, r: a.r, left: int64(size), pad: int64(size & 1)}
	return a.member, nil
}

// Read implements io.Reader.
func (m *arMember) Read(p []byte) (int, error) {
	if m.left == 0 {
		return 0, io.EOF
	}
	n, err := m.r.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	if err == io.EOF && m.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (m *arMember) skip() error {
	if _, err := io.Copy(io.Discard, m); err != nil {
		return err
	}
	// The last member's padding may be absent.
	_, err := io.CopyN(io.Discard, m.r, m.pad)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	m.pad = 0
	return err
}
