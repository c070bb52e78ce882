package rootfs

import (
	"fmt"
	"io"
	"sort"

	"github.com/banger-vm/banger/internal/layer"
)

// Open returns the content of a Regular node, Size bytes of which the holes read as zeros. It reads the node's Source
// as it goes and needs no closing; several readers of one node can be used at once. A Source that is too short gives
// io.ErrUnexpectedEOF.
func (n *Node) Open() *io.SectionReader {
	return io.NewSectionReader(content{n}, 0, n.Size)
}

// ContentError says that content cannot be read from its source, or is not what its sum says.
type ContentError struct {
	Source io.ReaderAt
	Err    error // says which file
}

// Error returns the text of Err.
func (e *ContentError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *ContentError) Unwrap() error { return e.Err }

// content is the bytes of a Regular node by their offset.
type content struct {
	node *Node
}

// ReadAt implements io.ReaderAt.
func (c content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading at the negative offset %d", off)
	}
	n := c.node
	if off >= n.Size {
		return 0, io.EOF
	}
	short := int64(len(p)) > n.Size-off
	if short {
		p = p[:n.Size-off]
	}
	if done, err := c.fill(p, off); err != nil {
		return done, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// fill reads len(p) bytes, all of which are inside the file, and returns how many are right.
func (c content) fill(p []byte, off int64) (int, error) {
	done, end := off, off+int64(len(p))
	extents := c.node.Extents
	first := sort.Search(len(extents), func(i int) bool { return extents[i].Logical+extents[i].Length > off })
	for _, x := range extents[first:] {
		if x.Logical >= end {
			break
		}
		from, to := max(x.Logical, off), min(x.Logical+x.Length, end)
		if from > done {
			clear(p[done-off : from-off])
		}
		n, err := readExtent(c.node.Source, x, from, p[from-off:to-off])
		if err != nil {
			return int(from-off) + n, err
		}
		done = to
	}
	clear(p[done-off:])
	return len(p), nil
}

// readExtent fills p from the offset from of the file, all of it inside x.
func readExtent(source io.ReaderAt, x layer.Extent, from int64, p []byte) (int, error) {
	n, err := source.ReadAt(p, x.Offset+(from-x.Logical))
	if n == len(p) {
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
