package ext4

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pieceSize is how many bytes are written at once: enough that the calls cost little.
	pieceSize = 1 << 20
	// pieces bounds how far the writing may be behind.
	pieces = 4
	// ahead is how many bytes get their blocks of the host's file system at once, before they are written. ext4 then needs
	// half the time of a processor for writing: it need not reserve each block when it comes into memory and find a place
	// for it later (fs/ext4/inode.c, ext4_da_get_block_prep).
	ahead = 32 << 20
)

// sink writes blocks to the file. Blocks that follow one another are written together, by a goroutine of the sink's own,
// while the next ones are made.
type sink struct {
	out     *os.File
	free    chan []byte
	full    chan piece
	current piece
	work    sync.WaitGroup
	failed  chan struct{} // closed after err was set
	err     error

	blocks int64 // up to where the file has blocks that were given ahead
	used   int64 // how much of that is used
}

// piece is data for a place in the file, in bytes.
type piece struct {
	at   int64
	data []byte
	room int64 // bytes from at on that are free for what comes next
	// done is called when the data have been written or are not needed any more; nil if they are in the memory of another
	// piece, which comes later.
	done func()
}

func newSink(out *os.File) *sink {
	s := &sink{
		out: out, free: make(chan []byte, pieces), full: make(chan piece, pieces), failed: make(chan struct{}),
	}
	for range pieces {
		s.free <- make([]byte, 0, pieceSize)
	}
	s.next()
	s.work.Go(s.run)
	return s
}

// run writes what is full. After an error it only empties the pieces.
func (s *sink) run() {
	for p := range s.full {
		if s.err == nil {
			s.reach(p)
			if _, err := s.out.WriteAt(p.data, p.at); err != nil {
				s.err = fmt.Errorf("writing the file system: %w", err)
				close(s.failed)
			}
		}
		if p.done != nil {
			p.done()
		}
	}
}

// reach gives the file its blocks ahead of a piece. That it cannot do so means nothing.
func (s *sink) reach(p piece) {
	end := p.at + int64(len(p.data))
	if p.room > 0 && end > s.blocks {
		n := min(p.room, ahead)
		if unix.Fallocate(int(s.out.Fd()), 0, p.at, n) == nil {
			s.blocks = p.at + n
		}
	}
	if p.at < s.blocks {
		s.used = max(s.used, end)
	}
}

// trim makes a hole of the blocks that were given in vain.
func (s *sink) trim() {
	if s.used < s.blocks {
		const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		_ = unix.Fallocate(int(s.out.Fd()), mode, s.used, s.blocks-s.used)
	}
}

// reserve returns memory for blocks from the one with the given number on: at least one, and up to n. It has old data in
// it. commit says how much of it was used; nothing is written before that.
func (s *sink) reserve(block, n uint32) ([]byte, error) {
	select {
	case <-s.failed:
		return nil, s.err
	default:
	}
	at := int64(block) * BlockSize
	used := len(s.current.data)
	if used == pieceSize || used > 0 && s.current.at+int64(used) != at {
		s.flush()
		used = 0
	}
	if used == 0 {
		s.current.at = at
	}
	size := min(pieceSize-used, int(n)*BlockSize)
	return s.current.data[used : used+size], nil
}

// commit takes the first n blocks of what reserve has returned.
func (s *sink) commit(n uint32) {
	s.current.data = s.current.data[:len(s.current.data)+int(n)*BlockSize]
}

// block returns memory for one block, all zeros, that will be written.
func (s *sink) block(number uint32) (record, error) {
	b, err := s.reserve(number, 1)
	if err != nil {
		return nil, err
	}
	clear(b)
	s.commit(1)
	return b, nil
}

func (s *sink) flush() {
	if len(s.current.data) > 0 {
		s.full <- s.current
		s.next()
	}
}

// next begins an empty piece.
func (s *sink) next() {
	memory := <-s.free
	s.current = piece{data: memory, done: func() { s.free <- memory }}
}

// loan is memory of somebody else's whose blocks are written one after the other.
type loan struct {
	sink *sink
	rest []byte // from the beginning of the piece on
	piece
}

// lend has blocks written that are in data, without copying them. done is called when the memory is not needed any more.
func (s *sink) lend(data []byte, done func()) *loan {
	s.flush()
	return &loan{sink: s, rest: data, piece: piece{done: done}}
}

// write gives the next n blocks a place, in a free run of that many blocks.
func (l *loan) write(block, n, free uint32) error {
	select {
	case <-l.sink.failed:
		return l.sink.err
	default:
	}
	at := int64(block) * BlockSize
	if used := len(l.data); used > 0 && l.at+int64(used) != at {
		l.sink.full <- piece{at: l.at, data: l.data, room: l.room}
		l.rest, l.data = l.rest[used:], nil
	}
	if len(l.data) == 0 {
		l.at, l.room = at, int64(free)*BlockSize
	}
	l.data = l.rest[:len(l.data)+int(n)*BlockSize]
	return nil
}

// end has the last of the blocks written.
func (l *loan) end() { l.sink.full <- l.piece }

// close waits until everything is written, unless failed says that it is of no use, and returns failed or the first
// error of writing.
func (s *sink) close(failed error) error {
	if failed == nil {
		s.flush()
	}
	close(s.full)
	s.work.Wait()
	if failed != nil {
		return failed
	}
	s.trim()
	return s.err
}
