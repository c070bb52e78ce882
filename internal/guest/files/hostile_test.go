package files

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// script is what a hostile guest sends after it has agreed to send.
type script func(frames *frame.Writer)

// hostileGuest agrees to send a directory, or a file, and then sends what script does.
func hostileGuest(directory bool, send script) func(net.Conn) {
	return func(stream net.Conn) {
		defer func() { _ = stream.Close() }()
		if _, err := frame.Read(stream); err != nil {
			return
		}
		frame.Answer(stream, sendReply{Directory: directory})
		send(frame.NewWriter(stream))
	}
}

// tree is a script that sends entries and ends in good order.
func tree(entries ...*Entry) script {
	return func(frames *frame.Writer) {
		for _, e := range entries {
			_ = frames.Write(kindEntry, appendEntry(nil, e))
			if e.Kind == Regular && e.Size > 0 && e.Size < 100 {
				_ = frames.Write(kindData, content(0, strings.Repeat("x", int(e.Size))))
			}
		}
		_ = frames.Write(kindDone, []byte("{}"))
	}
}

// raw is a script that sends frames of these kinds and payloads.
func raw(kindsAndPayloads ...any) script {
	return func(frames *frame.Writer) {
		for i := 0; i < len(kindsAndPayloads); i += 2 {
			_ = frames.Write(kindsAndPayloads[i].(frame.Kind), kindsAndPayloads[i+1].([]byte))
		}
	}
}

func content(off int64, text string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(off)), text...)
}

func dirEntry(name string) *Entry  { return &Entry{Kind: Directory, Mode: 0o755, Name: name} }
func fileEntry(name string) *Entry { return &Entry{Kind: Regular, Mode: 0o644, Size: 3, Name: name} }
func linkEntry(name, to string) *Entry {
	return &Entry{Kind: Symlink, Mode: 0o777, Name: name, Target: to}
}
func hardEntry(name, to string) *Entry { return &Entry{Kind: HardLink, Name: name, Target: to} }

// scene is a directory of the host with a target in it, and with what nobody may touch.
type scene struct {
	t      *testing.T
	dir    string
	before string
}

func newScene(t *testing.T) *scene {
	dir := t.TempDir()
	shell(t, dir, `mkdir target target/own secret; echo secret >secret/file; ln -s ../secret target/leak
		ln -s "$PWD/secret" target/absolute; echo mine >target/own/file; ln -s own target/alias; mkfifo pipe; touch -d 2001-01-01 secret/file secret`)
	s := &scene{t: t, dir: dir}
	s.before = s.outsideOf()
	return s
}

// outsideOf lists everything but the target, with all that could be changed.
func (s *scene) outsideOf() string {
	return shell(s.t, s.dir, `find . -path ./target -prune -o ! -path . -printf '%p %y %m %n %U:%G %s %T@ %l\n' | sort; cat secret/file`)
}

func (s *scene) target() string { return filepath.Join(s.dir, "target") }

// check looks for damage and for what a copy should not leave behind.
func (s *scene) check() {
	s.t.Helper()
	if after := s.outsideOf(); after != s.before {
		s.t.Errorf("what lies outside of the target has changed:\nbefore\n%s\nafter\n%s", s.before, after)
	}
	_ = filepath.WalkDir(s.target(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), ".banger-") {
			s.t.Errorf("a temporary file was left behind: %s", path)
		}
		return nil
	})
}

