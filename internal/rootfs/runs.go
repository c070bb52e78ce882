package rootfs

import "iter"

// Runs returns the parts of a Regular file that have data, in units of so many bytes and as large as they can be: pairs of
// the first unit and of the one after the last. What is between them is holes.
func (n *Node) Runs(unit int64) iter.Seq2[int64, int64] {
	return func(yield func(first, end int64) bool) {
		var first, end int64
		for _, x := range n.Extents {
			if x.Length == 0 {
				continue
			}
			from, to := x.Logical/unit, (x.Logical+x.Length-1)/unit+1
			if from > end {
				if first < end && !yield(first, end) {
					return
				}
				first = from
			}
			end = max(end, to)
		}
		if first < end {
			yield(first, end)
		}
	}
}
