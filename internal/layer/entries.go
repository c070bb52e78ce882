package layer

import (
	"archive/tar"
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// Entries reads an uncompressed tar in one pass and returns its entries in their order; their Extents count from
// where r stands. It may read beyond the end of the tar.
//
// Entries of a type that no image has are a fault.Unsupported, and damage is a fault.Corrupt. Both name the entry.
func Entries(r io.Reader) (List, error) {
	return readEntries(&direct{Reader: bufio.NewReaderSize(r, 64<<10)})
}

// parser turns a tar into entries.
type parser struct {
	tape    *tape
	tar     *tar.Reader
	strings map[string]string // one copy of the names and values that many entries share
	extents []Extent          // from which the files with one extent get theirs
	entries List
}

func readEntries(s stream) (List, error) {
	t := &tape{source: s}
	p := &parser{tape: t, tar: tar.NewReader(t), strings: make(map[string]string)}
	for {
		h, err := p.tar.Next()
		p.endContents()
		if errors.Is(err, io.EOF) {
			return p.entries, nil
		}
		if errors.Is(err, tar.ErrInsecurePath) { // GODEBUG=tarinsecurepath=0; names are package rootfs's concern
			err = nil
		}
		if err == nil && h.Typeflag == tar.TypeXGlobalHeader { // of git archive, for example: a comment
			continue
		}
		if err == nil {
			err = p.add(h)
		} else {
			err = p.damaged(err)
		}
		if err != nil {
			return List{}, err
		}
	}
}

// endContents gives the last entry the sum of its contents, which the tar's reader has just left behind.
func (p *parser) endContents() {
	if last := p.entries.Last(); last != nil && last.Type == Regular && !last.HasSum {
		last.Sum, last.HasSum = p.tape.content.end(), true
	}
}

// damaged says where the tar cannot be read.
func (p *parser) damaged(err error) error {
	if failure := p.tape.source.failure(); failure != nil {
		return failure
	}
	after := "at its beginning"
	if last := p.entries.Last(); last != nil {
		after = fmt.Sprintf("after the entry %q", last.Name)
	}
	return fault.New(fault.Corrupt, fmt.Errorf("reading the tar %s, byte %d: %w", after, p.tape.offset, err), "")
}

// entryError is a fault about one entry: damage, unless err knows better.
func entryError(h *tar.Header, err error) error {
	kind := fault.Corrupt
	if fault.KindOf(err) == fault.Unsupported {
		kind = fault.Unsupported
	}
	return fault.New(kind, fmt.Errorf("reading the entry %q: %w", h.Name, err), "")
}

func (p *parser) add(h *tar.Header) error {
	entry := Entry{Mode: uint16(h.Mode & 0o7777), MTime: h.ModTime.UTC()}
	entry.Name = strings.Clone(h.Name) // a PAX value keeps all of its header in memory
	var err error
	if entry.Type, err = typeOf(h); err != nil {
		return entryError(h, err)
	}
	if entry.Type == HardLink || entry.Type == Symlink {
		entry.Link = p.share(h.Linkname)
	}
	if err := setOwner(&entry, h); err != nil {
		return entryError(h, err)
	}
	if entry.Xattrs, err = p.xattrs(h); err != nil {
		return entryError(h, err)
	}
	if err := p.setContents(&entry, h); err != nil {
		return entryError(h, err)
	}
	p.entries.Append(entry)
	return nil
}

// typeOf translates the type flag. archive/tar has turned '\0' into '0' or, for a name with a slash, '5'.
func typeOf(h *tar.Header) (Type, error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return Regular, nil
	case tar.TypeDir:
		return Directory, nil
	case tar.TypeLink:
		return HardLink, nil
	case tar.TypeSymlink:
		return Symlink, nil
	case tar.TypeChar:
		return CharDevice, nil
	case tar.TypeBlock:
		return BlockDevice, nil
	case tar.TypeFifo:
		return FIFO, nil
	}
	err := fmt.Errorf("its type %q is not one that images have", h.Typeflag)
	return 0, fault.New(fault.Unsupported, err, "")
}

func setOwner(entry *Entry, h *tar.Header) error {
	uid, err1 := to32("user id", int64(h.Uid))
	gid, err2 := to32("group id", int64(h.Gid))
	entry.UID, entry.GID = uid, gid
	if entry.Type != CharDevice && entry.Type != BlockDevice {
		return errors.Join(err1, err2)
	}
	major, err3 := to32("major device number", h.Devmajor)
	minor, err4 := to32("minor device number", h.Devminor)
	entry.Major, entry.Minor = major, minor
	return errors.Join(err1, err2, err3, err4)
}

