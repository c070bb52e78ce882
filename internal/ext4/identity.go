package ext4

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/banger-vm/banger/internal/rootfs"
)

// digest is the hash of a tree, of all that a file system made from it shows: names, attributes and contents. Contents
// count by their CRC-32C, because equal trees must give equal bytes, and that is all that anybody relies on.
type digest struct {
	hash    hash.Hash
	pending []byte
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) numbers(values ...uint64) {
	for _, v := range values {
		d.pending = binary.LittleEndian.AppendUint64(d.pending, v)
	}
	d.flush()
}

// text adds a string so that it cannot be taken for anything else.
func (d *digest) text(s string) {
	d.pending = binary.LittleEndian.AppendUint64(d.pending, uint64(len(s)))
	d.pending = append(d.pending, s...)
	d.flush()
}

// flush hashes what is pending, once that is enough to be worth a call.
func (d *digest) flush() {
	const enough = 16 << 10
	if len(d.pending) >= enough {
		_, _ = d.hash.Write(d.pending)
		d.pending = d.pending[:0]
	}
}

func (d *digest) sum() []byte {
	_, _ = d.hash.Write(d.pending)
	d.pending = d.pending[:0]
	return d.hash.Sum(nil)
}

// node adds the attributes of a node.
func (d *digest) node(n *rootfs.Node) {
	d.numbers(uint64(n.Kind), uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.MTime.Unix()),
		uint64(n.MTime.Nanosecond()), uint64(n.Size), uint64(n.Major), uint64(n.Minor), uint64(len(n.Xattrs)))
	d.text(n.Target)
	for _, x := range n.Xattrs {
		d.text(x.Name)
		d.text(x.Value)
	}
}

// names adds the entries of a directory.
func (d *digest) names(dir *directory) {
	d.numbers(uint64(dir.number), uint64(len(dir.entries)))
	for _, e := range dir.entries {
		d.numbers(uint64(e.number))
		d.text(e.name)
	}
}

// seeds is what the content decides of a file system, besides the content.
type seeds struct {
	uuid     [16]byte
	hashSeed [4]uint32 // of the names in indexed directories, s_hash_seed
	checksum uint32    // of all metadata
}

// identify gives the file system its UUID and hash seed: a hash of the whole tree and the options.
func (w *writer) identify(o Options) {
	w.digest.text("banger ext4 2")
	w.digest.text(o.Label)
	w.digest.numbers(uint64(w.blocks), uint64(w.inodesPerGroup))
	sum := w.digest.sum()
	copy(w.uuid[:], sum)
	w.uuid[6] = w.uuid[6]&0x0f | 0x80 // version 8, of the application's own making (RFC 9562, section 5.8)
	w.uuid[8] = w.uuid[8]&0x3f | 0x80 // and the variant of that RFC (section 4.1)
	for i := range w.hashSeed {
		w.hashSeed[i] = binary.LittleEndian.Uint32(sum[16+4*i:])
	}
	w.checksum = checksum(^uint32(0), w.uuid[:])
}
