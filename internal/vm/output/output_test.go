package output

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a time that goes on by a second with each look at it.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(1_700_000_000+c.seconds.Add(1), 0) }

// piece is what a test writes.
type piece struct {
	stream Stream
	data   string
}

func newFile(t *testing.T, limit int64, pieces ...piece) (path string, w *Writer) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "output.log")
	w, err := NewWriter(path, limit, new(clock).now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	write(t, w, pieces...)
	return path, w
}

func write(t *testing.T, w *Writer, pieces ...piece) {
	t.Helper()
	for _, p := range pieces {
		if err := w.Write(p.stream, []byte(p.data)); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns what is selected, as "out:" and "err:" before each piece.
func read(t *testing.T, path string, want Selection) string {
	t.Helper()
	var text strings.Builder
	err := Read(t.Context(), path, want, func(r Record) error {
		fmt.Fprintf(&text, "%s:%s|", strings.TrimPrefix(string(r.Stream), "std"), r.Data())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

func TestRead(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(1_700_000_000+seconds, 0) }
	lines := []piece{{Stdout, "one\n"}, {Stderr, "two\n"}, {Stdout, "three\nfour\n"}, {Stdout, "part"}}
	const everything = "out:one\n|err:two\n|out:three\nfour\n|out:part|"
	for _, c := range []struct {
		name   string
		pieces []piece
		want   Selection
		text   string
	}{
		{"nothing", nil, Selection{Tail: All}, ""},
		{"all", lines, Selection{Tail: All}, everything},
		{"no lines", lines, Selection{Tail: 0}, ""},
		{"a line that is not finished", lines, Selection{Tail: 1}, "out:part|"},
		{"within a piece", lines, Selection{Tail: 2}, "out:four\n|out:part|"},
		{"of both streams", lines, Selection{Tail: 4}, "err:two\n|out:three\nfour\n|out:part|"},
		{"just as many", lines, Selection{Tail: 5}, everything},
		{"more than there are", lines, Selection{Tail: 50}, everything},
		{"the last line is finished", lines[:3], Selection{Tail: 1}, "out:four\n|"},
		{"empty lines", []piece{{Stdout, "\n\n\n"}}, Selection{Tail: 2}, "out:\n\n|"},
		{"since", lines, Selection{Tail: All, Since: at(3)}, "out:three\nfour\n|out:part|"},
		{"since a time between", lines, Selection{Tail: All, Since: at(3).Add(-time.Millisecond)}, "out:three\nfour\n|out:part|"},
		{"since later", lines, Selection{Tail: All, Since: at(5)}, ""},
		{"the tail of what is since", lines, Selection{Tail: 2, Since: at(3)}, "out:four\n|out:part|"},
		{"not UTF-8", []piece{{Stdout, "\xff\x00\n\xfe"}}, Selection{Tail: All}, "out:\xff\x00\n\xfe|"},
		{"the tail of what is not UTF-8", []piece{{Stdout, "\xff\x00\n\xfe"}}, Selection{Tail: 1}, "out:\xfe|"},
		{"all that JSON escapes", []piece{{Stdout, "<&>\"\\\u2028\ufffd\x00\x1b[K\r\n"}}, Selection{Tail: All}, "out:<&>\"\\\u2028\ufffd\x00\x1b[K\r\n|"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, _ := newFile(t, Limit, c.pieces...)
			if got := read(t, path, c.want); got != c.text {
				t.Errorf("got  %q\nwant %q", got, c.text)
			}
		})
	}
	if got := read(t, filepath.Join(t.TempDir(), "none"), Selection{Tail: All}); got != "" {
		t.Errorf("a file that is not there has %q", got)
	}
}

// TestCutOff: a file whose last record was cut off loses that record and no other, whoever writes on.
func TestCutOff(t *testing.T) {
	path, w := newFile(t, Limit, piece{Stdout, "kept\n"}, piece{Stdout, "lost\n"})
	_ = w.Close()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-9); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, Selection{Tail: All}); got != "out:kept\n|" {
		t.Errorf("before anybody writes on: got %q", got)
	}
	w, err = NewWriter(path, Limit, new(clock).now)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	write(t, w, piece{Stdout, "next\n"})
	if got := read(t, path, Selection{Tail: All}); got != "out:kept\n|out:next\n|" {
		t.Errorf("after the next record: got %q", got)
	}
}

// TestRotation: two files of the limit are kept, and what is in them is whole.
func TestRotation(t *testing.T) {
	const limit = 4 << 10
	path, w := newFile(t, limit)
	for i := range 1000 {
		write(t, w, piece{Stdout, fmt.Sprintf("line %03d\n", i)})
	}
	var kept []string
	for line := range strings.SplitSeq(strings.TrimSuffix(read(t, path, Selection{Tail: All}), "|"), "|") {
		kept = append(kept, strings.TrimSuffix(strings.TrimPrefix(line, "out:"), "\n"))
	}
	for i, line := range kept {
		if want := fmt.Sprintf("line %03d", 1000-len(kept)+i); line != want {
			t.Fatalf("line %d of %d is %q, want %q", i, len(kept), line, want)
		}
	}
	if len(kept) < 50 { // a record has less than 80 bytes
		t.Errorf("%d lines are left of 1000, want what fits into %d bytes at least", len(kept), limit)
	}
	for _, file := range []string{path, path + olderSuffix} {
		if info, err := os.Stat(file); err != nil || info.Size() > limit+100 {
			t.Errorf("%s: %v (%v), want at most the limit and a record", file, info.Size(), err)
		}
	}
}

// TestFollow: who follows gets every record once, in order, over any number of rotations, and then the end.
// TestRotationBetween: a file that became the older one after it was opened as the newer is read once, and closed.
func TestRotationBetween(t *testing.T) {
	path, _ := newFile(t, Limit, piece{Stdout, "once\n"})
	if err := os.Link(path, path+olderSuffix); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t, path+olderSuffix)
	if got := read(t, path, Selection{Tail: -1}); got != "out:once\n|" {
		t.Errorf("read %q", got)
	}
	if after := openFiles(t, path+olderSuffix); after != before {
		t.Errorf("%d descriptors of the file are open, want %d as before", after, before)
	}
}

