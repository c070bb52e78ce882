package channel

import (
	"encoding/binary"
	"fmt"
)

// What the filter knows of a frame of yamux (its spec, "Framing"): version u8, type u8, flags u16, stream u32, length
// u32, big endian. Only a frame of data has a body, of that length.
const (
	muxHeaderSize = 12
	muxData       = 0      // type
	muxPing       = 2      // type
	muxSYN        = 1 << 0 // flag: opens a stream
)

// filter watches what a guest sends to the host's multiplexer. yamux answers each ping from a goroutine of its own and
// keeps each stream that the other side opens; a guest that does not read could fill the host's memory with both. An
// agent has no use for either: it opens no streams, and keep-alives are off. The zero value is ready.
type filter struct {
	header [muxHeaderSize]byte
	have   int    // bytes of header
	body   uint32 // bytes of the frame at hand that are still to come
}

// check takes the next piece of what the guest sends. An error means that the piece must not reach the multiplexer, nor
// anything after it.
func (f *filter) check(piece []byte) error {
	for len(piece) > 0 {
		if f.body > 0 {
			n := min(int64(len(piece)), int64(f.body))
			f.body -= uint32(n)
			piece = piece[n:]
			continue
		}
		n := copy(f.header[f.have:], piece)
		f.have += n
		piece = piece[n:]
		if f.have == muxHeaderSize {
			f.have = 0
			if err := f.frame(); err != nil {
				return err
			}
		}
	}
	return nil
}

// frame judges the frame whose header is complete.
func (f *filter) frame() error {
	kind, flags := f.header[1], binary.BigEndian.Uint16(f.header[2:])
	if kind == muxPing {
		return fmt.Errorf("%w: it sent a ping", errGuestRules)
	}
	if flags&muxSYN != 0 {
		return fmt.Errorf("%w: it opened a stream", errGuestRules)
	}
	if kind == muxData {
		f.body = binary.BigEndian.Uint32(f.header[8:])
	}
	return nil
}
