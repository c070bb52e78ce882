package layer

import "hash/crc32"

// Sum is the CRC-32C (Castagnoli) of the bytes that were added to it; that of none is the zero value. Processors have an
// instruction for it, so that it costs next to nothing beside reading the bytes.
type Sum uint32

// castagnoli is crc32.Castagnoli's table, which package crc32 makes once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Add returns the sum of the bytes so far and of data after them.
func (s Sum) Add(data []byte) Sum { return Sum(crc32.Update(uint32(s), castagnoli(), data)) }

// AddZeros is Add for n zeros, in a time that grows with the logarithm of n.
func (s Sum) AddZeros(n int64) Sum {
	if n == 0 {
		return s
	}
	return Sum(^multiply(zeros(n), ^uint32(s)))
}

// Join returns the sum of the bytes so far and of n bytes after them, of which next is the sum.
func (s Sum) Join(next Sum, n int64) Sum {
	if s == 0 {
		return next
	}
	return Sum(multiply(zeros(n), uint32(s))) ^ next
}

// A CRC is the remainder of a polynomial over GF(2). Its coefficients are the bits of a uint32, that of x^0 the highest.
const (
	reversed = 0x82f63b78 // the polynomial of Castagnoli's CRC, but for x^32 (RFC 3720, 12.1)
	one      = 1 << 31    // x^0
	oneByte  = 1 << 23    // x^8
)

// zeros returns what n bytes of zeros multiply a remainder by: x^(8n).
func zeros(n int64) uint32 {
	product, power := uint32(one), uint32(oneByte)
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			product = multiply(power, product)
		}
		power = multiply(power, power)
	}
	return product
}

// multiply returns a times b, modulo the polynomial.
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(one); bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b = b>>1 ^ carry*reversed
	}
	return product
}

// summed is a file whose content passes on a tape.
type summed struct {
	size    int64
	extents []Extent // those that have not passed completely
	passed  int64    // bytes of the first of them
	logical int64    // how much of the file is in the sum
	sum     Sum
}

// add adds what of the tar's bytes p, the first of which is at the offset at, belongs to the file.
func (s *summed) add(p []byte, at int64) {
	for len(s.extents) > 0 {
		x := s.extents[0]
		from := x.Offset + s.passed - at
		if from >= int64(len(p)) {
			return
		}
		s.sum = s.sum.AddZeros(x.Logical + s.passed - s.logical)
		piece := p[from:min(int64(len(p)), from+x.Length-s.passed)]
		s.sum = s.sum.Add(piece)
		s.passed += int64(len(piece))
		s.logical = x.Logical + s.passed
		if s.passed == x.Length {
			s.extents, s.passed = s.extents[1:], 0
		}
	}
}

// end returns the sum of the whole file.
func (s *summed) end() Sum { return s.sum.AddZeros(s.size - s.logical) }
