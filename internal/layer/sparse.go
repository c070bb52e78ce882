package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// PAX records of GNU tar's sparse files (GNU tar manual, "Storing Sparse Files").
const (
	paxSparse      = "GNU.sparse."
	paxSparseMajor = paxSparse + "major"
	paxSparseMinor = paxSparse + "minor"
	paxSparseMap   = paxSparse + "map"
)

// sparse is a file of which the tar holds pieces: where they belong in the file, and how many bytes of the contents
// the list itself takes.
type sparse struct {
	pieces []Extent // Offset is not set
	taken  int64
}

// readSparse returns the map of a sparse file, or nil for any other file. archive/tar has read past the map.
func (t *tape) readSparse(h *tar.Header) (*sparse, error) {
	if h.Typeflag == tar.TypeGNUSparse {
		return oldSparse(t.header[:], t.after)
	}
	major, minor := h.PAXRecords[paxSparseMajor], h.PAXRecords[paxSparseMinor]
	switch version := major + "." + minor; {
	case version == "1.0":
		return sparse10(t.after)
	case version == "0.0", version == "0.1", version == "." && h.PAXRecords[paxSparseMap] != "":
		return sparse01(h.PAXRecords[paxSparseMap]) // archive/tar makes one of the other
	case version != ".", hasSparseRecord(h):
		err := fmt.Errorf("a sparse file in the unknown version %q of GNU's format", version)
		return nil, fault.New(fault.Unsupported, err, "")
	}
	return nil, nil
}

func hasSparseRecord(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, paxSparse) {
			return true
		}
	}
	return false
}

// oldSparse reads the map of the format that GNU tar writes without PAX: pairs in the header and in blocks after it,
// which the header's size does not count.
func oldSparse(header, blocks []byte) (*sparse, error) {
	s := &sparse{}
	if err := s.addPairs(header[gnuSparseAt:], gnuPairs); err != nil {
		return nil, err
	}
	for ; len(blocks) >= blockSize; blocks = blocks[blockSize:] {
		if err := s.addPairs(blocks, blockPairs); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// addPairs reads up to n pairs. One that begins with a NUL ends the list, as in GNU tar.
func (s *sparse) addPairs(fields []byte, n int) error {
	for ; n > 0 && fields[0] != 0; n-- {
		logical, err1 := parseNumber(fields[:numberLength])
		length, err2 := parseNumber(fields[numberLength:][:numberLength])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		s.pieces = append(s.pieces, Extent{Logical: logical, Length: length})
		fields = fields[2*numberLength:]
	}
	return nil
}

// sparse01 reads the map of the PAX formats 0.0 and 0.1: numbers with commas.
func sparse01(text string) (*sparse, error) {
	if text == "" {
		return &sparse{}, nil
	}
	return parseSparse(strings.Split(text, ","))
}

// sparse10 reads the map of the PAX format 1.0: lines at the beginning of the contents, the first with the count.
func sparse10(blocks []byte) (*sparse, error) {
	first, rest, _ := bytes.Cut(blocks, []byte("\n"))
	count, err := strconv.ParseInt(string(first), 10, 64)
	if err != nil || count < 0 || count > int64(len(blocks)) {
		return nil, fmt.Errorf("a sparse map with the count %q", first)
	}
	fields := strings.SplitN(string(rest), "\n", int(2*count)+1)
	if int64(len(fields)) < 2*count {
		return nil, errors.New("a sparse map that ends early")
	}
	s, err := parseSparse(fields[:2*count])
	if err != nil {
		return nil, err
	}
	s.taken = int64(len(blocks))
	return s, nil
}

func parseSparse(numbers []string) (*sparse, error) {
	if len(numbers)%2 != 0 {
		return nil, errors.New("a sparse map with an odd number of numbers")
	}
	s := &sparse{pieces: make([]Extent, 0, len(numbers)/2)}
	for ; len(numbers) > 0; numbers = numbers[2:] {
		logical, err1 := strconv.ParseInt(numbers[0], 10, 64)
		length, err2 := strconv.ParseInt(numbers[1], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		s.pieces = append(s.pieces, Extent{Logical: logical, Length: length})
	}
	return s, nil
}

// extents places the pieces, which lie in the tar one after the other from start, and checks that they are in order,
// inside a file of size bytes, and that they take exactly stored bytes of the tar.
func (s *sparse) extents(start, stored, size int64) ([]Extent, error) {
	var placed []Extent
	end, offset := int64(0), start+s.taken
	for _, p := range s.pieces {
		if p.Logical < end || p.Length < 0 || p.Logical > math.MaxInt64-p.Length || p.Logical+p.Length > size {
			return nil, fmt.Errorf("a sparse map with %d bytes at %d, out of order or beyond %d", p.Length, p.Logical, size)
		}
		if p.Length > stored-(offset-start) {
			return nil, fmt.Errorf("a sparse map of more than the %d bytes that are stored", stored)
		}
		p.Offset = offset
		placed = appendExtent(placed, p)
		end, offset = p.Logical+p.Length, offset+p.Length
	}
	if offset-start != stored {
		return nil, fmt.Errorf("a sparse map of %d bytes where %d are stored", offset-start, stored)
	}
	return placed, nil
}

// appendExtent joins an extent to the last one where both go on in the file.
func appendExtent(list []Extent, e Extent) []Extent {
	if e.Length == 0 {
		return list
	}
	if last := len(list) - 1; last >= 0 && list[last].Logical+list[last].Length == e.Logical {
		list[last].Length += e.Length
		return list
	}
	return append(list, e)
}