// TestHostileGuest: whatever a guest sends, nothing is written outside of the target, the copy ends, and an error says why.
func TestHostileGuest(t *testing.T) {
	long := strings.Repeat("a/", 300_000) + "a"
	root := dirEntry(top)
	for _, c := range []struct {
		name string
		send script
		file bool   // the guest announced a file
		want string // in the error; "" is success
		then string // a command that has to succeed in the target
	}{
		{name: "parent", send: tree(root, fileEntry("../secret/new")), want: "no name below the target"},
		{name: "parent alone", send: tree(root, dirEntry("..")), want: "no name below the target"},
		{name: "parent in the middle", send: tree(root, fileEntry("own/../../secret/file")), want: "no name below the target"},
		{name: "absolute", send: tree(root, fileEntry("/etc/banger-test")), want: "no name below the target"},
		{name: "slash at the end", send: tree(root, fileEntry("own/")), want: "no name below the target"},
		{name: "two slashes", send: tree(root, fileEntry("own//file")), want: "no name below the target"},
		{name: "empty name", send: tree(root, fileEntry("")), want: "no name below the target"},
		{name: "NUL", send: tree(root, fileEntry("a\x00b")), want: "no name below the target"},
		{name: "very long name", send: tree(root, fileEntry(strings.Repeat("n", 5000))), want: "file name too long"},
		{name: "too deep name", send: tree(root, &Entry{Kind: Directory, Name: long}), want: "bytes, more than"},
		{name: "very deep name", send: tree(root, &Entry{Kind: Directory, Name: long[:4001]}), then: "test -d src/a/a/a"},
		{name: "through its own symlink, up", send: tree(root, linkEntry("s", "../../secret"), fileEntry("s/file")), want: "escapes"},
		{name: "through its own symlink, absolute", send: tree(root, linkEntry("s", "/etc"), fileEntry("s/banger-test")), want: "escapes"},
		{name: "through two symlinks", send: tree(root, linkEntry("s", "r"), linkEntry("r", ".."), fileEntry("s/own/x")), want: "escapes"},
		{name: "a loop of symlinks", send: tree(root, linkEntry("s", "r"), linkEntry("r", "s"), fileEntry("s/x")), want: "too many levels"},
		{name: "inside is allowed", send: tree(root, dirEntry("d"), linkEntry("s", "d"), fileEntry("s/x")), then: "test -f src/d/x"},
		{name: "a symlink that points out is only a symlink", send: tree(root, linkEntry("s", "/etc/passwd")), then: "test /etc/passwd = $(readlink src/s)"},
		{name: "a file over its symlink", send: tree(root, linkEntry("s", "../../secret/file"), fileEntry("s")), then: "test ! -L src/s && test xxx = $(cat src/s)"},
		{name: "a directory over its symlink", send: tree(root, linkEntry("s", "../../secret"), dirEntry("s"), fileEntry("s/file")), want: "a directory does not replace"},
		{name: "hard link to the outside", send: tree(root, hardEntry("h", "../../secret/file")), want: "no name below the target"},
		{name: "hard link, absolute", send: tree(root, hardEntry("h", "/etc/passwd")), want: "no name below the target"},
		{name: "hard link through a symlink", send: tree(root, linkEntry("s", "../../secret"), hardEntry("h", "s/file")), want: "escapes"},
		{name: "hard link to nothing", send: tree(root, hardEntry("h", "nothing")), want: "no such file"},
		{name: "hard link to a directory", send: tree(root, dirEntry("d"), hardEntry("h", "d")), want: "linking it"},
		{name: "hard link to the top", send: tree(root, hardEntry("h", top)), want: "linking it"},
		{name: "hard link to itself", send: tree(root, fileEntry("f"), hardEntry("f", "f")), then: "test xxx = $(cat src/f)"},
		{name: "the top is a hard link", send: tree(hardEntry(top, "own")), want: "invalid"},
		{name: "the top is a symlink", send: tree(linkEntry(top, "../secret"), fileEntry("file")), want: "without the directory"},
		{name: "the top is a file", send: tree(fileEntry(top), fileEntry("file")), want: "without the directory"},
		{name: "no top", send: tree(fileEntry("file")), want: "without the directory"},
		{name: "a file in a file", send: tree(root, fileEntry("f"), fileEntry("f/x")), want: "not a directory"},
		{name: "a file that becomes a directory", send: tree(root, fileEntry("f"), dirEntry("f")), want: "a directory does not replace"},
		{name: "a directory that becomes a file", send: tree(root, dirEntry("f"), fileEntry("f")), want: "a file does not replace"},
		{name: "the top becomes a file", send: tree(root, fileEntry(top)), want: "a file does not replace"},
		{name: "the same file many times", send: tree(root, fileEntry("f"), fileEntry("f"), linkEntry("f", "x"), fileEntry("f")), then: "test xxx = $(cat src/f)"},
		{name: "the same directory many times", send: tree(root, root, dirEntry("d"), root, dirEntry("d"), dirEntry("d")), then: "test -d src/d"},
		{name: "a file instead of a directory", send: tree(fileEntry(top)), then: "test -f src"},
		{name: "a directory instead of a file", file: true, send: tree(root, fileEntry("x")), then: "test -f src/x"},
		{name: "huge size without content", send: tree(root, &Entry{Kind: Regular, Name: "f", Size: 1 << 40}), then: "test $(stat -c %b src/f) = 0"},
		{name: "the largest size", send: tree(root, &Entry{Kind: Regular, Name: "f", Size: 1<<63 - 1}), want: "writing"},
		{name: "negative size", send: tree(root, &Entry{Kind: Regular, Name: "f", Size: -1}), want: "has the size"},
		{name: "a directory with a size", send: tree(&Entry{Kind: Directory, Name: top, Size: 5}), want: "has the size"},
		{name: "unknown kind", send: tree(&Entry{Kind: 77, Name: top}), want: "unknown kind"},
		{name: "no kind", send: tree(&Entry{Name: top}), want: "unknown kind"},
		{name: "too many bits in the mode", send: tree(&Entry{Kind: Directory, Name: top, Mode: 0o10000}), want: "has the mode"},
		{name: "empty symlink", send: tree(root, linkEntry("s", "")), want: "writing"},
		{name: "odd time", send: tree(root, &Entry{Kind: Regular, Name: "f", MTime: time.Unix(1<<40, 5)}), then: "test -f src/f"},
		{name: "data first", send: raw(kindData, content(0, "x")), want: "not in order"},
		{name: "data of a directory", send: raw(kindEntry, appendEntry(nil, root), kindData, content(0, "x")), want: "not in order"},
		{name: "data beyond the size", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, content(0, "four")), want: "not in order"},
		{name: "data far beyond the size", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, content(1<<62, "x")), want: "not in order"},
		{name: "data at a negative offset", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, content(-1, "x")), want: "not in order"},
		{name: "data that goes back", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, content(1, "x"), kindData, content(0, "x")), want: "not in order"},
		{name: "data without an offset", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, []byte("1234567")), want: "no offset"},
		{name: "half an entry", send: raw(kindEntry, appendEntry(nil, root)[:20]), want: "cut short"},
		{name: "an entry and a half", send: raw(kindEntry, append(appendEntry(nil, root), 0)), want: "more bytes"},
		{name: "a claim of many attributes", send: raw(kindEntry, append(appendEntry(nil, root)[:fixedSize+9], 0xff, 0xff, 0xff, 0xff)), want: "cut short"},
		{name: "an end that is no JSON", send: raw(kindEntry, appendEntry(nil, root), kindDone, []byte("x")), want: "receiving a tree"},
		{name: "an end without a tree", send: raw(kindDone, []byte("{}"))},
		{name: "no end", send: raw(kindEntry, appendEntry(nil, root), kindEntry, appendEntry(nil, fileEntry("f")), kindData, content(0, "x")), want: "connection to the guest was lost", then: "test ! -e src/f"},
		{name: "a refusal with a terminal's commands", send: func(w *frame.Writer) {
			_ = w.WriteJSON(frame.Error, frame.Refuse(frame.Failed, "\x1b]0;title\x07 and \x9b31m"))
		}, want: "\ufffd]0;title\ufffd and \ufffd"},
		{name: "frames of other services", send: func(w *frame.Writer) {
			for kind := frame.Kind(35); kind < 100; kind++ {
				_ = w.Write(kind, []byte("noise"))
			}
			tree(root)(w)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			_, err := CopyOut(deadline(t), dialTo(t, hostileGuest(!c.file, c.send)), "/src", s.target(), Options{})
			s.check()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got the error %q, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got the error %v, want one with %q", err, c.want)
			}
			if c.then != "" {
				shell(t, s.target(), c.then)
			}
		})
	}
}