// openFiles counts this process's descriptors of the file at path.
func openFiles(t *testing.T, path string) (open int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(links) == 0 {
		t.Fatalf("this process has no descriptors (%v)", err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to == path {
			open++
		}
	}
	return open
}

func TestFollow(t *testing.T) {
	path, w := newFile(t, 2<<10)
	const total = 600
	var ended atomic.Bool
	var seen atomic.Int64
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		defer ended.Store(true)
		for i := range int64(total) {
			_ = w.Write(Stdout, []byte(fmt.Sprintf("%d\n", i)))
			// A file is full after 30 records: after 25, the reader catches up, so that none is replaced twice between two looks.
			for i%25 == 24 && seen.Load() <= i {
				time.Sleep(time.Millisecond)
			}
		}
	})
	next := 0
	err := Read(t.Context(), path, Selection{Tail: All, Ended: ended.Load}, func(r Record) error {
		if want := fmt.Sprintf("%d\n", next); r.Text != want {
			return fmt.Errorf("got record %q, want %q", r.Text, want)
		}
		next++
		seen.Store(int64(next))
		return nil
	})
	seen.Store(total) // nobody is waited for any more
	if err != nil || next != total {
		t.Errorf("%d records of %d came: %v", next, total, err)
	}
}

// TestNothingIsLostBetween: what is written to a file between its last reading and its replacement is read too.
func TestNothingIsLostBetween(t *testing.T) {
	path, w := newFile(t, 150, piece{Stdout, "one\n"})
	r := &reader{path: path, want: Selection{Tail: All}}
	defer r.close()
	var got []string
	emit := func(record Record) error {
		got = append(got, record.Text)
		return nil
	}
	if err := errors.Join(r.reopen(), r.drain(emit)); err != nil {
		t.Fatal(err)
	}
	write(t, w, piece{Stdout, "two\n"}, piece{Stdout, "three\n"}, piece{Stdout, "four\n"})
	if !r.replaced() {
		t.Fatal("the file was not replaced")
	}
	if err := errors.Join(r.moveOn(emit), r.drain(emit)); err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(got, ""); text != "one\ntwo\nthree\nfour\n" {
		t.Errorf("got %q", text)
	}
}

