package ext4

import "math/bits"

// hashChunk is how many bytes of a name are hashed at once.
const hashChunk = 32

// nameHash returns the hash of a name by which indexed directories are sorted, and a second one for equal hashes: the
// half MD4 of fs/ext4/hash.c, over unsigned bytes.
func nameHash(seed [4]uint32, name string) (hash, minor uint32) {
	state := seed // never all zero, which would stand for a seed of the kernel's
	for len(name) > 0 {
		halfMD4Round(&state, hashWords(name))
		name = name[min(hashChunk, len(name)):]
	}
	hash = state[1] &^ 1
	// The largest hash means the end of a directory to those who read it (EXT4_HTREE_EOF_32BIT).
	const end = 0x7fffffff
	if hash == end<<1 {
		hash = (end - 1) << 1
	}
	return hash, state[2]
}

// hashWords returns the first bytes of a name as eight numbers, each with the first byte highest, filled up with the
// name's length in every byte (str2hashbuf).
func hashWords(name string) [8]uint32 {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	var words [8]uint32
	for i := range words {
		words[i] = pad
	}
	for i := range min(len(name), hashChunk) {
		if i%4 == 0 {
			words[i/4] = pad
		}
		words[i/4] = words[i/4]<<8 + uint32(name[i])
	}
	return words
}

// halfMD4Round mixes eight words into the state: three rounds of MD4 (RFC 1320, section 3.4), of eight steps each.
func halfMD4Round(state *[4]uint32, in [8]uint32) {
	choose := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	majority := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	parity := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	s := *state
	for _, round := range [...]struct {
		mix    func(x, y, z uint32) uint32
		add    uint32
		order  [8]int
		rotate [4]int
	}{
		{choose, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{majority, 0x5A827999, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{parity, 0x6ED9EBA1, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	} {
		for i, word := range round.order {
			a := s[0] + round.mix(s[1], s[2], s[3]) + in[word] + round.add
			// The next step works on d, a, b, c.
			s = [4]uint32{s[3], bits.RotateLeft32(a, round.rotate[i%4]), s[1], s[2]}
		}
	}
	for i := range state {
		state[i] += s[i]
	}
}
