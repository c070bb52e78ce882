package ext4

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

// Extended attributes are behind the fields of the inode, and those that find no room there in one block. In both places
// there is a list of entries from the front, which ends with four zero bytes, and their values from the back
// (fs/ext4/xattr.h; Documentation/filesystems/ext4/attributes.rst).
const (
	xattrMagic      = 0xEA020000
	xattrHeader     = 4  // struct ext4_xattr_ibody_header
	xattrBlockStart = 32 // struct ext4_xattr_header
	xattrEntry      = 16 // struct ext4_xattr_entry, without the name
	xattrEnd        = 4
	xattrInInode    = inodeSize - xattrsAt - xattrHeader
)

// The attributes that hold POSIX ACLs (acl(5)).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// xattr is an attribute in ext4's own form.
type xattr struct {
	index byte   // stands for the beginning of the name
	name  string // the rest of it
	value string
}

// xattrPrefixes are the numbers of the namespaces (fs/ext4/xattr.h, EXT4_XATTR_INDEX_*).
func xattrPrefixes() []xattr {
	return []xattr{{1, "user.", ""}, {4, "trusted.", ""}, {6, "security.", ""}}
}

// convertXattr returns an attribute in ext4's form; ok is false where Linux has no such namespace.
func convertXattr(x layer.Xattr) (converted xattr, ok bool, err error) {
	switch {
	case len(x.Name) > maxName: // XATTR_NAME_MAX (linux/limits.h)
		return xattr{}, false, fmt.Errorf("its name has more than %d bytes", maxName)
	case x.Name == aclAccess:
		value, err := encodeACL(x.Value)
		return xattr{2, "", value}, true, err
	case x.Name == aclDefault:
		value, err := encodeACL(x.Value)
		return xattr{3, "", value}, true, err
	}
	for _, p := range xattrPrefixes() {
		if rest, found := strings.CutPrefix(x.Name, p.name); found && rest != "" {
			return xattr{p.index, rest, x.Value}, true, nil
		}
	}
	return xattr{}, false, nil
}

// size is how many bytes an attribute takes; entry and value are aligned to 4.
func (x xattr) size() int { return xattrEntry + align4(len(x.name)) + align4(len(x.value)) }

func align4(n int) int { return (n + 3) &^ 3 }

// encodeXattrs returns the bytes of an inode behind its fields, and the block for what has no room there; nil where there
// is nothing. Attributes of namespaces that Linux does not have are left out, as container engines do. The block lacks its
// checksum.
func encodeXattrs(list []layer.Xattr) (inode, block record, err error) {
	own, outside, err := splitXattrs(list)
	if err != nil {
		return nil, nil, err
	}
	if len(own) > 0 {
		inode = make(record, xattrHeader+xattrInInode)
		inode.u32(0, xattrMagic)
		// Values count from the first entry here, and entries have no hash (fs/ext4/xattr.c, ext4_xattr_ibody_set).
		placeXattrs(inode[xattrHeader:], 0, own, false)
	}
	if len(outside) > 0 {
		block = make(record, BlockSize)
		block.u32(0x00, xattrMagic)
		block.u32(0x04, 1) // h_refcount
		block.u32(0x08, 1) // h_blocks
		block.u32(0x0C, placeXattrs(block, xattrBlockStart, outside, true))
	}
	return inode, block, nil
}

// splitXattrs says which attributes go into the inode and which into the block. They come in the order that the kernel
// expects in a block: by number, length and bytes of the name (fs/ext4/xattr.c, xattr_find_entry).
func splitXattrs(list []layer.Xattr) (own, outside []xattr, err error) {
	all := make([]xattr, 0, len(list))
	for _, x := range list {
		converted, ok, err := convertXattr(x)
		if err != nil {
			err = fmt.Errorf("the attribute %q: %w", x.Name, err)
			return nil, nil, fault.New(fault.Unsupported, err, "the image is malformed: ask who publishes it")
		}
		if ok {
			all = append(all, converted)
		}
	}
	slices.SortFunc(all, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	room, blockRoom := xattrInInode-xattrEnd, BlockSize-xattrBlockStart-xattrEnd
	for _, x := range all {
		switch size := x.size(); {
		case size <= room:
			own, room = append(own, x), room-size
		case size <= blockRoom:
			outside, blockRoom = append(outside, x), blockRoom-size
		default:
			return nil, nil, tooManyXattrs(list)
		}
	}
	return own, outside, nil
}

func tooManyXattrs(list []layer.Xattr) error {
	var total int
	for _, x := range list {
		total += len(x.Name) + len(x.Value)
	}
	err := fmt.Errorf("its %d extended attributes have %d bytes, and ext4 has room for about %d, in one inode and one block",
		len(list), total, BlockSize)
	return fault.New(fault.Unsupported, err, "remove attributes from the file in the image")
}

// placeXattrs writes entries and values into area, the entries from start on, and returns the hash of them all.
func placeXattrs(area record, start int, list []xattr, hashed bool) uint32 {
	at, end := start, len(area)
	var all uint32
	for _, x := range list {
		area[at] = byte(len(x.name))
		area[at+1] = x.index
		if x.value != "" {
			end -= align4(len(x.value))
			copy(area[end:], x.value)
			area.u16(at+2, uint16(end))
		}
		area.u32(at+8, uint32(len(x.value)))
		copy(area[at+xattrEntry:], x.name)
		if hashed {
			hash := x.hash()
			area.u32(at+12, hash)
			all = all<<16 ^ all>>16 ^ hash // ext4_xattr_rehash
		}
		at += xattrEntry + align4(len(x.name))
	}
	return all
}

// hash is that of ext4_xattr_hash_entry: over the name, as unsigned bytes, and the value in words of 32 bits.
func (x xattr) hash() uint32 {
	var h uint32
	for i := range len(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(x.name[i])
	}
	value := make([]byte, align4(len(x.value)))
	copy(value, x.value)
	for ; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(value)
	}
	return h
}

// writeXattrs writes the blocks of extended attributes.
func (w *writer) writeXattrs(ctx context.Context) error {
	for i := range w.inodes {
		in := &w.inodes[i]
		if len(in.node.Xattrs) == 0 {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		_, block, err := encodeXattrs(in.node.Xattrs)
		if err != nil {
			return err
		}
		if block == nil {
			continue
		}
		if err := w.writeXattrBlock(numberOf(i), in, block); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) writeXattrBlock(number uint32, in *inode, block record) error {
	at, _, err := w.space.free()
	if err != nil {
		return err
	}
	w.space.take(1)
	w.xattrs[number] = at
	in.blocks++
	// h_checksum counts the block's own number, in 64 bits, before the block (ext4_xattr_block_csum).
	own := binary.LittleEndian.AppendUint64(nil, uint64(at))
	block.u32(0x10, checksum(checksum(w.checksum, own), block))
	b, err := w.sink.block(at)
	if err != nil {
		return err
	}
	copy(b, block)
	return nil
}

// encodeXattrs fills in the attributes of an inode, and where the others are.
func (w *writer) encodeXattrs(b record, number uint32, in *inode) {
	if len(in.node.Xattrs) == 0 {
		return
	}
	b.u32(0x68, w.xattrs[number])             // i_file_acl_lo
	own, _, _ := encodeXattrs(in.node.Xattrs) // number has found no error in them
	copy(b[xattrsAt:], own)
}
