package volume

import (
	"fmt"
	"sort"

	"github.com/banger-vm/banger/internal/fault"
)

// Layout of a directory's index (fs/ext4/namei.c: struct dx_root, dx_node, dx_entry). The root is behind "." and "..",
// in the room of the latter; any other block of the index is one unused entry of the whole block.
const (
	rootInfoAt  = 0x18
	rootCountAt = 0x20
	nodeCountAt = 0x08
	indexSize   = 8 // of an entry
	indexTail   = 8 // reserved, checksum
	blockMask   = 0x0FFFFFFF
)

// index is the index of a directory.
type index struct {
	hash   func(name string) uint32
	levels int // of index blocks below the root
	nodes  map[uint32]bool
	leaves map[uint32]hashRange
}

// hashRange is the hashes that the names of one block may have: low ≤ hash < high, and those that are equal to high
// if shared, because names of one hash may go on in the next block.
type hashRange struct {
	low, high uint64
	shared    bool
}

func (r hashRange) has(hash uint32) bool {
	h := uint64(hash)
	return h >= r.low && (h < r.high || r.shared && h == r.high)
}

// indexBlock is the entries of one block of an index. The first has the hash 0: it is for all hashes below the second.
type indexBlock []indexEntry

type indexEntry struct {
	hash  uint32 // the lowest bit says that names with this hash are in the block before as well
	block uint32 // of the directory
}

// indexed says whether a directory has an index. The flag means nothing without the feature (fs/ext4/namei.c: is_dx).
func (v *Volume) indexed(in *Inode) bool {
	return in.has(FlagIndexed) && v.super.hasCompat(compatDirIndex)
}

// readIndex reads a whole index, and checks that every block of the directory is in it exactly once.
func (v *Volume) readIndex(in *Inode, m *BlockMap) (*index, error) {
	x, root, err := v.readRoot(in, m)
	if err != nil {
		return nil, err
	}
	x.nodes, x.leaves = map[uint32]bool{0: true}, map[uint32]hashRange{}
	if err := v.readIndexBelow(in, m, x, root, hashRange{0, 1 << 32, false}, x.levels); err != nil {
		return nil, err
	}
	if blocks := in.Size / v.super.BlockSize; int64(len(x.nodes)+len(x.leaves)) != blocks {
		return nil, corrupt("the index has %d blocks of %d", len(x.nodes)+len(x.leaves), blocks)
	}
	return x, nil
}

// readIndexBelow reads the blocks that a block of the index points to: leaves, or the index's next level.
func (v *Volume) readIndexBelow(in *Inode, m *BlockMap, x *index, node indexBlock, r hashRange, levels int) error {
	for i, e := range node {
		within := hashRange{r.low, r.high, r.shared}
		if i > 0 {
			within.low = uint64(e.hash &^ 1)
		}
		if i+1 < len(node) {
			next := node[i+1].hash
			within.high, within.shared = uint64(next&^1), next&1 != 0
		}
		if within.low < r.low || within.high > r.high || within.low > within.high {
			return corrupt("the index has the hash %08x out of order", e.hash)
		}
		if err := v.readIndexEntry(in, m, x, e.block, within, levels); err != nil {
			return err
		}
	}
	return nil
}

// readIndexEntry takes one block into the index.
func (v *Volume) readIndexEntry(in *Inode, m *BlockMap, x *index, block uint32, r hashRange, levels int) error {
	if _, leaf := x.leaves[block]; leaf || x.nodes[block] || int64(block) >= in.Size/v.super.BlockSize {
		return corrupt("the index has block %d twice, or it does not exist", block)
	}
	if levels == 0 {
		x.leaves[block] = r
		return nil
	}
	x.nodes[block] = true
	node, err := v.readIndexBlock(in, m, block, nodeCountAt)
	if err != nil {
		return err
	}
	return v.readIndexBelow(in, m, x, node, r, levels-1)
}

