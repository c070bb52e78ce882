package volume

import "math/bits"

// Versions of the hash of names (fs/ext4/ext4.h: DX_HASH_*). In an index the first three are of signed characters, or
// of unsigned ones if the superblock says so.
const (
	hashLegacy = iota
	hashHalfMD4
	hashTEA
	hashLegacyUnsigned
	hashHalfMD4Unsigned
	hashTEAUnsigned
)

// hashEnd is a hash that no name has: it marks the end of a directory for readdir (fs/ext4/hash.c,
// EXT4_HTREE_EOF_32BIT).
const hashEnd = 0xFFFFFFFE

// hashName returns the hash by which an index orders a name. Its lowest bit is 0 (fs/ext4/hash.c: __ext4fs_dirhash).
func hashName(version uint8, seed [4]uint32, name string) uint32 {
	unsigned := version >= hashLegacyUnsigned
	var hash uint32
	switch version {
	case hashLegacy, hashLegacyUnsigned:
		hash = legacyHash(name, unsigned)
	case hashHalfMD4, hashHalfMD4Unsigned:
		hash = halfMD4Hash(startHash(seed), name, unsigned)
	case hashTEA, hashTEAUnsigned:
		hash = teaHash(startHash(seed), name, unsigned)
	}
	hash &^= 1
	if hash == hashEnd {
		hash -= 2
	}
	return hash
}

// startHash returns the seed, or the default in the place of one that is all zeros.
func startHash(seed [4]uint32) [4]uint32 {
	if seed == [4]uint32{} {
		return [4]uint32{0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476}
	}
	return seed
}

// char returns a byte of a name as the C of the hash's version sees it.
func char(c byte, unsigned bool) uint32 {
	if unsigned {
		return uint32(c)
	}
	return uint32(int32(int8(c)))
}

// legacyHash is the hash of the first indexes (dx_hack_hash).
func legacyHash(name string, unsigned bool) uint32 {
	last, before := uint32(0x12A3FE2D), uint32(0x37ABE8F9)
	for i := range len(name) {
		hash := before + (last ^ char(name[i], unsigned)*7152373)
		if hash&0x80000000 != 0 {
			hash -= 0x7FFFFFFF
		}
		before, last = last, hash
	}
	return last << 1
}

// hashWords makes words of the beginning of a name, and fills what is left with its length (str2hashbuf).
func hashWords(name string, words []uint32, unsigned bool) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	for i := range words {
		words[i] = pad
	}
	for i := range min(len(name), 4*len(words)) {
		words[i/4] = words[i/4]<<8 + char(name[i], unsigned)
	}
}

// halfMD4Hash hashes 32 bytes of the name at a time.
func halfMD4Hash(state [4]uint32, name string, unsigned bool) uint32 {
	for len(name) > 0 {
		var words [8]uint32
		hashWords(name, words[:], unsigned)
		state = halfMD4(state, words)
		name = name[min(32, len(name)):]
	}
	return state[1]
}

// The functions of MD4's rounds: selection, majority, parity.
func selection(x, y, z uint32) uint32 { return z ^ x&(y^z) }
func majority(x, y, z uint32) uint32  { return x&y + (x^y)&z }
func parity(x, y, z uint32) uint32    { return x ^ y ^ z }

// halfMD4 is three rounds of eight steps of MD4's kind (half_md4_transform). Each step changes one of a, d, c and b, in
// turn.
func halfMD4(state [4]uint32, in [8]uint32) [4]uint32 {
	rounds := [...]struct {
		mix    func(x, y, z uint32) uint32
		add    uint32
		shifts [4]int
		order  [8]int
	}{
		{selection, 0, [4]int{3, 7, 11, 19}, [8]int{0, 1, 2, 3, 4, 5, 6, 7}},
		{majority, 0x5A827999, [4]int{3, 5, 9, 13}, [8]int{1, 3, 5, 7, 0, 2, 4, 6}},
		{parity, 0x6ED9EBA1, [4]int{3, 9, 11, 15}, [8]int{3, 7, 2, 6, 1, 5, 0, 4}},
	}
	a, b, c, d := state[0], state[1], state[2], state[3]
	for _, r := range rounds {
		for i, word := range r.order {
			a = bits.RotateLeft32(a+r.mix(b, c, d)+in[word]+r.add, r.shifts[i%4])
			a, b, c, d = d, a, b, c
		}
	}
	return [4]uint32{state[0] + a, state[1] + b, state[2] + c, state[3] + d}
}

// teaHash hashes 16 bytes of the name at a time with the cipher TEA (TEA_transform).
func teaHash(state [4]uint32, name string, unsigned bool) uint32 {
	for len(name) > 0 {
		var words [4]uint32
		hashWords(name, words[:], unsigned)
		x, y, sum := state[0], state[1], uint32(0)
		for range 16 {
			sum += 0x9E3779B9
			x += (y<<4 + words[0]) ^ (y + sum) ^ (y>>5 + words[1])
			y += (x<<4 + words[2]) ^ (x + sum) ^ (x>>5 + words[3])
		}
		state[0] += x
		state[1] += y
		name = name[min(16, len(name)):]
	}
	return state[0]
}
