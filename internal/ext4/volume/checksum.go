package volume

import (
	"encoding/binary"
	"hash/crc32"
)

// castagnoli is the polynomial of metadata_csum (fs/ext4/ext4.h: ext4_chksum).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c goes on with a checksum of the kernel's crc32c: neither its beginning nor its end is inverted, as in
// hash/crc32.
func crc32c(crc uint32, p []byte) uint32 {
	return ^crc32.Update(^crc, castagnoli, p)
}

// crc32cNumber goes on with a number of 32 bits in the order of the disk.
func crc32cNumber(crc, number uint32) uint32 {
	return crc32c(crc, binary.LittleEndian.AppendUint32(nil, number))
}

// crc16 goes on with a checksum of uninit_bg: the polynomial 0x8005, bits reflected (lib/crc/crc16.c).
func crc16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc ^= uint16(b)
		for range 8 {
			carry := crc & 1
			crc >>= 1
			if carry != 0 {
				crc ^= 0xA001
			}
		}
	}
	return crc
}

// badChecksum returns the fault for a checksum that is not that of the bytes.
func badChecksum(what string, stored, computed uint32) error {
	return corrupt("the checksum of %s is %08x, its bytes have %08x", what, stored, computed)
}

// inodeSeed begins the checksums of what belongs to an inode: its number and generation (fs/ext4/inode.c: i_csum_seed).
func (v *Volume) inodeSeed(number, generation uint32) uint32 {
	return crc32cNumber(crc32cNumber(v.seed, number), generation)
}
