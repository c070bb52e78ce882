package exec

import "sync"

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

// queue holds the input that a command has not taken yet, a window at most.
type queue struct {
	mu     sync.Mutex
	change *sync.Cond
	bytes  []byte
	taken  []byte // what take returned last, for its memory
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
	if len(q.bytes)+len(b) > stdinWindow {
		return false
	}
	q.bytes = append(q.bytes, b...)
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

// take waits for input and returns what there is, until the next call; nothing is the end. Its two buffers take turns: a
// guest of which much is asked has no time for the garbage collector.
func (q *queue) take() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.bytes) == 0 && !q.eof {
		q.change.Wait()
	}
	q.bytes, q.taken = q.taken[:0], q.bytes
	return q.taken
}
