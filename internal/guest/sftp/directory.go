package sftp

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	osuser "os/user"
	"strconv"
	"syscall"
	"time"
)

// batch is how many names a request for names gets, as from OpenSSH's server.
const batch = 100

func (s *server) openDirectory(m *message) (answer, error) {
	path := m.string()
	if err := m.err(); err != nil {
		return answer{}, err
	}
	fd, err := open(path, syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return answer{}, err
	}
	return s.open.add(&handle{file: os.NewFile(uintptr(fd), path), directory: true}), nil
}

// readDirectory answers with some of a directory's names, io.EOF at the end. A file that is removed meanwhile is left out.
func (s *server) readDirectory(m *message) (answer, error) {
	h := s.open.of(m.bytes())
	if h == nil || !h.directory {
		return answer{}, errHandle
	}
	for {
		found, err := h.file.Readdirnames(batch)
		if !h.begun {
			found = append([]string{".", ".."}, found...)
			h.begun = true
		}
		if len(found) == 0 {
			return answer{}, eofOr(err)
		}
		if list, count := s.list(h.file.Name(), found); count > 0 {
			return answer{typeName, list}, nil
		}
	}
}

func eofOr(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// list describes the files of a directory as the payload of a typeName.
func (s *server) list(directory string, found []string) (list []byte, count uint32) {
	list = binary.BigEndian.AppendUint32(nil, 0)
	for _, name := range found {
		info, err := os.Lstat(directory + "/" + name)
		if err != nil {
			continue
		}
		list = appendString(list, name)
		list = appendString(list, s.names.line(name, info, time.Now()))
		list = appendAttributes(list, info)
		count++
	}
	binary.BigEndian.PutUint32(list, count)
	return list, count
}

// names are those of users and groups, by "u" and "g" and the id, so that each is looked up once.
type names map[string]string

func (n names) user(uid uint32) string {
	return n.find("u"+id(uid), func() string {
		if u, err := osuser.LookupId(id(uid)); err == nil {
			return u.Username
		}
		return ""
	})
}

func (n names) group(gid uint32) string {
	return n.find("g"+id(gid), func() string {
		if g, err := osuser.LookupGroupId(id(gid)); err == nil {
			return g.Name
		}
		return ""
	})
}

func (n names) find(key string, look func() string) string {
	name, known := n[key]
	if !known {
		name = look()
		n[key] = name
	}
	return name
}

func id(number uint32) string { return strconv.FormatUint(uint64(number), 10) }

// line describes a file as ls -l does, which clients show to people.
func (n names) line(name string, info fs.FileInfo, now time.Time) string {
	st := info.Sys().(*syscall.Stat_t)
	user, group := n.user(st.Uid), n.group(st.Gid)
	if user == "" {
		user = id(st.Uid)
	}
	if group == "" {
		group = id(st.Gid)
	}
	when := info.ModTime().Format("Jan _2  2006")
	if age := now.Sub(info.ModTime()); age >= 0 && age < 365*24*time.Hour/2 {
		when = info.ModTime().Format("Jan _2 15:04")
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %8d %s %s", modeString(st.Mode), st.Nlink, user, group, st.Size, when, name)
}

// modeString writes a mode as ls does (POSIX, ls, "STDOUT").
func modeString(mode uint32) string {
	kinds := map[uint32]byte{
		syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b', syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's',
	}
	text := []byte("-rwxrwxrwx")
	if kind, known := kinds[mode&syscall.S_IFMT]; known {
		text[0] = kind
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	for i, special := range []struct {
		bit  uint32
		with byte // instead of x
	}{{syscall.S_ISUID, 's'}, {syscall.S_ISGID, 's'}, {syscall.S_ISVTX, 't'}} {
		if mode&special.bit == 0 {
			continue
		}
		at := 3 * (i + 1)
		if text[at] == '-' {
			special.with -= 'a' - 'A'
		}
		text[at] = special.with
	}
	return string(text)
}
