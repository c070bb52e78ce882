package ext4

import "encoding/binary"

// record is a structure of the disk. All of ext4 but the journal is little-endian.
type record []byte

func (r record) u16(offset int, v uint16) { binary.LittleEndian.PutUint16(r[offset:], v) }
func (r record) u32(offset int, v uint32) { binary.LittleEndian.PutUint32(r[offset:], v) }

// split32 stores the two halves of v, as fields have them that were once 16 bits wide.
func (r record) split32(low, high int, v uint32) {
	r.u16(low, uint16(v))
	r.u16(high, uint16(v>>16))
}

// split64 stores the two halves of v, as fields have them that were once 32 bits wide.
func (r record) split64(low, high int, v uint64) {
	r.u32(low, uint32(v))
	r.u32(high, uint32(v>>32))
}
