package volume

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

// Layout of extended attributes (fs/ext4/xattr.h).
const (
	attrMagic       = 0xEA020000
	attrHeader      = 32 // of a block; in an inode only the magic number is before the entries
	attrEntry       = 16
	maxReferences   = 1024    // EXT4_XATTR_REFCOUNT_MAX, of a block
	maxAttrValue    = 1 << 16 // XATTR_SIZE_MAX in linux/limits.h
	indexSystem     = 7
	inlineDataName  = "data"
	indexACLAccess  = 2
	indexACLDefault = 3
)

// attrPrefix returns what the number of a prefix stands for (fs/ext4/xattr.c: ext4_xattr_prefix).
func attrPrefix(index uint8) (prefix string, known bool) {
	switch index {
	case 1:
		return "user.", true
	case indexACLAccess:
		return "system.posix_acl_access", true
	case indexACLDefault:
		return "system.posix_acl_default", true
	case 4:
		return "trusted.", true
	case 6:
		return "security.", true
	case indexSystem:
		return "system.", true
	case 10:
		return "gnu.", true
	}
	return "", false
}

// attr is an attribute as it is stored.
type attr struct {
	index uint8 // of the prefix
	name  string
	hash  uint32
	value raw
	at    int    // where value is in its region
	inode uint32 // that has the value, or 0
	size  uint32 // of the value
}

// fullName returns the name as the system call has it.
func (a *attr) fullName() (string, error) {
	prefix, known := attrPrefix(a.index)
	if !known {
		err := fmt.Errorf("the attribute %q has the prefix %d, which is not known", a.name, a.index)
		return "", fault.New(fault.Unsupported, err, "")
	}
	isACL := a.index == indexACLAccess || a.index == indexACLDefault
	if isACL != (a.name == "") || strings.IndexByte(a.name, 0) >= 0 {
		return "", corrupt("an attribute with the name %q and the prefix %q", a.name, prefix)
	}
	return prefix + a.name, nil
}

// readEntries reads the entries from first in a region, up to four bytes of zeros. Values are at their offset from base
// and behind the entries (fs/ext4/xattr.c: check_xattrs).
func (v *Volume) readEntries(region raw, first, base int) ([]attr, error) {
	var attrs []attr
	at := first
	for {
		if at+4 > len(region) {
			return nil, corrupt("the attributes have no end")
		}
		if region.u32(at) == 0 {
			break
		}
		nameEnd := at + attrEntry
		if nameEnd > len(region) || nameEnd+int(region[at]) > len(region) {
			return nil, corrupt("an attribute beyond the end")
		}
		entry := region[at:]
		nameEnd += int(entry[0])
		attrs = append(attrs, attr{index: entry[1], name: string(region[at+attrEntry : nameEnd]), at: int(entry.u16(2)),
			inode: entry.u32(4), size: entry.u32(8), hash: entry.u32(12)})
		at = first + (nameEnd-first+3)&^3
	}
	for i := range attrs {
		if err := v.placeValue(&attrs[i], region, at+4, base); err != nil {
			return nil, err
		}
	}
	return attrs, nil
}

// placeValue finds the value of an attribute in its region, behind the entries.
func (v *Volume) placeValue(a *attr, region raw, entriesEnd, base int) error {
	if a.size > maxAttrValue {
		return corrupt("the attribute %q has %d bytes", a.name, a.size)
	}
	if a.inode != 0 {
		if !v.super.hasIncompat(incompatEAInode) || a.at != 0 {
			return corrupt("the attribute %q is in inode %d", a.name, a.inode)
		}
		return nil
	}
	a.at += base
	if a.size == 0 {
		a.at = base
		return nil
	}
	// The hash reads the value in words, so its last one has to be inside as well.
	end := a.at + int(a.size+3)&^3
	if a.at < entriesEnd || end > len(region) {
		return corrupt("the value of the attribute %q is beyond the end, or over the entries", a.name)
	}
	a.value = region[a.at : a.at+int(a.size)]
	return checkAttrHash(a, region[a.at:end])
}

// checkAttrHash verifies e_hash of a name and a value, which is padded with what follows it. An inode's own attributes
// may go without (fs/ext4/xattr.c: ext4_xattr_hash_entry). Before Linux 6.2 names were hashed as signed characters
// where C has them so.
func checkAttrHash(a *attr, padded raw) error {
	if a.hash == 0 {
		return nil
	}
	for _, unsigned := range [...]bool{true, false} {
		hash := attrNameHash(a.name, unsigned)
		for i := 0; i < len(padded); i += 4 {
			hash = bits.RotateLeft32(hash, 16) ^ padded.u32(i)
		}
		if hash == a.hash {
			return nil
		}
	}
	return corrupt("the hash of the attribute %q is %08x, its bytes have another", a.name, a.hash)
}

