package volume

import "encoding/binary"

// Tags of the entries of a POSIX ACL (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclStored    = 1 // EXT4_ACL_VERSION
	aclCall      = 2 // POSIX_ACL_XATTR_VERSION
	aclUndefined = 0xFFFFFFFF
)

// decodeACL turns an ACL as ext4 stores it (fs/ext4/acl.h: a number only where an entry is of one user or group) into
// that of the system call (linux/posix_acl_xattr.h: a number in every entry).
func decodeACL(stored string) (string, error) {
	b := raw(stored)
	if len(b) < 4 || b.u32(0) != aclStored {
		return "", corrupt("an ACL that has not version %d", aclStored)
	}
	out := binary.LittleEndian.AppendUint32(nil, aclCall)
	for b = b[4:]; len(b) > 0; {
		length, id := 4, uint32(aclUndefined)
		if len(b) < length {
			return "", corrupt("an ACL that ends in an entry")
		}
		switch b.u16(0) {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
		case aclUser, aclGroup:
			length = 8
			if len(b) < length {
				return "", corrupt("an ACL that ends in an entry")
			}
			id = b.u32(4)
		default:
			return "", corrupt("an ACL with an entry of the type %#x", b.u16(0))
		}
		out = binary.LittleEndian.AppendUint32(append(out, b[:4]...), id)
		b = b[length:]
	}
	return string(out), nil
}
