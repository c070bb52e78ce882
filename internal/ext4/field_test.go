package ext4

import (
	"testing"
	"time"
)

func TestEncodeTime(t *testing.T) {
	const ns = 5
	tests := []struct {
		seconds        int64
		wantLow, wantX uint32
	}{ // the table of Documentation/filesystems/ext4/inodes.rst, section "Inode Timestamps"
		{-1 << 31, 0x80000000, 0 | ns<<2},
		{-1, 0xffffffff, 0 | ns<<2},
		{0, 0, 0 | ns<<2},
		{1<<31 - 1, 0x7fffffff, 0 | ns<<2},
		{1 << 31, 0x80000000, 1 | ns<<2},
		{0x17fffffff, 0x7fffffff, 1 | ns<<2},
		{0x180000000, 0x80000000, 2 | ns<<2},
		{0x27fffffff, 0x7fffffff, 2 | ns<<2},
		{0x280000000, 0x80000000, 3 | ns<<2},
		{0x37fffffff, 0x7fffffff, 3 | ns<<2},
		{0x380000000, 0x7fffffff, 3},
		{-1<<31 - 1, 0x80000000, 0},
		{-62135596800, 0x80000000, 0},
	}
	for _, tt := range tests {
		low, extra := EncodeTime(time.Unix(tt.seconds, ns))
		if low != tt.wantLow || extra != tt.wantX {
			t.Errorf("EncodeTime(%d s + %d ns) = %#x, %#x; want %#x, %#x", tt.seconds, ns, low, extra, tt.wantLow, tt.wantX)
		}
	}
}

func TestEncodeDevice(t *testing.T) {
	for _, tt := range []struct{ major, minor, wantOld, wantWide uint32 }{ // linux/kdev_t.h: old_encode_dev, new_encode_dev
		{1, 3, 0x0103, 0},
		{255, 255, 0xffff, 0},
		{256, 0, 0, 0x00010000},
		{0, 256, 0, 0x00100000},
		{259, 0x12345, 0, 0x12310345},
		{4095, 1<<20 - 1, 0, 0xffffffff},
	} {
		old, wide := EncodeDevice(tt.major, tt.minor)
		if old != tt.wantOld || wide != tt.wantWide {
			t.Errorf("EncodeDevice(%d, %d) = %#x, %#x; want %#x, %#x", tt.major, tt.minor, old, wide, tt.wantOld, tt.wantWide)
		}
	}
}