// checkLeaf checks the hashes of the names in a block of an indexed directory.
func (x *index) checkLeaf(block uint32, entries []dirEntry) error {
	if x.nodes[block] {
		if len(entries) > 0 {
			return corrupt("a block of the index has names")
		}
		return nil
	}
	for _, e := range entries {
		if hash := x.hash(e.name); !x.leaves[block].has(hash) {
			return corrupt("the name %q has the hash %08x, by which the index does not find it here", e.name, hash)
		}
	}
	return nil
}

// readRoot reads the first block of an indexed directory.
func (v *Volume) readRoot(in *Inode, m *BlockMap) (*index, indexBlock, error) {
	node, err := v.readIndexBlock(in, m, 0, rootCountAt)
	if err != nil {
		return nil, nil, err
	}
	root, err := v.fileBlock(m, 0)
	if err != nil {
		return nil, nil, err
	}
	version, length, levels, flags := root[rootInfoAt+4], root[rootInfoAt+5], int(root[rootInfoAt+6]), root[rootInfoAt+7]
	if version > hashTEA {
		err := fmt.Errorf("the index has hashes of version %d, which is not known", version)
		return nil, nil, fault.New(fault.Unsupported, err, "")
	}
	if v.super.flags&unsignedHash != 0 {
		version += hashLegacyUnsigned
	}
	if root.u32(rootInfoAt) != 0 || length != 8 || flags&1 != 0 || levels > v.maxIndexLevels() {
		return nil, nil, corrupt("the root of the index has %d bytes, flags %x, %d levels", length, flags, levels)
	}
	seed := v.super.HashSeed
	x := &index{levels: levels, hash: func(name string) uint32 { return hashName(version, seed, name) }}
	return x, node, nil
}

// maxIndexLevels returns how many levels may be below the root (fs/ext4/ext4.h: ext4_dir_htree_level).
func (v *Volume) maxIndexLevels() int {
	if v.super.hasIncompat(incompatLargeDir) {
		return 2
	}
	return 1
}

// readIndexBlock reads a block of an index whose entries begin at an offset. The first entry's hash is not there: in
// its place are the room for entries and their number (struct dx_countlimit).
func (v *Volume) readIndexBlock(in *Inode, m *BlockMap, block uint32, at int) (indexBlock, error) {
	data, err := v.fileBlock(m, uint64(block))
	if err != nil {
		return nil, err
	}
	if at == nodeCountAt && (data.u32(0) != 0 || v.entryLength(data.u16(4)) != len(data)) {
		return nil, corrupt("block %d of the directory is not of the index", block)
	}
	room := len(data) - at
	if v.super.hasRO(roMetadataChecksum) {
		room -= indexTail
	}
	limit, count := int(data.u16(at)), int(data.u16(at+2))
	if limit != room/indexSize || count == 0 || count > limit {
		return nil, corrupt("block %d of the index has %d entries in the room of %d", block, count, limit)
	}
	if err := v.checkIndexBlock(in, data, at, count, limit); err != nil {
		return nil, fmt.Errorf("block %d of the index: %w", block, err)
	}
	node := make(indexBlock, count)
	for i := range node {
		entry := data[at+indexSize*i:]
		node[i].hash, node[i].block = entry.u32(0), entry.u32(4)&blockMask
	}
	node[0].hash = 0
	return node, nil
}

// checkIndexBlock verifies the checksum of a block of the index: of all up to the last entry, and of the tail, which is
// behind the room for entries and in which the checksum counts as zeros (fs/ext4/namei.c: ext4_dx_csum).
func (v *Volume) checkIndexBlock(in *Inode, data raw, at, count, limit int) error {
	if !v.super.hasRO(roMetadataChecksum) {
		return nil
	}
	tail := data[at+indexSize*limit:]
	crc := crc32c(v.inodeSeed(in.Number, in.Generation), data[:at+indexSize*count])
	crc = crc32c(crc32c(crc, tail[:4]), make([]byte, 4))
	if crc != tail.u32(4) {
		return badChecksum("a block of the index", tail.u32(4), crc)
	}
	return nil
}

// search returns which entry of a block of the index leads to a hash: the last that is not above it.
func (node indexBlock) search(hash uint32) int {
	return sort.Search(len(node)-1, func(i int) bool { return node[i+1].hash > hash })
}
