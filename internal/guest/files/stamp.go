package files

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// owner returns whose an entry becomes, and whether that has to be set at all.
func (p policy) owner(e *Entry) (uid, gid int, set bool) {
	switch p.owners {
	case asSent:
		return int(e.UID), int(e.GID), true
	case asRoot:
		return 0, 0, true
	}
	return 0, 0, false
}

// mode returns the mode of an entry. The bits that lend an owner's rights go where the owner does not.
func (p policy) mode(e *Entry) uint32 {
	if p.exact {
		return uint32(e.Mode)
	}
	return uint32(e.Mode) &^ setid
}

// attributes returns the extended attributes that an entry keeps. Those of users have no meaning to the kernel.
func (p policy) attributes(e *Entry) []Xattr {
	if p.exact {
		return e.Xattrs
	}
	var kept []Xattr
	for _, x := range e.Xattrs {
		if strings.HasPrefix(x.Name, userNamespace) {
			kept = append(kept, x)
		}
	}
	return kept
}

// stamp gives an open file or directory its attributes but for the time. The order matters: a change of owner takes
// setuid and capabilities away, an ACL changes the mode, and the mode may forbid setting attributes.
func (d *disk) stamp(fd int, e *Entry) error {
	if uid, gid, set := d.policy.owner(e); set {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	if err := d.disinherit(e, func(name string) error { return unix.Fremovexattr(fd, name) }); err != nil {
		return err
	}
	for _, x := range d.policy.attributes(e) {
		if err := d.tolerate(e, x, unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0)); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, d.policy.mode(e))
}

// stampName gives what cannot be opened its attributes.
func (d *disk) stampName(at spot, e *Entry) error {
	if uid, gid, set := d.policy.owner(e); set {
		if err := unix.Fchownat(at.dir, at.file, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if e.Kind != Symlink { // which has neither an ACL nor a mode
		remove := func(name string) error { return unix.Lremovexattr(pathIn(at.dir, at.file), name) }
		if err := d.disinherit(e, remove); err != nil {
			return err
		}
	}
	for _, x := range d.policy.attributes(e) {
		err := unix.Lsetxattr(pathIn(at.dir, at.file), x.Name, []byte(x.Value), 0)
		if err := d.tolerate(e, x, err); err != nil {
			return err
		}
	}
	if e.Kind != Symlink {
		if err := unix.Fchmodat(at.dir, at.file, d.policy.mode(e), 0); err != nil {
			return err
		}
	}
	return setTime(at, e)
}

// disinherit removes the ACL that a new file has from its directory (acl(5), "Object creation and default ACLs") and
// the sent one does not have. Only an exact copy is without it.
func (d *disk) disinherit(e *Entry, remove func(name string) error) error {
	if !d.policy.exact {
		return nil
	}
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		if slices.ContainsFunc(e.Xattrs, func(x Xattr) bool { return x.Name == name }) {
			continue
		}
		err := remove(name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("removing its inherited ACL: %w", err)
		}
	}
	return nil
}

// setTime leaves the time of access alone and sets that of the last change.
func setTime(at spot, e *Entry) error {
	times := []unix.Timespec{
		{Nsec: unix.UTIME_OMIT},
		{Sec: e.MTime.Unix(), Nsec: int64(e.MTime.Nanosecond())},
	}
	return unix.UtimesNanoAt(at.dir, at.file, times, unix.AT_SYMLINK_NOFOLLOW)
}

// tolerate makes a note of an extended attribute that the file system does not keep.
func (d *disk) tolerate(e *Entry, x Xattr, err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || isTooLarge(x, err) {
		d.lose("extended attribute "+namespace(x.Name)+" is not kept", e.Name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("setting its extended attribute %q: %w", x.Name, err)
	}
	return nil
}

// isTooLarge reports whether an attribute of a user is more than the file system lets a file have: ext4 has a block for all of
// them and says that it is full (xattr(7), "Filesystem differences"). What says something about rights is not lost like that.
func isTooLarge(x Xattr, err error) bool {
	return strings.HasPrefix(x.Name, userNamespace) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.E2BIG))
}

// namespace returns the part of an attribute's name up to its first dot.
func namespace(name string) string {
	space, _, _ := strings.Cut(name, ".")
	return space
}
