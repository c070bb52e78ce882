package exec

import (
	"sync"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// window counts how many bytes a sender may still send.
type window struct {
	mu     sync.Mutex
	change *sync.Cond
	room   int
	closed bool
}

func newWindow(room int) *window {
	w := &window{room: room}
	w.change = sync.NewCond(&w.mu)
	return w
}

// add gives n bytes of room, or takes them when n is negative.
func (w *window) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room += n
	w.change.Broadcast()
}

// wait waits for n bytes of room. It is false when the window was closed.
func (w *window) wait(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.room < n && !w.closed {
		w.change.Wait()
	}
	return !w.closed
}

// close ends every wait.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.change.Broadcast()
}

// queue holds the input that a command has not taken yet, a window at most. It is a ring: a guest of which much is asked
// has neither memory nor time to spare.
type queue struct {
	mu     sync.Mutex
	change *sync.Cond
	ring   []byte // of the window's size; nil before the first input
	first  int    // where the input begins
	length int
	eof    bool
}

func newQueue() *queue {
	q := &queue{}
	q.change = sync.NewCond(&q.mu)
	return q
}

// push appends b. It is false when the sender does not keep to its window.
func (q *queue) push(b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.length+len(b) > stdinWindow {
		return false
	}
	if q.ring == nil {
		q.ring = make([]byte, stdinWindow)
	}
	end := (q.first + q.length) % stdinWindow
	n := copy(q.ring[end:], b)
	copy(q.ring, b[n:])
	q.length += len(b)
	q.change.Broadcast()
	return true
}

// end says that nothing more comes.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.eof = true
	q.change.Broadcast()
}

// take waits for input and returns a chunk of it at most, which stays where it is until drop; nothing is the end.
func (q *queue) take() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.length == 0 && !q.eof {
		q.change.Wait()
	}
	return q.ring[q.first:min(q.first+q.length, q.first+frame.ChunkSize, len(q.ring))]
}

// drop gives the room of n bytes free, which take has returned.
func (q *queue) drop(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.first = (q.first + n) % stdinWindow
	q.length -= n
}