// TestFullDisk: a record that did not fit leaves nothing behind, and the file goes on when there is room again.
func TestFullDisk(t *testing.T) {
	path, w := newFile(t, 150, piece{Stdout, "one\n"}, piece{Stdout, "two\n"}, piece{Stdout, "three\n"})
	dir := filepath.Dir(path)
	// A directory in the way of the new file stands for a disk on which none can be made.
	if err := errors.Join(os.Rename(path, path+olderSuffix), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(Stdout, []byte("lost\n")); err == nil {
		t.Error("a record that cannot be written gives no error")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, w, piece{Stdout, "four\n"})
	if got := read(t, path, Selection{Tail: All}); got != "out:one\n|out:two\n|out:three\n|out:four\n|" {
		entries, _ := os.ReadDir(dir)
		t.Errorf("got %q from %v", got, entries)
	}
}

// TestFollowEnds: following stops with its context, and with what takes the output.
func TestFollowEnds(t *testing.T) {
	path, _ := newFile(t, Limit, piece{Stdout, "one\n"})
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	running := func() bool { return false }
	err := Read(ctx, path, Selection{Tail: All, Ended: running}, func(Record) error {
		cancel(why)
		return nil
	})
	if !errors.Is(err, why) {
		t.Errorf("a context that ended gives %v, want its cause", err)
	}
	broken := errors.New("broken pipe")
	err = Read(t.Context(), path, Selection{Tail: All, Ended: running}, func(Record) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("a reader that is gone gives %v, want its error", err)
	}
}

// TestConcurrentWriters: records of concurrent writers are whole.
func TestConcurrentWriters(t *testing.T) {
	path, w := newFile(t, 8<<10)
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() {
			for range 200 {
				_ = w.Write(Stderr, bytes.Repeat([]byte{byte('a' + i)}, 40))
			}
		})
	}
	writing.Wait()
	err := Read(t.Context(), path, Selection{Tail: All}, func(r Record) error {
		if len(r.Text) != 40 || strings.Trim(r.Text, r.Text[:1]) != "" {
			return fmt.Errorf("a record is torn: %q", r.Text)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestPlainFile: the console's log, which is no file of records.
func TestPlainFile(t *testing.T) {
	for _, c := range []struct {
		text string
		tail int
		want string
	}{
		{"", All, ""}, {"", 3, ""},
		{"a\nb\nc\n", All, "a\nb\nc\n"}, {"a\nb\nc\n", 0, ""},
		{"a\nb\nc\n", 1, "c\n"}, {"a\nb\nc", 1, "c"}, {"a\nb\nc\n", 3, "a\nb\nc\n"}, {"a\nb\nc\n", 4, "a\nb\nc\n"},
		{"\n\n\n", 2, "\n\n"},
		{strings.Repeat("x", 200_000) + "\nlast\n", 1, "last\n"},
		{"first\n" + strings.Repeat("x", 200_000) + "\n", 1, strings.Repeat("x", 200_000) + "\n"},
	} {
		path := filepath.Join(t.TempDir(), "console.log")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := Follow(t.Context(), path, c.tail, nil, &got); err != nil || got.String() != c.want {
			t.Errorf("the last %d lines of %.20q: got %.40q (%v), want %.40q", c.tail, c.text, got.String(), err, c.want)
		}
	}
	var got bytes.Buffer
	if err := Follow(t.Context(), filepath.Join(t.TempDir(), "none"), All, nil, &got); err != nil || got.Len() > 0 {
		t.Errorf("a file that is not there: got %q (%v), want nothing", got.String(), err)
	}
}

// waitingBuffer is a buffer that a test can wait for.
type waitingBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *waitingBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *waitingBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

func (b *waitingBuffer) await(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); b.String() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q", b.String(), want)
		}
	}
}

// TestFollowPlainFile: a file that appears, grows and is cut is followed to the end.
func TestFollowPlainFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	var ended atomic.Bool
	var got waitingBuffer
	result := make(chan error, 1)
	go func() { result <- Follow(t.Context(), path, 1, ended.Load, &got) }()
	time.Sleep(pollInterval) // it is not there yet
	put := func(text string, flag int) {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.WriteString(text)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	put("one\n", os.O_APPEND)
	got.await(t, "one\n")
	put("two, which is longer\n", os.O_APPEND)
	got.await(t, "one\ntwo, which is longer\n")
	put("new\n", os.O_TRUNC)
	got.await(t, "one\ntwo, which is longer\nnew\n")
	put("end", os.O_APPEND)
	ended.Store(true)
	if err := <-result; err != nil || got.String() != "one\ntwo, which is longer\nnew\nend" {
		t.Errorf("at the end: got %q (%v)", got.String(), err)
	}
}

// FuzzReader: whatever is in the files, reading neither fails nor gives more than is there, and records that were written
// behind it come back.
func FuzzReader(f *testing.F) {
	good, err := json.Marshal(Record{Time: time.Unix(1, 0), Stream: Stdout, Text: "text\n"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, append(good, '\n'), 3, []byte("piece"))
	f.Add(append(good, '\n'), good[:10], -1, []byte{0xff, '\n'})
	f.Add([]byte("{}\n[]\nnull\n"), []byte("\x00\n\n"), 0, []byte{})
	f.Add([]byte(`{"time":"1970-01-01T00:00:00Z","bytes":""}`+"\n"), []byte(`{"text":"\n\n","bytes":"Cg=="}`+"\n"), 1, []byte("x\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, older, current []byte, tail int, last []byte) {
		path := filepath.Join(dir, "output.log")
		if err := errors.Join(os.WriteFile(path+olderSuffix, older, 0o600), os.WriteFile(path, current, 0o600)); err != nil {
			t.Fatal(err)
		}
		w, err := NewWriter(path, Limit, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Write(Stderr, last), w.Close()); err != nil {
			t.Fatal(err)
		}
		var all []byte
		if err := Read(t.Context(), path, Selection{Tail: All}, func(r Record) error {
			all = append(all, r.Data()...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(all, last) {
			t.Errorf("what was written last, %q, is not the end of %q", last, all)
		}
		var some []byte
		if err := Read(t.Context(), path, Selection{Tail: tail}, func(r Record) error {
			some = append(some, r.Data()...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want := lastLinesOf(all, tail); !bytes.Equal(some, want) {
			t.Errorf("the last %d lines of %q are %q, want %q", tail, all, some, want)
		}
	})
}

// lastLinesOf is what tail(1) does.
func lastLinesOf(text []byte, n int) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	if n < 0 || n > len(lines) {
		return text
	}
	return bytes.Join(lines[len(lines)-n:], nil)
}
