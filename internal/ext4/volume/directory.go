package volume

import (
	"bytes"
	"fmt"
)

// Layout of directory entries (fs/ext4/ext4.h: struct ext4_dir_entry_2): inode, length of the entry, length of the
// name, type of the file, name. With checksums the last 12 bytes of a block of names look like an unused entry.
const (
	entryHeader = 8
	leastEntry  = 12 // with a name of 1 to 4 bytes
	tailSize    = 12
	tailType    = 0xDE
)

// dirEntry is a name in a directory.
type dirEntry struct {
	name     string
	inode    uint32
	fileType uint8 // 0 without the feature filetype
}

// directory is what a directory says.
type directory struct {
	in      *Inode
	blocks  BlockMap   // nothing for inline data
	entries []dirEntry // without "." and ".."
	parent  uint32     // the inode that ".." names
	self    uint32     // the inode that "." names; inline data has none
}

// readDirectory reads all names of a directory and checks its index, if it has one.
func (v *Volume) readDirectory(in *Inode) (*directory, error) {
	d := &directory{in: in}
	read := v.readDirBlocks
	if in.has(FlagInlineData) {
		read = v.readInlineDir
	}
	if err := read(d); err != nil {
		return nil, fmt.Errorf("reading the directory with inode %d: %w", in.Number, err)
	}
	return d, nil
}

// readDirBlocks reads a directory that has blocks. In an indexed one some blocks are of the index: to a reader of names
// they look empty, but for "." and ".." in the first.
func (v *Volume) readDirBlocks(d *directory) error {
	m, err := v.BlockMap(*d.in)
	if err != nil {
		return err
	}
	d.blocks = m
	if err := m.checkDistinct(); err != nil {
		return err
	}
	if d.in.Size == 0 || d.in.Size%v.super.BlockSize != 0 {
		return corrupt("a directory of %d bytes", d.in.Size)
	}
	var x *index
	if v.indexed(d.in) {
		if x, err = v.readIndex(d.in, &m); err != nil {
			return err
		}
	}
	for logical := range uint64(d.in.Size / v.super.BlockSize) {
		if err := v.readDirBlock(d, x, logical); err != nil {
			return fmt.Errorf("block %d of the directory: %w", logical, err)
		}
	}
	return nil
}

// readDirBlock appends the names of one block.
func (v *Volume) readDirBlock(d *directory, x *index, logical uint64) error {
	data, err := v.fileBlock(&d.blocks, logical)
	if err != nil {
		return err
	}
	names := data
	if x == nil || !x.nodes[uint32(logical)] {
		if names, err = v.checkNames(d.in, data); err != nil {
			return err
		}
	}
	first := len(d.entries)
	if logical == 0 {
		names, err = v.takeDots(d, names)
	}
	if err == nil {
		err = v.appendEntries(d, names)
	}
	if err != nil || x == nil {
		return err
	}
	return x.checkLeaf(uint32(logical), d.entries[first:])
}

// fileBlock reads a block of a file that has no holes.
func (v *Volume) fileBlock(m *BlockMap, logical uint64) (raw, error) {
	physical, found := m.find(logical)
	if !found {
		return nil, corrupt("block %d of the file is a hole", logical)
	}
	return v.readBlock(physical)
}

// checkNames verifies the checksum of a block of names and returns the block without it (fs/ext4/namei.c:
// ext4_dirblock_csum_verify).
func (v *Volume) checkNames(in *Inode, data raw) (raw, error) {
	if !v.super.hasRO(roMetadataChecksum) {
		return data, nil
	}
	names, tail := data[:len(data)-tailSize], data[len(data)-tailSize:]
	if tail.u32(0) != 0 || tail.u16(4) != tailSize || tail[6] != 0 || tail[7] != tailType {
		return nil, corrupt("no checksum at the end")
	}
	if got := crc32c(v.inodeSeed(in.Number, in.Generation), names); got != tail.u32(8) {
		return nil, badChecksum("a block of names", tail.u32(8), got)
	}
	return names, nil
}

// takeDots takes "." and "..", which are the first two entries of a directory, and returns what is behind them.
func (v *Volume) takeDots(d *directory, names raw) (raw, error) {
	for _, dot := range [...]struct {
		name  string
		inode *uint32
	}{{".", &d.self}, {"..", &d.parent}} {
		e, length, err := v.decodeEntry(names)
		if err != nil {
			return nil, err
		}
		if e.name != dot.name {
			return nil, corrupt("%q where %q has to be", e.name, dot.name)
		}
		*dot.inode, names = e.inode, names[length:]
	}
	if d.self != d.in.Number {
		return nil, corrupt("the entry \".\" names inode %d", d.self)
	}
	return names, nil
}

// appendEntries appends the entries that have a name.
func (v *Volume) appendEntries(d *directory, names raw) error {
	for len(names) > 0 {
		e, length, err := v.decodeEntry(names)
		if err != nil {
			return err
		}
		names = names[length:]
		if e.inode == 0 {
			continue
		}
		if err := checkName(e.name); err != nil {
			return err
		}
		d.entries = append(d.entries, e)
	}
	return nil
}

// checkName refuses names that the kernel cannot look up.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || bytes.ContainsAny([]byte(name), "/\x00") {
		return corrupt("an entry with the name %q", name)
	}
	return nil
}

// decodeEntry returns the first entry and its length, which is never 0 (fs/ext4/dir.c: __ext4_check_dir_entry). The
// name of an unused entry has no meaning.
func (v *Volume) decodeEntry(b raw) (dirEntry, int, error) {
	if len(b) < leastEntry {
		return dirEntry{}, 0, corrupt("%d bytes behind the last entry", len(b))
	}
	length, nameLength := v.entryLength(b.u16(4)), int(b[6])
	rest := len(b) - length
	fits := rest == 0 || rest >= leastEntry
	if !fits || length < leastEntry || length%4 != 0 || entryHeader+nameLength > length {
		return dirEntry{}, 0, corrupt("an entry of %d bytes with a name of %d, in a rest of %d", length, nameLength, len(b))
	}
	e := dirEntry{inode: b.u32(0)}
	if e.inode == 0 {
		return e, length, nil
	}
	e.name = string(b[entryHeader : entryHeader+nameLength])
	if v.super.hasIncompat(incompatFiletype) {
		e.fileType = b[7]
	}
	return e, length, nil
}

// entryLength returns rec_len. Blocks of 64 KiB need more than 16 bits (fs/ext4/ext4.h: ext4_rec_len_from_disk).
func (v *Volume) entryLength(n uint16) int {
	const largest = 1 << 16
	switch {
	case v.super.BlockSize < largest:
		return int(n)
	case n == 0 || n == largest-1:
		return largest
	}
	return int(n&^3) | int(n&3)<<16
}
