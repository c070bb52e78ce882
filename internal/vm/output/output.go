// Package output keeps what the command of a VM printed: a file of JSON lines, one for each piece that came, with its
// time and its stream. The file is bounded: when it is full it becomes the older half of what is kept.
package output

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// Stream is one of a command's outputs. The zero Stream is invalid.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout" // or its terminal
	Stderr Stream = "stderr"
)

// Limit is how large the file becomes, in bytes, before it gives way to a new one. Twice as much is kept.
const Limit = 16 << 20

// olderSuffix is that of the file which gave way.
const olderSuffix = ".1"

// Record is a piece of the output.
type Record struct {
	Time   time.Time `json:"time"`
	Stream Stream    `json:"stream"`
	Text   string    `json:"text,omitempty"`  // the piece, where it is valid UTF-8
	Bytes  []byte    `json:"bytes,omitempty"` // the piece otherwise
}

// Data returns the piece.
func (r Record) Data() []byte {
	if r.Bytes != nil {
		return r.Bytes
	}
	return []byte(r.Text)
}

// Writer writes the file. It is safe for concurrent use.
type Writer struct {
	path  string
	limit int64
	now   func() time.Time

	mu   sync.Mutex
	file *os.File
	size int64
}

// NewWriter continues the file at path, or begins it.
func NewWriter(path string, limit int64, now func() time.Time) (*Writer, error) {
	w := &Writer{path: path, limit: limit, now: now}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Writer) open() error {
	file, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the output's file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("opening the output's file: %w", err)
	}
	w.file, w.size = file, info.Size()
	return w.endLine()
}

// endLine ends a line that was cut off, so that only that one is lost.
func (w *Writer) endLine() error {
	last := make([]byte, 1)
	if w.size == 0 {
		return nil
	}
	if file, err := os.Open(w.path); err == nil {
		_, _ = file.ReadAt(last, w.size-1)
		_ = file.Close()
	}
	if last[0] == '\n' {
		return nil
	}
	n, err := w.file.Write([]byte{'\n'})
	w.size += int64(n)
	return err
}

// Write adds a piece.
func (w *Writer) Write(stream Stream, piece []byte) error {
	record := Record{Time: w.now().UTC(), Stream: stream}
	if utf8.Valid(piece) {
		record.Text = string(piece)
	} else {
		record.Bytes = piece
	}
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.makeRoom(); err != nil {
		return err
	}
	n, err := w.file.Write(append(line, '\n'))
	if err != nil {
		_ = w.file.Truncate(w.size) // a part of a line would spoil the next one
		return err
	}
	w.size += int64(n)
	return nil
}