// attrNameHash is the beginning of an attribute's hash, made of its name without the prefix.
func attrNameHash(name string, unsigned bool) uint32 {
	var hash uint32
	for i := range len(name) {
		hash = bits.RotateLeft32(hash, 5) ^ char(name[i], unsigned)
	}
	return hash
}

// bodyAttrs reads the attributes that are in the inode, behind its fields (fs/ext4/xattr.c: ext4_xattr_ibody_get). An
// inode that has none has no magic number. Their offsets are from the start of the inode.
func (v *Volume) bodyAttrs(in *Inode) ([]attr, error) {
	start := oldInodeSize + in.ExtraSize
	if in.ExtraSize == 0 || start+4 > len(in.body) || in.body.u32(start) != attrMagic {
		return nil, nil
	}
	attrs, err := v.readEntries(in.body, start+4, start+4)
	if err != nil {
		return nil, fmt.Errorf("reading the attributes in inode %d: %w", in.Number, err)
	}
	return attrs, nil
}

// blockAttrs reads the attributes in a block, and how many inodes it is for.
func (v *Volume) blockAttrs(number uint64) (attrs []attr, references uint32, err error) {
	block, err := v.readBlock(number)
	if err != nil {
		return nil, 0, fmt.Errorf("reading attributes: %w", err)
	}
	if err := v.checkAttrBlock(number, block); err != nil {
		return nil, 0, err
	}
	attrs, err = v.readEntries(block, attrHeader, 0)
	if err == nil && !slices.IsSortedFunc(attrs, compareAttrs) {
		err = corrupt("the attributes are out of order") // the kernel's search ends at the first that is greater
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the attributes in block %d: %w", number, err)
	}
	return attrs, block.u32(4), nil
}

// compareAttrs is the order of attributes in a block (fs/ext4/xattr.c: xattr_find_entry).
func compareAttrs(a, b attr) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
}

// checkAttrBlock verifies the header and the checksum: of the block's number and all its bytes, in which the checksum
// counts as zeros (fs/ext4/xattr.c: ext4_xattr_block_csum).
func (v *Volume) checkAttrBlock(number uint64, block raw) error {
	const at = 0x10
	if block.u32(0) != attrMagic || block.u32(8) != 1 || block.u32(4) == 0 || block.u32(4) > maxReferences {
		return corrupt("block %d has no header of attributes", number)
	}
	if !v.super.hasRO(roMetadataChecksum) {
		return nil
	}
	crc := crc32cNumber(crc32cNumber(v.seed, uint32(number)), uint32(number>>32))
	crc = crc32c(crc32c(crc32c(crc, block[:at]), make([]byte, 4)), block[at+4:])
	if crc != block.u32(at) {
		return badChecksum(fmt.Sprintf("block %d of attributes", number), block.u32(at), crc)
	}
	return nil
}

// attrInode is a value that is in an inode of its own, and its hash.
type attrInode struct {
	value string
	hash  uint32
}

// readAttrInode reads the value of an attribute that is in an inode, and verifies the hash of the value, which is in
// i_atime (fs/ext4/xattr.c: ext4_xattr_inode_verify_hashes).
func (r *attrReader) readAttrInode(a *attr) (attrInode, error) {
	in, err := r.v.usedInode(a.inode)
	if err != nil {
		return attrInode{}, err
	}
	if !in.is(modeRegular) || !in.has(FlagEAInode) || in.has(FlagInlineData) || in.Size != int64(a.size) {
		return attrInode{}, corrupt("inode %d is not the value of an attribute of %d bytes", a.inode, a.size)
	}
	value, err := r.readSmall(&in)
	if err != nil {
		return attrInode{}, fmt.Errorf("reading inode %d: %w", in.Number, err)
	}
	want, hash := in.body.u32(0x08), crc32c(r.v.seed, value)
	if hash != want {
		return attrInode{}, corrupt("the hash of the value in inode %d is %08x, its bytes have %08x", a.inode, want, hash)
	}
	return attrInode{string(value), hash}, nil
}

