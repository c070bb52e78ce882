package sftp

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	osuser "os/user"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// extensions are those of OpenSSH's server that this one has, with their versions, in its order (PROTOCOL, section 4).
func extensions() [][2]string {
	return [][2]string{
		{"posix-rename@openssh.com", "1"}, {"statvfs@openssh.com", "2"}, {"fstatvfs@openssh.com", "2"},
		{"hardlink@openssh.com", "1"}, {"fsync@openssh.com", "1"}, {"lsetstat@openssh.com", "1"},
		{"limits@openssh.com", "1"}, {"expand-path@openssh.com", "1"}, {"copy-data", "1"}, {"home-directory", "1"},
		{"users-groups-by-id@openssh.com", "1"},
	}
}

// extensionList is the payload of a typeVersion.
func extensionList() (list []byte) {
	for _, e := range extensions() {
		list = appendString(appendString(list, e[0]), e[1])
	}
	return list
}

// extended carries out a request of an extension.
func (s *server) extended(m *message) (answer, error) {
	switch m.string() {
	case "posix-rename@openssh.com":
		return twoPaths(m, syscall.Rename)
	case "hardlink@openssh.com":
		return twoPaths(m, os.Link)
	case "statvfs@openssh.com":
		return statvfs(m)
	case "fstatvfs@openssh.com":
		return s.fstatvfs(m)
	case "fsync@openssh.com":
		return s.fsync(m)
	case "lsetstat@openssh.com":
		return lsetstat(m)
	case "limits@openssh.com":
		return limits(), nil
	case "expand-path@openssh.com":
		return expandPath(m)
	case "copy-data":
		return s.copyData(m)
	case "home-directory":
		return homeDirectory(m)
	case "users-groups-by-id@openssh.com":
		return s.usersAndGroups(m)
	}
	return answer{}, errUnsupported
}

func twoPaths(m *message, do func(from, to string) error) (answer, error) {
	from, to := m.string(), m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, do(from, to)
}

func statvfs(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return answer{}, err
	}
	return statvfsAnswer(st), nil
}

func (s *server) fstatvfs(m *message) (answer, error) {
	h, err := s.file(m)
	if err != nil {
		return answer{}, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(h.file.Fd()), &st); err != nil {
		return answer{}, err
	}
	return statvfsAnswer(st), nil
}

// statvfsAnswer has the numbers in the order of PROTOCOL, section 4.4. Of the flags it knows two; the kernel's first two
// are the same (statfs(2), ST_RDONLY and ST_NOSUID).
func statvfsAnswer(st unix.Statfs_t) answer {
	fragment := st.Frsize
	if fragment == 0 {
		fragment = st.Bsize
	}
	fsid := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
	var b []byte
	for _, n := range []uint64{
		uint64(st.Bsize), uint64(fragment), st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Ffree, fsid,
		uint64(st.Flags) & 3, uint64(st.Namelen),
	} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return answer{typeExtendedReply, b}
}

func (s *server) fsync(m *message) (answer, error) {
	h, err := s.file(m)
	if errors.Is(err, errHandle) {
		err = syscall.EBADF
	}
	if err != nil {
		return answer{}, err
	}
	return answer{}, h.file.Sync()
}

func lsetstat(m *message) (answer, error) {
	path, attr := m.string(), m.attributes()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	return answer{}, attr.apply(linkTarget(path))
}

// limits answers with the largest packet, read and write, and how many files can be open; 0 says that it depends.
func limits() answer {
	var b []byte
	for _, n := range []uint64{maxPacket, maxData, maxData, 0} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return answer{typeExtendedReply, b}
}

// expandPath is realpath for a path that may begin with ~ or ~user. The former is the working directory, as in OpenSSH's
// server: that is the home, or where one is without it.
func expandPath(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	if tilde, is := strings.CutPrefix(path, "~"); is {
		user, rest, _ := strings.Cut(tilde, "/")
		home := "."
		if user != "" {
			var err error
			if home, err = homeOf(user); err != nil {
				return answer{}, err
			}
		}
		path = home + "/" + rest
	}
	return resolved(path)
}

func homeDirectory(m *message) (answer, error) {
	user := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	home, err := homeOf(user)
	if err != nil {
		return answer{}, err
	}
	return oneName(home), nil
}

// homeOf returns the home of a user; "" is the one who asks.
func homeOf(name string) (string, error) {
	if name == "" {
		if home := os.Getenv("HOME"); home != "" {
			return home, nil
		}
		return "/", nil
	}
	account, err := osuser.Lookup(name)
	if err != nil {
		return "", errNoUser
	}
	return account.HomeDir, nil
}

// copyData copies within the guest (draft-ietf-secsh-filexfer-extensions-00, section 7); a length of 0 is up to the end.
func (s *server) copyData(m *message) (answer, error) {
	from, fromErr := s.file(m)
	start, length := m.offset(), m.offset()
	to, toErr := s.file(m)
	at := m.offset()
	if err := errors.Join(m.err(), fromErr, toErr); err != nil {
		return answer{}, err
	}
	if length == 0 {
		length = 1<<63 - 1 - start
	}
	if same(from.file, to.file) {
		return answer{}, errSameFile
	}
	_, err := io.CopyBuffer(to.writer(at), io.NewSectionReader(from.file, start, length), make([]byte, maxData))
	return answer{}, err
}

func same(a, b *os.File) bool {
	one, err1 := a.Stat()
	other, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(one, other)
}

// usersAndGroups answers with the names of ids, empty where there is none (PROTOCOL, section 4.11).
func (s *server) usersAndGroups(m *message) (answer, error) {
	uids, gids := &message{rest: m.bytes()}, &message{rest: m.bytes()}
	if err := m.err(); err != nil {
		return answer{}, err
	}
	var users, groups []byte
	for len(uids.rest) > 0 {
		users = appendString(users, s.names.user(uids.uint32()))
	}
	for len(gids.rest) > 0 {
		groups = appendString(groups, s.names.group(gids.uint32()))
	}
	return answer{typeExtendedReply, appendString(appendString(nil, users), groups)}, nil
}