func to32(what string, n int64) (uint32, error) {
	if n < 0 || n > math.MaxUint32 {
		return 0, fmt.Errorf("its %s %d does not fit into 32 bits", what, n)
	}
	return uint32(n), nil
}

// setContents finds where the contents are, and tells the tape where the next entry is.
func (p *parser) setContents(entry *Entry, h *tar.Header) error {
	start, err := p.tape.contents()
	if err != nil {
		return err
	}
	if entry.Type != Regular {
		p.tape.expectHeader(start, 0) // whatever size the header claims, as in every tar
		return nil
	}
	entry.Size = h.Size
	s, err := p.tape.readSparse(h)
	if err != nil {
		return err
	}
	if s == nil {
		entry.Extents = p.extent(start, h.Size)
		p.tape.expectHeader(start, h.Size)
	} else if err := p.setSparse(entry, h, s, start); err != nil {
		return err
	}
	p.tape.content = summed{size: entry.Size, extents: entry.Extents}
	return nil
}

func (p *parser) setSparse(entry *Entry, h *tar.Header, s *sparse, start int64) error {
	stored, err := p.tape.storedSize(h)
	if err != nil {
		return err
	}
	// The map of the format 1.0 is a part of what is stored.
	entry.Extents, err = s.extents(start-s.taken, stored, h.Size)
	p.tape.expectHeader(start-s.taken, stored)
	return err
}

// storedSize is the size of an entry's contents in the tar. archive/tar tells that of the file instead.
func (t *tape) storedSize(h *tar.Header) (int64, error) {
	if text := h.PAXRecords["size"]; text != "" {
		return strconv.ParseInt(text, 10, 64)
	}
	return parseNumber(t.header[sizeAt:][:numberLength])
}

// extent returns a list of one extent without an allocation of its own.
func (p *parser) extent(offset, length int64) []Extent {
	if length == 0 {
		return nil
	}
	if len(p.extents) == cap(p.extents) {
		p.extents = make([]Extent, 0, 512)
	}
	n := len(p.extents)
	p.extents = append(p.extents, Extent{Offset: offset, Length: length})
	return p.extents[n : n+1 : n+1]
}

// share returns a copy of s that does not keep anything else in memory, and the same one for equal strings.
func (p *parser) share(s string) string {
	if s == "" {
		return ""
	}
	shared, ok := p.strings[s]
	if !ok {
		shared = strings.Clone(s)
		p.strings[shared] = shared
	}
	return shared
}

// Prefixes of the PAX records that hold extended attributes: star's, which nearly every archiver writes, with the bare
// value, and libarchive's, with the name URL-encoded and the value in base64 (libarchive, archive_write_set_format_pax).
// star's records with access control lists as text (SCHILY.acl.) are no attributes; images have the attributes.
const (
	paxXattr        = "SCHILY.xattr."
	paxLibarchXattr = "LIBARCHIVE.xattr."
)

// xattrs returns the entry's extended attributes in the order of their names, each once, also those with an empty value,
// which archive/tar's own list of them leaves out. Where both kinds of records have an attribute, star's counts.
func (p *parser) xattrs(h *tar.Header) ([]Xattr, error) {
	var list []Xattr
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		attribute, err := xattrOf(key, h.PAXRecords[key])
		if err != nil {
			return nil, fmt.Errorf("its extended attribute %q: %w", key, err)
		}
		if attribute.Name != "" {
			list = append(list, Xattr{p.share(attribute.Name), p.share(attribute.Value)})
		}
	}
	slices.Reverse(list) // libarchive's keys sort before star's
	slices.SortStableFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(list, func(a, b Xattr) bool { return a.Name == b.Name }), nil
}

// xattrOf returns the attribute that a PAX record holds, or the zero Xattr. A name is what system calls can name (xattr(7)).
func xattrOf(key, value string) (x Xattr, err error) {
	if name, ok := strings.CutPrefix(key, paxXattr); ok {
		x = Xattr{name, value}
	} else if name, ok := strings.CutPrefix(key, paxLibarchXattr); !ok {
		return Xattr{}, nil
	} else if x, err = decodeLibarchive(name, value); err != nil {
		return Xattr{}, err
	}
	if x.Name == "" || strings.ContainsRune(x.Name, 0) {
		return Xattr{}, errors.New("its name is empty or has a NUL")
	}
	return x, nil
}

// decodeLibarchive decodes a record of libarchive, which writes base64 without padding.
func decodeLibarchive(name, value string) (Xattr, error) {
	decodedName, err := url.PathUnescape(name)
	if err != nil {
		return Xattr{}, err
	}
	decodedValue, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return Xattr{decodedName, string(decodedValue)}, err
}