// TestHostileGuestInExisting: SRC/. goes into a directory that the user has, with symlinks of its own.
func TestHostileGuestInExisting(t *testing.T) {
	root := &Entry{Kind: Directory, Mode: 0o7777, Name: top}
	for _, c := range []struct {
		name string
		send script
		want string
		then string
	}{
		{name: "through the user's symlink, up", send: tree(root, fileEntry("leak/file")), want: "escapes"},
		{name: "through the user's symlink, absolute", send: tree(root, fileEntry("absolute/file")), want: "escapes"},
		{name: "a new directory through it", send: tree(root, dirEntry("leak/new")), want: "escapes"},
		{name: "a directory over it", send: tree(root, dirEntry("leak")), want: "a directory does not replace"},
		{name: "a file over it", send: tree(root, fileEntry("leak")), then: "test ! -L leak && test -f leak"},
		{name: "a hard link through it", send: tree(root, hardEntry("h", "leak/file")), want: "escapes"},
		{name: "within the target", send: tree(root, fileEntry("alias/file")), then: "test xxx = $(cat own/file)"},
		{name: "a file over a directory", send: tree(root, fileEntry("own")), want: "a file does not replace"},
		{name: "a file over the target", send: tree(fileEntry(top)), want: "a file does not replace"},
		{name: "a symlink over the target", send: tree(linkEntry(top, "/etc")), want: "a file does not replace"},
		{name: "the mode of what exists", send: tree(root, &Entry{Kind: Directory, Mode: 0o7777, Name: "own"}), then: "test 755 = $(stat -c %a own) && test 755 = $(stat -c %a .)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			shell(t, s.target(), "chmod 755 . own")
			_, err := CopyOut(deadline(t), dialTo(t, hostileGuest(true, c.send)), "/src/.", s.target(), Options{})
			s.check()
			if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
				t.Errorf("got the error %v, want %q", err, c.want)
			}
			if c.then != "" {
				shell(t, s.target(), c.then)
			}
		})
	}
}

