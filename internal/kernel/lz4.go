package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The legacy frame format of LZ4 (lz4_Frame_format.md, "Legacy frame"), in which the kernel's build has it: a magic, then
// blocks, each after the 4 bytes of its compressed size.
const (
	lz4Magic = "\x02\x21\x4c\x18"
	// lz4Block is the most that a block has uncompressed, in bytes.
	lz4Block = 8 << 20
	// lz4Bound is the most that it has compressed (lz4.h, LZ4_COMPRESSBOUND).
	lz4Bound = lz4Block + lz4Block/255 + 16
)

var errLZ4 = errors.New("the LZ4 data is damaged")

// lz4Reader decompresses the blocks that follow the magic.
type lz4Reader struct {
	from  io.Reader
	block []byte // compressed
	plain []byte
	rest  []byte // of plain, not read yet
}

// Read returns plain bytes. The data ends where a block could begin.
func (r *lz4Reader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *lz4Reader) next() error {
	var size [4]byte
	if _, err := io.ReadFull(r.from, size[:]); err != nil {
		return err // io.EOF is the end
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > lz4Bound {
		return fmt.Errorf("%w: a block of %d bytes", errLZ4, n)
	}
	if r.block == nil {
		r.block, r.plain = make([]byte, lz4Bound), make([]byte, 0, lz4Block)
	}
	if _, err := io.ReadFull(r.from, r.block[:n]); err != nil {
		return fmt.Errorf("%w: %w", errLZ4, io.ErrUnexpectedEOF)
	}
	var err error
	r.plain, err = lz4Decode(r.plain[:0], r.block[:n])
	r.rest = r.plain
	return err
}

// minMatch is added to the length of each match.
const minMatch = 4

// lz4Decode appends the plain bytes of a block (lz4_Block_format.md) to dst, within its capacity. A block is a sequence of
// literals, each followed by a match but for the last: a copy of what stands a distance before.
func lz4Decode(dst, block []byte) ([]byte, error) {
	for len(block) > 0 {
		token := block[0]
		literals, rest, ok := lz4Length(int(token>>4), block[1:])
		if !ok || literals > len(rest) || literals > cap(dst)-len(dst) {
			return dst, errLZ4
		}
		dst = append(dst, rest[:literals]...)
		block = rest[literals:]
		if len(block) == 0 {
			return dst, nil
		}
		if len(block) < 2 {
			return dst, errLZ4
		}
		distance := int(binary.LittleEndian.Uint16(block))
		length, rest, ok := lz4Length(int(token&15), block[2:])
		if !ok || distance == 0 || distance > len(dst) || length+minMatch > cap(dst)-len(dst) {
			return dst, errLZ4
		}
		dst = lz4Match(dst, distance, length+minMatch)
		block = rest
	}
	return dst, nil
}

// lz4Length completes a length of 4 bits: 15 is continued by bytes that are added, to the first below 255.
func lz4Length(length int, block []byte) (int, []byte, bool) {
	if length < 15 {
		return length, block, true
	}
	for i, b := range block {
		length += int(b)
		if b < 255 {
			return length, block[i+1:], true
		}
	}
	return 0, nil, false
}

// lz4Match appends length bytes of dst that begin distance before its end. The two may overlap, so that a short piece is
// repeated.
func lz4Match(dst []byte, distance, length int) []byte {
	for length > 0 {
		n := min(distance, length)
		dst = append(dst, dst[len(dst)-distance:][:n]...)
		length -= n
	}
	return dst
}