// readSmall reads a file without holes whose size has been checked.
func (r *attrReader) readSmall(in *Inode) ([]byte, error) {
	m, err := r.v.BlockMap(*in)
	if err != nil {
		return nil, err
	}
	if r.used != nil {
		if err := r.used.addMap(in, &m, false); err != nil {
			return nil, err
		}
	}
	var content []byte
	for logical := uint64(0); int64(len(content)) < in.Size; logical++ {
		block, err := r.v.fileBlock(&m, logical)
		if err != nil {
			return nil, err
		}
		content = append(content, block...)
	}
	return content[:in.Size], nil
}

// Xattrs returns the extended attributes of an inode, sorted by name, with ACLs in the form of the system call.
func (v *Volume) Xattrs(in Inode) ([]layer.Xattr, error) {
	return (&attrReader{v: v}).read(&in)
}

// attrReader reads attributes. What several inodes share is read once, if there is a place to keep it.
type attrReader struct {
	v      *Volume
	blocks map[uint64]*sharedAttrs // nil if nothing is kept
	values map[uint32]attrInode    // by the inode that has the value
	used   *claims                 // nil, or where blocks of values are claimed
}

// sharedAttrs is a block of attributes.
type sharedAttrs struct {
	attrs      []layer.Xattr
	references uint32 // that the block says it has
	found      uint32
}

// read returns all attributes of an inode.
func (r *attrReader) read(in *Inode) ([]layer.Xattr, error) {
	stored, err := r.v.bodyAttrs(in)
	if err != nil {
		return nil, err
	}
	attrs, err := r.decode(stored)
	if err != nil {
		return nil, fmt.Errorf("reading the attributes of inode %d: %w", in.Number, err)
	}
	if in.AttrBlock == 0 {
		return sortAttrs(in, attrs)
	}
	shared, err := r.block(in.AttrBlock)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", in.Number, err)
	}
	if len(attrs) == 0 {
		return shared.attrs, nil
	}
	return sortAttrs(in, append(attrs, shared.attrs...))
}

// block returns the attributes in a block, sorted, for one more inode.
func (r *attrReader) block(number uint64) (*sharedAttrs, error) {
	shared := r.blocks[number]
	if shared == nil {
		stored, references, err := r.v.blockAttrs(number)
		if err != nil {
			return nil, err
		}
		attrs, err := r.decode(stored)
		if err != nil {
			return nil, fmt.Errorf("reading the attributes in block %d: %w", number, err)
		}
		sortByName(attrs)
		shared = &sharedAttrs{attrs: slices.Clip(attrs), references: references}
		if r.blocks != nil {
			r.blocks[number] = shared
		}
	}
	shared.found++
	return shared, nil
}

func sortByName(attrs []layer.Xattr) {
	slices.SortFunc(attrs, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
}

// sortAttrs sorts the attributes of an inode, none of which may be there twice.
func sortAttrs(in *Inode, attrs []layer.Xattr) ([]layer.Xattr, error) {
	sortByName(attrs)
	for i := range attrs[min(1, len(attrs)):] {
		if attrs[i].Name == attrs[i+1].Name {
			return nil, corrupt("inode %d has the attribute %q twice", in.Number, attrs[i].Name)
		}
	}
	return attrs, nil
}

// decode turns stored attributes into those of the system call. The file system's own, which are inline data, are left
// out.
func (r *attrReader) decode(stored []attr) ([]layer.Xattr, error) {
	var attrs []layer.Xattr
	for i := range stored {
		a := &stored[i]
		name, err := a.fullName()
		if err != nil {
			return nil, err
		}
		if a.index == indexSystem {
			continue
		}
		value, err := r.value(a)
		if err == nil && a.name == "" {
			value, err = decodeACL(value)
		}
		if err != nil {
			return nil, fmt.Errorf("the attribute %q: %w", name, err)
		}
		attrs = append(attrs, layer.Xattr{Name: name, Value: value})
	}
	return attrs, nil
}

// value returns the value of an attribute. If it is in an inode, the attribute's hash is of its name and of the value's
// hash.
func (r *attrReader) value(a *attr) (string, error) {
	if a.inode == 0 {
		return string(a.value), nil
	}
	stored, known := r.values[a.inode]
	if !known || len(stored.value) != int(a.size) {
		var err error
		if stored, err = r.readAttrInode(a); err != nil {
			return "", err
		}
		if r.values != nil {
			r.values[a.inode] = stored
		}
	}
	for _, unsigned := range [...]bool{true, false} {
		if a.hash == bits.RotateLeft32(attrNameHash(a.name, unsigned), 16)^stored.hash {
			return stored.value, nil
		}
	}
	return "", corrupt("its hash is %08x, its name and the value in inode %d have another", a.hash, a.inode)
}
