package rootfs

import (
	"context"
	"errors"
	"fmt"

	"github.com/banger-vm/banger/internal/layer"
)

// Check reads all files and compares them with their sums, for who does not do so on the way. What is wrong is a
// *ContentError.
func (t *Tree) Check(ctx context.Context) error {
	seen := make(map[*Node]bool)
	buffer := make([]byte, 1<<20)
	return t.Walk(func(path string, n *Node) error {
		if n.Kind != Regular || !n.HasSum || seen[n] {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		seen[n] = n.Links > 1
		err := n.check(buffer)
		if err != nil {
			return &ContentError{Source: n.Source, Err: fmt.Errorf("reading %q: %w", path, err)}
		}
		return nil
	})
}

// ErrSum is content that does not have its sum.
var ErrSum = errors.New("the content is not what it was when the layer was fetched")

// check reads a file, its holes excepted.
func (n *Node) check(buffer []byte) error {
	var sum layer.Sum
	end := int64(0)
	for _, x := range n.Extents {
		sum = sum.AddZeros(x.Logical - end)
		end = x.Logical + x.Length
		for at := x.Logical; at < end; {
			piece := buffer[:min(int64(len(buffer)), end-at)]
			if _, err := readExtent(n.Source, x, at, piece); err != nil {
				return err
			}
			sum = sum.Add(piece)
			at += int64(len(piece))
		}
	}
	if sum.AddZeros(n.Size-end) != n.Sum {
		return ErrSum
	}
	return nil
}
