package layer

import "iter"

// List holds entries in their order. They are in blocks, so that a long list is not copied as it grows, and that it can
// be let go of piece by piece: a million entries take 200 MB.
type List struct {
	blocks [][]Entry
}

// listBlock is how many entries a block has.
const listBlock = 1024

// Append adds an entry to the list's end.
func (l *List) Append(e Entry) {
	last := len(l.blocks) - 1
	if last < 0 || len(l.blocks[last]) == listBlock {
		l.blocks = append(l.blocks, nil)
		last++
	}
	l.blocks[last] = append(l.blocks[last], e)
}

// Len returns how many entries the list has.
func (l *List) Len() int {
	if len(l.blocks) == 0 {
		return 0
	}
	last := len(l.blocks) - 1
	return last*listBlock + len(l.blocks[last])
}

// Last returns the last entry, or nil.
func (l *List) Last() *Entry {
	if len(l.blocks) == 0 {
		return nil
	}
	block := l.blocks[len(l.blocks)-1]
	return &block[len(block)-1]
}

// All yields the entries, each at a place that stays its own.
func (l *List) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, block := range l.blocks {
			for i := range block {
				if !yield(&block[i]) {
					return
				}
			}
		}
	}
}

// Drain is All, after which the list is empty. What has been yielded is not kept in memory by the list.
func (l *List) Drain() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		blocks := l.blocks
		l.blocks = nil
		for n, block := range blocks {
			blocks[n] = nil
			for i := range block {
				if !yield(&block[i]) {
					return
				}
			}
		}
	}
}
