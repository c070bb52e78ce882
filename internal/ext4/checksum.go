package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of metadata_csum (fs/ext4/ext4.h, ext4_chksum: crc32c).
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// checksum continues a CRC-32C the way ext4 counts it: neither seed nor result is inverted, as they are in Go's.
func checksum(seed uint32, data []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli(), data)
}

// inodeChecksum begins the checksum of what belongs to an inode: its number and its generation, which is 0 here
// (fs/ext4/inode.c, __ext4_iget: i_csum_seed).
func (s *seeds) inodeChecksum(number uint32) uint32 {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 8), number)
	return checksum(s.checksum, append(b, 0, 0, 0, 0))
}
