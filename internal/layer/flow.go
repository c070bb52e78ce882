package layer

import (
	"errors"
	"io"
	"sync"
)

const (
	// pieceSize is what the stages of a flow hand to one another, in bytes: large, so that handing over costs nothing.
	pieceSize = 1 << 20
	// pieces is how many pieces a flow has, which bounds its memory and how far its stages run apart.
	pieces = 4
)

// flow reads from a source ahead of its reader. Every byte passes through the writers on the way, in their order. The
// source and each writer have a goroutine of their own.
type flow struct {
	out  <-chan piece
	free chan []byte
	stop chan struct{}
	once sync.Once
	work sync.WaitGroup

	current piece
	rest    []byte // what of current has not been read
	err     error  // sticky
}

// piece is a part of the stream; err (io.EOF, too) comes after its data and is the last of the flow.
type piece struct {
	buffer []byte
	data   []byte // a prefix of buffer
	err    error
}

// writeError is an error of one of the writers, as opposed to one of the source.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// newFlow starts to read from source. The caller closes the flow; before that, it must see to it that a source that
// may block does not.
func newFlow(source io.Reader, through ...io.Writer) *flow {
	f := &flow{free: make(chan []byte, pieces), stop: make(chan struct{})}
	for range pieces {
		f.free <- nil // made when first needed: a small layer needs one
	}
	f.out = f.stage(func(out chan<- piece) { f.produce(source, out) })
	for _, w := range through {
		in := f.out
		f.out = f.stage(func(out chan<- piece) { f.pass(in, w, out) })
	}
	return f
}

func (f *flow) stage(run func(out chan<- piece)) <-chan piece {
	out := make(chan piece, 1)
	f.work.Go(func() {
		defer close(out)
		run(out)
	})
	return out
}

// produce reads the source to its end.
func (f *flow) produce(source io.Reader, out chan<- piece) {
	for {
		var buffer []byte
		select {
		case buffer = <-f.free:
		case <-f.stop:
			return
		}
		if buffer == nil {
			buffer = make([]byte, pieceSize)
		}
		n, err := fill(source, buffer)
		if !f.send(out, piece{buffer, buffer[:n], err}) || err != nil {
			return
		}
	}
}

// pass writes every piece to w. After an error of w nothing more is written.
func (f *flow) pass(in <-chan piece, w io.Writer, out chan<- piece) {
	for p := range in {
		if _, err := w.Write(p.data); err != nil {
			p = piece{buffer: p.buffer, err: writeError{err}}
		}
		if !f.send(out, p) || p.err != nil {
			return
		}
	}
}

func (f *flow) send(out chan<- piece, p piece) bool {
	select {
	case out <- p:
		return true
	case <-f.stop:
		return false
	}
}

// fill reads until the buffer is full or the source ends. Unlike io.ReadFull it returns the source's own error.
func fill(source io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var m int
		m, err = source.Read(buffer[n:])
		n += m
	}
	return n, err
}

// next makes the next piece the current one.
func (f *flow) next() {
	if f.current.buffer != nil {
		f.free <- f.current.buffer // never blocks: there is room for all the pieces
	}
	p, ok := <-f.out
	if !ok {
		p.err = io.ErrClosedPipe
	}
	f.current, f.rest, f.err = p, p.data, p.err
}

// Read returns what has passed through all the writers.
func (f *flow) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		f.next()
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// WriteTo writes whole pieces: io.Copy needs no memory of its own, nor does it copy.
func (f *flow) WriteTo(w io.Writer) (written int64, err error) {
	for {
		n, err := w.Write(f.rest)
		written += int64(n)
		f.rest = f.rest[n:]
		switch {
		case err != nil:
			return written, err
		case f.err != nil:
			return written, notEnd(f.err)
		}
		f.next()
	}
}

func (f *flow) failure() error { return notEnd(f.err) }

// skip drops n bytes, without copying them.
func (f *flow) skip(n int64, see func([]byte)) (skipped int64, err error) {
	for skipped < n {
		if len(f.rest) == 0 {
			if f.err != nil {
				return skipped, f.err
			}
			f.next()
			continue
		}
		step := min(n-skipped, int64(len(f.rest)))
		see(f.rest[:step])
		f.rest = f.rest[step:]
		skipped += step
	}
	return skipped, nil
}

// drain drops what is left. The end of the source is no error.
func (f *flow) drain() error {
	for {
		if _, err := f.skip(pieceSize, func([]byte) {}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Close ends all stages and waits for them.
func (f *flow) Close() {
	f.once.Do(func() { close(f.stop) })
	f.work.Wait()
}
