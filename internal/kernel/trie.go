package kernel

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// The binary index of kmod, which modprobe looks names up in (libkmod/libkmod-index.h of kmod): a radix tree. All
// numbers are 32 bits, big-endian.
//
//	file  magic, version, offset of the root node
//	node  prefix, ended by NUL     if the offset that led here has triePrefix
//	      first and last byte of the children, then an offset for each from first to last, 0 where there is none
//	                               if it has trieChildren
//	      count of values, then for each its priority and its text, ended by NUL
//	                               if it has trieValues
//
// A child stands for one byte; its prefix follows that byte. Values of a node are in the order of their priority, of
// which the lowest number is looked at first.
const (
	trieMagic    = 0xb007f457
	trieVersion  = 0x00020001
	triePrefix   = 0x80000000
	trieValues   = 0x40000000
	trieChildren = 0x20000000
)

// trieEntry is one value under a key. Several entries may have one key.
type trieEntry struct {
	key      string
	value    string
	priority uint32
}

// writeTrie returns the index of entries. Of those with the same key and priority the last comes first. Keys that are not of the 7-bit bytes that the format knows are left out, as
// is what has a NUL.
func writeTrie(entries []trieEntry) []byte {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e trieEntry) bool { return !plainText(e.key) || !plainText(e.value) })
	slices.Reverse(entries)
	slices.SortStableFunc(entries, func(a, b trieEntry) int {
		if order := strings.Compare(a.key, b.key); order != 0 {
			return order
		}
		return int(int64(a.priority) - int64(b.priority))
	})
	t := &trieWriter{}
	t.number(trieMagic)
	t.number(trieVersion)
	t.number(0)
	// The root never has a prefix.
	root := t.node(entries, 0, 0)
	data := t.out.Bytes()
	binary.BigEndian.PutUint32(data[8:], root)
	return data
}

func plainText(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r == 0 || r >= 0x80 }) < 0
}

type trieWriter struct{ out bytes.Buffer }

func (t *trieWriter) number(n uint32) { _ = binary.Write(&t.out, binary.BigEndian, n) }

func (t *trieWriter) text(s string) {
	t.out.WriteString(s)
	t.out.WriteByte(0)
}

// node writes the subtree of entries, whose keys agree up to end, after its children, and returns its offset with the
// flags. The node's prefix is what the keys have from begin to end.
func (t *trieWriter) node(entries []trieEntry, begin, end int) uint32 {
	prefix := ""
	if len(entries) > 0 {
		prefix = entries[0].key[begin:end]
	}
	values := 0
	for values < len(entries) && len(entries[values].key) == end {
		values++
	}
	first, offsets := t.children(entries[values:], end)
	offset := uint32(t.out.Len())
	if prefix != "" {
		t.text(prefix)
		offset |= triePrefix
	}
	if len(offsets) > 0 {
		t.out.Write([]byte{first, first + byte(len(offsets)) - 1})
		for _, child := range offsets {
			t.number(child)
		}
		offset |= trieChildren
	}
	if values > 0 {
		t.number(uint32(values))
		for _, entry := range entries[:values] {
			t.number(entry.priority)
			t.text(entry.value)
		}
		offset |= trieValues
	}
	return offset
}

// children writes a subtree for each byte that the keys have at position at, and returns the lowest such byte and the
// offsets from there on.
func (t *trieWriter) children(entries []trieEntry, at int) (byte, []uint32) {
	if len(entries) == 0 {
		return 0, nil
	}
	first := entries[0].key[at]
	offsets := make([]uint32, int(entries[len(entries)-1].key[at]-first)+1)
	for len(entries) > 0 {
		b := entries[0].key[at]
		n := slices.IndexFunc(entries, func(e trieEntry) bool { return e.key[at] != b })
		if n < 0 {
			n = len(entries)
		}
		group := entries[:n]
		offsets[b-first] = t.node(group, at+1, at+1+sharedPrefix(group, at+1))
		entries = entries[n:]
	}
	return first, offsets
}

// sharedPrefix returns how many bytes from position at on all keys share. The entries are sorted by key.
func sharedPrefix(entries []trieEntry, at int) int {
	first, last := entries[0].key[at:], entries[len(entries)-1].key[at:]
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	return n
}
