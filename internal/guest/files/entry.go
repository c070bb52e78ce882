package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// fixedSize is how many bytes of an encoded entry come before its name: kind, mode, uid, gid, seconds, nanoseconds,
// size, major, minor.
const fixedSize = 1 + 2 + 4 + 4 + 8 + 4 + 8 + 4 + 4

var (
	errShort = errors.New("an entry is cut short")
	errLong  = errors.New("an entry has more bytes than it needs")
)

// appendEntry appends the encoded entry to b.
func appendEntry(b []byte, e *Entry) []byte {
	b = append(b, byte(e.Kind))
	b = binary.BigEndian.AppendUint16(b, e.Mode)
	b = binary.BigEndian.AppendUint32(b, e.UID)
	b = binary.BigEndian.AppendUint32(b, e.GID)
	b = binary.BigEndian.AppendUint64(b, uint64(e.MTime.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(e.MTime.Nanosecond()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Size))
	b = binary.BigEndian.AppendUint32(b, e.Major)
	b = binary.BigEndian.AppendUint32(b, e.Minor)
	b = appendText(b, e.Name)
	b = appendText(b, e.Target)
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendText(appendText(b, x.Name), x.Value)
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}

// decodeEntry reads an entry and checks that it can be one. The entry keeps nothing of b.
func decodeEntry(b []byte) (*Entry, error) {
	if len(b) < fixedSize {
		return nil, errShort
	}
	e := &Entry{
		Kind:  Kind(b[0]),
		Mode:  binary.BigEndian.Uint16(b[1:]),
		UID:   binary.BigEndian.Uint32(b[3:]),
		GID:   binary.BigEndian.Uint32(b[7:]),
		MTime: time.Unix(int64(binary.BigEndian.Uint64(b[11:])), int64(binary.BigEndian.Uint32(b[19:]))),
		Size:  int64(binary.BigEndian.Uint64(b[23:])),
		Major: binary.BigEndian.Uint32(b[31:]),
		Minor: binary.BigEndian.Uint32(b[35:]),
	}
	r := reader{b: b[fixedSize:]}
	e.Name, e.Target = r.text(), r.text()
	e.Xattrs = r.xattrs()
	switch {
	case r.short:
		return nil, errShort
	case len(r.b) > 0:
		return nil, errLong
	}
	return e, e.check()
}

// reader reads what has a length of its own.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) number() int {
	if len(r.b) < 4 {
		r.b, r.short = nil, true
		return 0
	}
	n := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return int(n)
}

func (r *reader) text() string {
	n := r.number()
	if n > len(r.b) {
		r.b, r.short = nil, true
		return ""
	}
	text := string(r.b[:n])
	r.b = r.b[n:]
	return text
}

func (r *reader) xattrs() []Xattr {
	var list []Xattr
	for n := r.number(); n > 0 && !r.short; n-- {
		list = append(list, Xattr{r.text(), r.text()})
	}
	return list
}

// check says what is wrong with an entry that somebody sent.
func (e *Entry) check() error {
	if err := checkName(e.Name); err != nil {
		return err
	}
	switch {
	case e.Kind < Directory || e.Kind > BlockDevice:
		return fmt.Errorf("%.200q is of an unknown kind, %d", e.Name, e.Kind)
	case e.Mode > 0o7777:
		return fmt.Errorf("%.200q has the mode %o", e.Name, e.Mode)
	case e.Size < 0 || e.Size > 0 && e.Kind != Regular:
		return fmt.Errorf("%.200q has the size %d", e.Name, e.Size)
	case e.Kind == HardLink:
		return checkName(e.Target)
	}
	return nil
}

// checkName accepts what can be the path of something below the target, without a detour.
func checkName(name string) error {
	switch {
	case name == top:
		return nil
	case name == "", path.Clean(name) != name, name == "..", strings.HasPrefix(name, "../"), path.IsAbs(name),
		strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("%.200q is no name below the target: %w", name, fs.ErrInvalid)
	}
	return nil
}
