package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/banger-vm/banger/internal/fault"
)

// The index of a directory: its first block is the root, which looks to old kernels like a block with "." and ".." alone.
// It points, by the lowest hash in each, to the blocks with the entries or, in a large directory, to nodes that do. Entries
// are in the order of their hashes (Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories").
const (
	indexEntry    = 8 // struct dx_entry
	rootEntriesAt = 32
	nodeEntriesAt = 8
	// rootLimit and nodeLimit are how many entries there is room for, with 8 bytes for the checksum.
	rootLimit = (BlockSize - rootEntriesAt - 8) / indexEntry
	nodeLimit = (BlockSize - nodeEntriesAt - 8) / indexEntry
	halfMD4   = 1 // DX_HASH_HALF_MD4
	// collision marks the index entry of a block that begins with the hash with which the one before it ends.
	collision = 1
)

// hashedEntry is an entry with the hash of its name.
type hashedEntry struct {
	entry
	hash, minor uint32
}

// leaf is a block of entries in the index.
type leaf struct {
	entries []hashedEntry
	hash    uint32 // of the first, with collision
}

// writeIndexed writes a directory with its index: the root, the nodes if there are any, then the entries.
func (d *directoryData) writeIndexed() error {
	d.w.inode(d.number).indexed = true
	leaves := packLeaves(d.hashed())
	nodes := uint32(0)
	if len(leaves) > rootLimit {
		nodes = ceil(uint32(len(leaves)), nodeLimit)
	}
	if nodes > rootLimit {
		path := d.w.pathOf(d.w.inode(d.number).node)
		err := fmt.Errorf("writing %q: its %d entries are more than ext4 can index", path, len(d.entries))
		return fault.New(fault.Unsupported, err, "spread the files over several directories")
	}
	if err := d.writeRoot(leaves, nodes); err != nil {
		return err
	}
	if err := d.writeNodes(leaves, nodes); err != nil {
		return err
	}
	for _, l := range leaves {
		if err := d.writeLeaf(l); err != nil {
			return err
		}
	}
	return nil
}

// hashed returns the entries in the order of their hashes.
func (d *directoryData) hashed() []hashedEntry {
	list := make([]hashedEntry, len(d.entries))
	for i, e := range d.entries {
		list[i].entry = e
		list[i].hash, list[i].minor = nameHash(d.w.hashSeed, e.name)
	}
	slices.SortFunc(list, func(a, b hashedEntry) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), cmp.Compare(a.name, b.name))
	})
	return list
}

// packLeaves cuts the list where blocks are full.
func packLeaves(list []hashedEntry) []leaf {
	var leaves []leaf
	var previous uint32 // the last hash of the leaf before
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) && size+entrySize(list[n].name) <= usable {
			size += entrySize(list[n].name)
			n++
		}
		l := leaf{entries: list[:n], hash: list[0].hash}
		if len(leaves) > 0 && l.hash == previous {
			l.hash |= collision
		}
		leaves = append(leaves, l)
		previous = list[n-1].hash
		list = list[n:]
	}
	return leaves
}

// dxEntry is an entry of the index: the lowest hash in a block, and the logical number of the block.
type dxEntry struct{ hash, block uint32 }

// writeRoot writes the first block: struct dx_root of fs/ext4/namei.c.
func (d *directoryData) writeRoot(leaves []leaf, nodes uint32) error {
	b, err := d.block()
	if err != nil {
		return err
	}
	const dot, dotDot = 0, 12
	d.put(b[dot:], entry{".", d.number}, dotDot)
	d.put(b[dotDot:], entry{"..", d.parent}, BlockSize-dotDot)
	b[0x1C] = halfMD4 // hash_version; that bytes are unsigned is in s_flags
	b[0x1D] = 8       // info_length
	list := indexLeaves(leaves, 1)
	if nodes > 0 {
		b[0x1E] = 1 // indirect_levels
		list = list[:0]
		for i := range nodes {
			list = append(list, dxEntry{leaves[i*nodeLimit].hash, 1 + i})
		}
	}
	d.putIndex(b, rootEntriesAt, rootLimit, list)
	return nil
}

// writeNodes writes the blocks between the root and the leaves: struct dx_node.
func (d *directoryData) writeNodes(leaves []leaf, nodes uint32) error {
	all := indexLeaves(leaves, 1+nodes)
	for range nodes {
		b, err := d.block()
		if err != nil {
			return err
		}
		b.u16(4, BlockSize) // an entry for inode 0 over the whole block
		n := min(nodeLimit, len(all))
		d.putIndex(b, nodeEntriesAt, nodeLimit, all[:n])
		all = all[n:]
	}
	return nil
}

// indexLeaves returns the entries for leaves of which the first is the given block.
func indexLeaves(leaves []leaf, first uint32) []dxEntry {
	list := make([]dxEntry, len(leaves))
	for i, l := range leaves {
		list[i] = dxEntry{l.hash, first + uint32(i)}
	}
	return list
}

// putIndex writes entries from start on. The first has limit and count in the place of its hash, which is the lowest
// that there can be (struct dx_countlimit).
func (d *directoryData) putIndex(b record, start int, limit uint16, list []dxEntry) {
	for i, x := range list {
		b.u32(start+indexEntry*i, x.hash)
		b.u32(start+indexEntry*i+4, x.block)
	}
	b.u16(start, limit)
	b.u16(start+2, uint16(len(list)))
	d.sealIndex(b, start+indexEntry*len(list))
}

func (d *directoryData) writeLeaf(l leaf) error {
	b, err := d.block()
	if err != nil {
		return err
	}
	entries := make([]entry, len(l.entries))
	for i, e := range l.entries {
		entries[i] = e.entry
	}
	d.fill(b, entries)
	return nil
}
