package files

import (
	"io"
	"sync"
)

const (
	// batchSize is how many bytes go out in one write: a frame of data, and small frames beside it.
	batchSize = chunkSize + 64<<10
	// batches is how many of them there are: one is filled while another is written.
	batches = 2
)

// writeAhead is a writer that gathers bytes in batches, and writes one while the next is being filled, so that reading
// a file and sending it take their time together. Its methods are for one goroutine.
type writeAhead struct {
	current []byte
	full    chan []byte
	free    chan []byte

	mu  sync.Mutex
	err error // the first of the writer
}

// newWriteAhead starts a writer to w, which the caller closes.
func newWriteAhead(w io.Writer) *writeAhead {
	a := &writeAhead{full: make(chan []byte, batches), free: make(chan []byte, batches)}
	for range batches {
		a.free <- make([]byte, 0, batchSize)
	}
	a.current = <-a.free
	go a.run(w)
	return a
}

// run writes batches until the end. After an error it takes them and writes none.
func (a *writeAhead) run(w io.Writer) {
	for batch := range a.full {
		if a.failure() == nil {
			if _, err := w.Write(batch); err != nil {
				a.mu.Lock()
				a.err = err
				a.mu.Unlock()
			}
		}
		a.free <- batch[:0]
	}
}

func (a *writeAhead) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Write takes p. An error may be that of an earlier write.
func (a *writeAhead) Write(p []byte) (int, error) {
	taken := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(a.current)-len(a.current))
		a.current = append(a.current, p[:n]...)
		p = p[n:]
		if len(a.current) == cap(a.current) {
			a.next()
		}
	}
	return taken, a.failure()
}

// next hands the current batch over and takes an empty one.
func (a *writeAhead) next() {
	a.full <- a.current
	a.current = <-a.free
}

// flush returns when all has been written.
func (a *writeAhead) flush() error {
	if len(a.current) > 0 {
		a.next()
	}
	// The current batch is at hand. Once the others are too, nothing is under way.
	for range batches - 1 {
		defer func(batch []byte) { a.free <- batch }(<-a.free)
	}
	return a.failure()
}

// close ends the writer. What has not been flushed may be lost.
func (a *writeAhead) close() { close(a.full) }