// makeRoom begins a new file when this one is full. While that fails, pieces are refused: the bound holds.
func (w *Writer) makeRoom() error {
	if w.size < w.limit {
		return nil
	}
	// It has its new name already if the last attempt failed.
	if err := os.Rename(w.path, w.path+olderSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	full := w.file
	if err := w.open(); err != nil {
		return err
	}
	return full.Close()
}

// Close closes the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}

// Selection says which records are wanted.
type Selection struct {
	Since time.Time // the zero Time is everything that is kept
	Tail  int       // so many lines before the end of what there is; negative is all
	// Ended, if it is not nil, is asked whether more can come: Read then follows the file.
	Ended func() bool
}

// pollInterval is how often a file that is followed is looked at.
const pollInterval = 50 * time.Millisecond

// Read calls emit for each record that is selected. A file that is not there has none.
func Read(ctx context.Context, path string, want Selection, emit func(Record) error) error {
	r := &reader{path: path, want: want}
	defer r.close()
	records, err := r.existing()
	if err != nil {
		return err
	}
	for _, record := range lastLines(records, want.Tail) {
		if err := emit(record); err != nil {
			return err
		}
	}
	if want.Ended == nil {
		return nil
	}
	return r.follow(ctx, emit)
}

// reader reads a file that grows and may give way to a new one.
type reader struct {
	path string
	want Selection
	file *os.File
	in   *bufio.Reader
	part []byte // of a line that is not complete
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// existing returns what there is in both files.
func (r *reader) existing() ([]Record, error) {
	var records []Record
	keep := func(record Record) error {
		records = append(records, record)
		return nil
	}
	// The newer one first: it may become the older one at any time.
	if err := r.reopen(); err != nil {
		return nil, err
	}
	current := r.file
	err := r.drainOlder(keep)
	r.begin(current)
	if err != nil {
		return nil, err
	}
	if err := r.drain(keep); err != nil || !r.replaced() {
		return records, err
	}
	return records, errors.Join(r.moveOn(keep), r.drain(keep))
}

// drainOlder drains the older file, unless it is the one that was opened as the newer.
func (r *reader) drainOlder(emit func(Record) error) error {
	older, err := os.Open(r.path + olderSuffix)
	if err != nil {
		return nil
	}
	defer func() { _ = older.Close() }()
	if sameFile(older, r.file) {
		return nil
	}
	r.begin(older)
	return r.drain(emit)
}

func sameFile(a, b *os.File) bool {
	if a == nil || b == nil {
		return false
	}
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func (r *reader) begin(file *os.File) {
	r.file, r.in, r.part = file, bufio.NewReaderSize(file, 64<<10), nil
}

// reopen opens the file if it is there.
func (r *reader) reopen() error {
	file, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the output: %w", err)
	}
	r.begin(file)
	return nil
}

// drain emits what can be read and is selected.
func (r *reader) drain(emit func(Record) error) error {
	for r.file != nil {
		line, err := r.in.ReadBytes('\n')
		r.part = append(r.part, line...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the output: %w", err)
		}
		var record Record
		damaged := json.Unmarshal(r.part, &record) != nil // the end of a file that was cut off
		r.part = nil
		if damaged || record.Time.Before(r.want.Since) {
			continue
		}
		if err := emit(record); err != nil {
			return err
		}
	}
	return nil
}

// follow emits what comes until nothing more can.
func (r *reader) follow(ctx context.Context, emit func(Record) error) error {
	for {
		last := r.want.Ended()
		if err := r.drain(emit); err != nil {
			return err
		}
		if r.replaced() {
			if err := r.moveOn(emit); err != nil {
				return err
			}
			continue
		}
		if last {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// moveOn goes from a file that was replaced to the one that replaced it, with what had come before that.
func (r *reader) moveOn(emit func(Record) error) error {
	err := r.drain(emit)
	r.close()
	return errors.Join(err, r.reopen())
}

// replaced reports whether there is another file at the path.
func (r *reader) replaced() bool {
	current, err := os.Stat(r.path)
	if err != nil {
		return false
	}
	if r.file == nil {
		return true
	}
	mine, err := r.file.Stat()
	return err == nil && !os.SameFile(mine, current)
}

// lastLines cuts records so that n lines are left, of all streams together; a negative n cuts nothing.
func lastLines(records []Record, n int) []Record {
	if n < 0 {
		return records
	}
	lines, atEnd := 0, true
	for i := len(records) - 1; i >= 0; i-- {
		data := records[i].Data()
		for at := len(data) - 1; at >= 0; at-- {
			endsLast := atEnd // the last line, and begins no other
			atEnd = false
			if data[at] != '\n' || endsLast {
				continue
			}
			if lines++; lines == n {
				return cut(records[i:], at+1)
			}
		}
	}
	if n == 0 {
		return nil
	}
	return records
}

// cut drops the first bytes of the first record.
func cut(records []Record, bytes int) []Record {
	first := records[0]
	data := first.Data()[bytes:]
	if len(data) == 0 {
		return records[1:]
	}
	if first.Bytes != nil {
		first.Bytes = data
	} else {
		first.Text = string(data)
	}
	return append([]Record{first}, records[1:]...)
}
