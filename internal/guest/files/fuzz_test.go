package files

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// FuzzCopyOut: whatever a guest sends, a copy ends, nothing is written outside of the target, and no half of a file stays.
func FuzzCopyOut(f *testing.F) {
	for _, entries := range [][]*Entry{
		{dirEntry(top), fileEntry("f"), linkEntry("s", ".."), hardEntry("h", "f"), dirEntry("d"), fileEntry("d/f")},
		{fileEntry(top)},
		{dirEntry(top), linkEntry("s", "../../secret"), fileEntry("s/file"), dirEntry("s")},
	} {
		var b bytes.Buffer
		tree(entries...)(frame.NewWriter(&b))
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, stream []byte) { fuzzDisk(t, stream, policy{}) })
}

// FuzzTree is FuzzCopyOut for trees: each three bytes are a valid entry, whose names meet.
func FuzzTree(f *testing.F) {
	f.Add([]byte{1, 0, 0, 3, 1, 7, 2, 2, 0, 3, 5, 8, 2, 6, 0})
	f.Add([]byte{1, 0, 0, 3, 4, 9, 4, 1, 5, 2, 5, 0, 1, 4, 0})
	names := []string{top, "a", "b", "a/b", "s", "s/a", "d/l/x", "d", "d/s", "a/s/b", "s/file", "d/s/file", "own", "own/x", "l", "l/file"}
	targets := []string{"a", "b", "..", "../..", "/", ".", "../secret", "../../secret", "s", "d/l", "nothing", "a/b", "l", "own", "d", "../target"}
	f.Fuzz(func(t *testing.T, program []byte) {
		var b bytes.Buffer
		frames := frame.NewWriter(&b)
		for ; len(program) >= 3; program = program[3:] {
			e := &Entry{Kind: Directory + Kind(program[0]%5), Mode: 0o700 | uint16(program[0])&0o7077, Name: names[program[1]%16]}
			switch e.Kind {
			case Symlink, HardLink:
				e.Target = targets[program[2]%16]
			case Regular:
				e.Size = int64(program[2])
			}
			if e.check() != nil {
				continue
			}
			_ = frames.Write(kindEntry, appendEntry(nil, e))
			if e.Size > 3 {
				_ = frames.Write(kindData, content(e.Size-2, "xx"))
			}
		}
		_ = frames.Write(kindDone, []byte("{}"))
		fuzzDisk(t, b.Bytes(), policy{exact: true})
	})
}

// fuzzDisk receives a stream into a directory that has a symlink out of it, and looks for damage.
func fuzzDisk(t *testing.T, stream []byte, grant policy) {
	dir := t.TempDir()
	target, secret := dir+"/target", dir+"/secret"
	for _, name := range []string{target, secret, target + "/own"} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", target+"/l"); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(secret)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDisk(place{dir: target}, grant, onHost)
	if err != nil {
		t.Fatal(err)
	}
	_ = newInbox(bytes.NewReader(stream)).pump(d)
	d.close()
	for name, want := range map[string]int{dir: 2, secret: 0} {
		if entries, _ := os.ReadDir(name); len(entries) != want {
			t.Errorf("%s has %v", name, entries)
		}
	}
	if after, err := os.Stat(secret); err != nil || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the directory outside was %v and is %v (%v)", before, after, err)
	}
	_ = filepath.WalkDir(target, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), ".banger-") {
			t.Errorf("left behind: %s", path)
		}
		return nil
	})
}

// FuzzEntry: any bytes give an entry or an error, and an entry is encoded as it was.
func FuzzEntry(f *testing.F) {
	f.Add(appendEntry(nil, dirEntry(top)))
	f.Add(appendEntry(nil, &Entry{Kind: Regular, Name: "a/\xff", Size: 5, Mode: 0o7777, UID: 1<<32 - 1, MTime: time.Unix(-5, 7),
		Xattrs: []Xattr{{"user.x", "\x00"}, {"user.y", ""}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		again, err := decodeEntry(appendEntry(nil, e))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(e) {
			t.Errorf("%v became %v, %v", e, again, err)
		}
	})
}

// nowhere is a sink that checks the order of what it gets.
type nowhere struct {
	t    *testing.T
	last Entry
	at   int64
}

func (n *nowhere) entry(e *Entry) error {
	n.last, n.at = *e, 0
	return nil
}

func (n *nowhere) data(off int64, p []byte) error {
	if n.last.Kind != Regular || off < n.at || off+int64(len(p)) > n.last.Size {
		n.t.Errorf("%d bytes at %d of %+v", len(p), off, n.last)
	}
	n.at = off + int64(len(p))
	return nil
}

func (n *nowhere) end([]string) error { return nil }

// FuzzTar: any bytes are a tar or an error, and what comes of them is in order.
func FuzzTar(f *testing.F) {
	var b bytes.Buffer
	w := newTarWriter(context.Background(), &b, "x")
	for _, e := range []*Entry{dirEntry(top), fileEntry("f"), linkEntry("s", "t"), hardEntry("h", "f")} {
		_ = w.entry(e)
	}
	_ = w.end(nil)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = newTarReader(&nowhere{t: t}).read(io.LimitReader(bytes.NewReader(text), 1<<20))
	})
}
