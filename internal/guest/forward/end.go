package forward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

const (
	headerSize = 5 // type u8, length u32 BE
	bufferSize = headerSize + frame.ChunkSize
)

// closeLimit is how long Close waits for room in the stream to say that no more data comes.
const closeLimit = time.Second

// errReset is a stream that ended without the frame that ends its data.
var errReset = fmt.Errorf("the other end gave the connection up: %w", syscall.ECONNRESET)

// end is what the ends of both sorts of connections have.
type end struct {
	stream        net.Conn
	kinds         kinds
	local, remote net.Addr
	closed        atomic.Bool

	writing sync.Mutex
	unsent  []byte // the rest of a frame that a deadline has cut off
	shut    bool   // the frame that ends our data has been sent
}

// prepare sends the rest of the frame before. The caller holds writing.
func (e *end) prepare() error {
	if e.closed.Load() {
		return net.ErrClosed
	}
	if e.shut {
		return fmt.Errorf("writing after the end: %w", syscall.EPIPE)
	}
	return e.flush()
}

// send sends a frame, for whose header b begins with room. It returns the length of the payload, or 0 when nothing of the
// frame has been sent. After an error b must be left alone until the next call of prepare. The caller holds writing.
func (e *end) send(kind frame.Kind, b []byte) (int, error) {
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-headerSize))
	e.unsent = b
	err := e.flush()
	if err != nil && len(e.unsent) == len(b) {
		e.unsent = nil
		return 0, err
	}
	return len(b) - headerSize, err
}

func (e *end) flush() error {
	for len(e.unsent) > 0 {
		n, err := e.stream.Write(e.unsent)
		e.unsent = e.unsent[n:]
		if err != nil {
			err, _ := e.failure(err, fmt.Errorf("writing to the other end: %w", err))
			return err
		}
	}
	return nil
}

// failure tells what a failure of the stream means: that this end was closed, that a deadline has passed and nothing is
// lost, or else other. Only the last is final.
func (e *end) failure(err, other error) (_ error, final bool) {
	var timeout net.Error
	switch {
	case e.closed.Load():
		return net.ErrClosed, false
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded, false
	}
	return other, true
}

// Abort ends the connection at once. The other end finds it reset unless both directions have ended before.
func (e *end) Abort() {
	e.closed.Store(true)
	frame.HangUp(e.stream)
}

// LocalAddr returns this end's address: that of the listener for a connection that was accepted.
func (e *end) LocalAddr() net.Addr { return e.local }

// RemoteAddr returns the address that was dialled, or that of the guest's peer.
func (e *end) RemoteAddr() net.Addr { return e.remote }

// SetDeadline sets both deadlines.
func (e *end) SetDeadline(t time.Time) error {
	return errors.Join(e.SetReadDeadline(t), e.SetWriteDeadline(t))
}

// SetReadDeadline ends reads at t; they can go on after another deadline has been set.
func (e *end) SetReadDeadline(t time.Time) error {
	if e.closed.Load() {
		return net.ErrClosed
	}
	return e.stream.SetReadDeadline(t)
}

// SetWriteDeadline ends writes at t, see Write.
func (e *end) SetWriteDeadline(t time.Time) error {
	if e.closed.Load() {
		return net.ErrClosed
	}
	return e.stream.SetWriteDeadline(t)
}
