package channel

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// kind says what a record asks for. The zero kind is invalid.
type kind uint8

const (
	// kindSYN goes from the host to the guest: forget every session, begin the one with this nonce.
	kindSYN kind = iota + 1
	// kindACK goes from the guest to the host, once for each new nonce: what follows belongs to that session.
	kindACK
	// kindGo goes from the host to the guest, once: what follows belongs to that session.
	kindGo
	// kindHello goes from the guest to the host: there is no session (any more).
	kindHello
	// kindEnd goes from the host to the guest: the session with this nonce is over.
	kindEnd
)

// nonceSize is the length in bytes of the random number that names a session.
const nonceSize = 8

// nonce names a session. It is random, so that the answer to an earlier host is not taken for ours.
type nonce [nonceSize]byte

// recordSize is the length of a record: magic, kind, nonce, and the CRC-32 (IEEE, big endian) of these.
const recordSize = MagicSize + 1 + nonceSize + crc32.Size

// record is one message of the handshake.
type record struct {
	kind  kind
	nonce nonce
}

// encode returns the bytes of r.
func (r record) encode(magic [MagicSize]byte) []byte {
	b := make([]byte, 0, recordSize)
	b = append(b, magic[:]...)
	b = append(b, byte(r.kind))
	b = append(b, r.nonce[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// decode returns the record at the beginning of b, which begins with the magic, and whether it is one.
func decode(b []byte) (record, bool) {
	if len(b) < recordSize {
		return record{}, false
	}
	body, sum := b[:recordSize-crc32.Size], b[recordSize-crc32.Size:recordSize]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return record{}, false
	}
	r := record{kind: kind(body[MagicSize]), nonce: nonce(body[MagicSize+1:])}
	return r, r.kind >= kindSYN && r.kind <= kindEnd
}

// scanner finds records in a stream that comes in pieces. It holds no data back: the first part of a record that is
// split between two pieces is given out as data. That does no harm, because a record ends the session that the data
// would belong to, and no record is sent while data of the same session may stand before it.
type scanner struct {
	magic  [MagicSize]byte
	window []byte // the last bytes of the stream, fewer than a record has, then the piece at hand
}

// next returns the data of piece up to its first record, that record, and what follows it. The slices are parts of
// piece; found is false when there is no record, and then all of piece is data.
func (s *scanner) next(piece []byte) (data []byte, r record, rest []byte, found bool) {
	kept := len(s.window)
	s.window = append(s.window, piece...)
	for from := 0; ; from++ {
		i := bytes.Index(s.window[from:], s.magic[:])
		if i < 0 {
			break
		}
		from += i
		if r, ok := decode(s.window[from:]); ok {
			s.window = s.window[:0]
			return piece[:max(0, from-kept)], r, piece[from+recordSize-kept:], true
		}
	}
	tail := s.window[max(0, len(s.window)-(recordSize-1)):]
	s.window = append(s.window[:0], tail...)
	return piece, record{}, nil, false
}
