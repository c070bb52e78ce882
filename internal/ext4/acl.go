package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Tags of an ACL's entries (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// encodeACL turns an ACL from the form of the system call, which archives have (linux/posix_acl_xattr.h: version 2, then
// tag, permissions and id of each entry), into ext4's own (fs/ext4/acl.h: version 1, and an id only where one counts).
func encodeACL(value string) (string, error) {
	const version, ownVersion, header, size = 2, 1, 4, 8
	in := []byte(value)
	if len(in) < header || len(in)%size != header || binary.LittleEndian.Uint32(in) != version {
		return "", errors.New("it is no ACL of version 2")
	}
	out := binary.LittleEndian.AppendUint32(nil, ownVersion)
	for in = in[header:]; len(in) > 0; in = in[size:] {
		switch tag := binary.LittleEndian.Uint16(in); tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			out = append(out, in[:4]...)
		case aclUser, aclGroup:
			out = append(out, in[:size]...)
		default:
			return "", fmt.Errorf("it has an entry with the unknown tag %#x", tag)
		}
	}
	return string(out), nil
}
