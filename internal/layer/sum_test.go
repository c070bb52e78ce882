package layer

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestSum compares the sum of pieces and of runs of zeros with that of all the bytes.
func TestSum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var all []byte
		var sum Sum
		for range random.IntN(6) {
			piece := make([]byte, random.IntN(5000))
			switch random.IntN(3) {
			case 0:
				sum = sum.AddZeros(int64(len(piece)))
			case 1:
				fillRandom(random, piece)
				sum = sum.Add(piece)
			default:
				fillRandom(random, piece)
				sum = sum.Join(Sum(0).Add(piece), int64(len(piece)))
			}
			all = append(all, piece...)
		}
		if want := crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)); uint32(sum) != want {
			t.Fatalf("the sum of %d bytes in pieces is %08x, want %08x", len(all), sum, want)
		}
	}
}

func TestSumOfManyZeros(t *testing.T) {
	const n = 1 << 40
	half := Sum(0x12345678).AddZeros(n / 2).AddZeros(n / 2)
	if got := Sum(0x12345678).AddZeros(n); got != half {
		t.Errorf("the sum of a terabyte of zeros is %08x, and of twice half of one %08x", got, half)
	}
}

func fillRandom(random *rand.Rand, piece []byte) {
	for i := range piece {
		piece[i] = byte(random.Uint32())
	}
}
