package ext4

import (
	"math"
	"time"
)

// EncodeTime returns a time as an inode has it: the low 32 bits of the seconds since 1970, which are signed, and a word
// with two more bits of them and, above those, the nanoseconds (fs/ext4/ext4.h: ext4_encode_extra_time). Times outside
// 1901 to 2446 become the nearest that there is, as they do when Linux sets them.
func EncodeTime(t time.Time) (seconds, extra uint32) {
	const first, last = math.MinInt32, math.MaxInt32 + 3<<32
	s, ns := t.Unix(), int64(t.Nanosecond())
	if s < first {
		s, ns = first, 0
	} else if s > last {
		s, ns = last, 0
	}
	epoch := (s - int64(int32(s))) >> 32 & 3
	return uint32(s), uint32(epoch | ns<<2)
}

// EncodeDevice returns the first two block numbers of a device's inode. Numbers below 256 have the old form, in the
// first, and all others the new one, in the second (fs/ext4/inode.c: ext4_do_update_inode; linux/kdev_t.h).
func EncodeDevice(major, minor uint32) (old, wide uint32) {
	if major < 256 && minor < 256 {
		return major<<8 | minor, 0
	}
	return 0, minor&0xff | major<<8 | minor&^0xff<<12
}
