// Package files copies files and trees between host and guest, over one stream: the host's half (CopyIn, CopyOut,
// TarIn, TarOut, Between) and the agent's half (Handlers).
//
// What travels is a sequence of entries, each followed by its content (docs/guest-protocol.md). Everything that gives
// entries writes them to a sink, and everything that takes them is one, so that both halves share all of the work:
//
//	a tree   walker    ─▶            ─▶ disk       a tree
//	a tar    tarReader ─▶    sink    ─▶ tarWriter  a tar
//	a stream inbox     ─▶            ─▶ outbox     a stream
//
// The receiver believes nothing. A name is a path below the target and nothing else, and is resolved by an os.Root.
package files

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what an entry is. The zero Kind is invalid.
type Kind uint8

// The kinds of entries.
const (
	Directory Kind = 1 + iota
	Regular
	Symlink
	HardLink // another name of an entry that came before
	FIFO
	CharDevice
	BlockDevice
)

// top is the name of the entry that is copied itself. The others have paths below it.
const top = "."

// The bits of Mode that give a program the rights of its owner or group (inode(7)).
const setid = unix.S_ISUID | unix.S_ISGID

// Entry is one file of a tree, without its content.
type Entry struct {
	Kind         Kind
	Mode         uint16 // permissions, setuid, setgid and sticky: 12 bits
	UID, GID     uint32
	MTime        time.Time // to the nanosecond
	Size         int64     // of a regular file, in bytes
	Major, Minor uint32    // of a device
	Name         string    // relative to the top, of any bytes but NUL; "." is the top
	Target       string    // of a symlink as it stands; of a hard link the name that came before
	Xattrs       []Xattr   // not of a hard link
}

// Xattr is an extended attribute.
type Xattr struct {
	Name  string // with its namespace
	Value string
}

// sink takes a tree. After an error it is not used any more.
type sink interface {
	// entry begins the next entry and so ends the one before. A directory comes before what is in it. The entry is the
	// sink's only during the call.
	entry(e *Entry) error
	// data is a piece of the content of the entry before, a regular file. Pieces come in order, do not overlap, and end
	// within the file's size. What lies between them are holes. The bytes are the sink's only during the call.
	data(off int64, p []byte) error
	// end ends the tree. notes say what was not copied as it is.
	end(notes []string) error
}

// Options are choices of a copy.
type Options struct {
	// Archive keeps what only root can: owners, setuid and setgid, devices, all extended attributes, and the attributes
	// of directories that exist. Without it files become root's in the guest and the caller's on the host.
	Archive bool
	// Follow copies what SRC points to when it is a symlink. Symlinks below it stay symlinks.
	Follow bool
	// Into demands that DEST is a directory, as it must be for several sources.
	Into bool
	// Progress is told how many bytes of content have been copied, from one goroutine. It may be nil.
	Progress func(bytes int64)
}

// Result is what a copy did.
type Result struct {
	Entries int64    `json:"entries"`
	Bytes   int64    `json:"bytes"`           // of content, without holes
	Notes   []string `json:"notes,omitempty"` // what could not be kept as it was, for people
}

// The places that messages speak of.
const (
	onHost = "on the host"
	inVM   = "in the VM"
)

// maxNotes is how many notes are kept.
const maxNotes = 20

// notes collects what was not copied as it is. The zero value has none.
type notes struct {
	list    []string
	dropped int
}

func (n *notes) add(format string, args ...any) {
	if len(n.list) >= maxNotes {
		n.dropped++
		return
	}
	n.list = append(n.list, fmt.Sprintf(format, args...))
}

// all returns the notes, and how many there are besides.
func (n *notes) all() []string {
	if n.dropped == 0 {
		return n.list
	}
	return append(n.list[:len(n.list):len(n.list)], fmt.Sprintf("and %d more", n.dropped))
}