// TestHostileRights: what a guest sends gets no rights on the host that the user did not ask for.
func TestHostileRights(t *testing.T) {
	send := tree(
		&Entry{Kind: Directory, Mode: 0o7777, UID: 12, GID: 34, Name: top},
		&Entry{Kind: Regular, Mode: 0o6755, UID: 0, GID: 0, Name: "setuid", Xattrs: []Xattr{
			{"security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
			{"trusted.x", "1"}, {"user.x", "2"},
		}},
		&Entry{Kind: BlockDevice, Mode: 0o666, Major: 8, Minor: 0, Name: "disk"},
		&Entry{Kind: CharDevice, Mode: 0o666, Major: 1, Minor: 1, Name: "mem"},
		hardEntry("mem2", "mem"),
		&Entry{Kind: FIFO, Mode: 0o644, Name: "pipe"},
	)
	s := newScene(t)
	result, err := CopyOut(deadline(t), dialTo(t, hostileGuest(true, send)), "/src", s.target(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.check()
	uid, gid := os.Getuid(), os.Getgid()
	got := shell(t, s.target(), `find src -printf '%p %y %m %U:%G\n' | sort; getfattr -h -d -m - --absolute-names src/setuid`)
	want := fmt.Sprintf("src d 1777 %[1]d:%[2]d\nsrc/pipe p 644 %[1]d:%[2]d\nsrc/setuid f 755 %[1]d:%[2]d\n# file: src/setuid\nuser.x=\"2\"\n\n", uid, gid)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(strings.Join(result.Notes, "\n"), "devices are left out") {
		t.Errorf("no note says that devices were left out: %q", result.Notes)
	}
}

// TestLargeAttributes: what the host keeps of the directories that it is in is bounded, however large the guest makes them.
func TestLargeAttributes(t *testing.T) {
	send := func(attribute string) script {
		value := strings.Repeat("v", 1<<20)
		return func(w *frame.Writer) {
			_ = w.Write(kindEntry, appendEntry(nil, dirEntry(top)))
			for i := range 100 {
				e := dirEntry(strings.Repeat("d/", i) + "d")
				e.Xattrs = []Xattr{{attribute, value}}
				_ = w.Write(kindEntry, appendEntry(nil, e))
			}
			_ = w.Write(kindDone, []byte("{}"))
		}
	}
	_, err := CopyOut(deadline(t), dialTo(t, hostileGuest(true, send("user.x"))), "/src", t.TempDir(), Options{})
	if err == nil || !strings.Contains(err.Error(), "bytes of extended attributes") {
		t.Errorf("got the error %v, want one of too many attributes", err)
	}
	_, err = CopyOut(deadline(t), dialTo(t, hostileGuest(true, send("trusted.x"))), "/src", t.TempDir(), Options{})
	if err != nil {
		t.Errorf("attributes that nobody keeps: %v", err)
	}
}

// TestEndlessGuest: a guest that never stops sending, or never begins, is ended by the user.
func TestEndlessGuest(t *testing.T) {
	for name, send := range map[string]script{
		"silence": func(w *frame.Writer) { time.Sleep(time.Second) },
		"noise": func(w *frame.Writer) {
			for w.Write(99, make([]byte, 1000)) == nil {
			}
		},
		"content": func(w *frame.Writer) {
			_ = w.Write(kindEntry, appendEntry(nil, &Entry{Kind: Regular, Name: top, Size: 1 << 60}))
			for off := int64(0); w.Write(kindData, content(off, strings.Repeat("x", 1000))) == nil; off += 1000 {
			}
		},
		"one directory": func(w *frame.Writer) {
			for w.Write(kindEntry, appendEntry(nil, dirEntry(top))) == nil {
			}
		},
		"deeper": func(w *frame.Writer) {
			_ = w.Write(kindEntry, appendEntry(nil, dirEntry(top)))
			for name := "d"; w.Write(kindEntry, appendEntry(nil, dirEntry(name))) == nil; name += "/d" {
			}
		},
		"one file": func(w *frame.Writer) {
			_ = w.Write(kindEntry, appendEntry(nil, dirEntry(top)))
			for w.Write(kindEntry, appendEntry(nil, fileEntry("f"))) == nil {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			why := errors.New("the user has had enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			timer := time.AfterFunc(300*time.Millisecond, func() { cancel(why) })
			defer timer.Stop()
			began := time.Now()
			_, err := CopyOut(ctx, dialTo(t, hostileGuest(true, send)), "/src", s.target(), Options{})
			if !errors.Is(err, why) {
				t.Errorf("got the error %v, want %v", err, why)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %v to end", took)
			}
			s.check()
		})
	}
}
