package forward

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// Conn is one end of a connection of bytes that goes through a stream, as a *net.TCPConn is of one through a network. It
// owns the stream. One Read and one Write may run at the same time; others wait for their turn.
type Conn struct {
	end

	reading sync.Mutex
	input   *bufio.Reader
	left    int   // bytes of the data frame at hand that have not been read
	skip    int   // bytes of a frame of another type that have not been read
	ended   error // no more data comes: io.EOF, or why

	output []byte // a header and a chunk; made by the first Write
}

func newConn(stream net.Conn, k kinds, local, remote net.Addr) *Conn {
	c := &Conn{input: bufio.NewReaderSize(stream, bufferSize)}
	c.stream, c.kinds, c.local, c.remote = stream, k, local, remote
	return c
}

// Read reads what the other end has written. The end of that is io.EOF; a connection that was reset, or whose guest is
// gone, is ECONNRESET.
func (c *Conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	if err := c.nextFrame(); err != nil {
		return 0, err
	}
	n, err := c.input.Read(b[:min(len(b), c.left)])
	c.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, c.broken(err)
}

// next is Read without copying: its result is valid until the next read.
func (c *Conn) next() ([]byte, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if err := c.nextFrame(); err != nil {
		return nil, err
	}
	if c.input.Buffered() == 0 {
		if _, err := c.input.Peek(1); err != nil {
			return nil, c.broken(err)
		}
	}
	n := min(c.left, c.input.Buffered())
	b, _ := c.input.Peek(n)
	_, _ = c.input.Discard(n) // moves on within the buffer, which stays as it is until the next read
	c.left -= n
	return b, nil
}

// watch waits for the first data, and calls gone if the stream ends instead.
func (c *Conn) watch(gone func()) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if _, err := c.input.Peek(1); err != nil {
		gone()
	}
}

// drain reads to the end of the stream, which comes when the other side closes it.
func (c *Conn) drain() {
	c.reading.Lock()
	defer c.reading.Unlock()
	_, _ = io.Copy(io.Discard, c.input)
}

// nextFrame reads until there is data to come. Whatever a deadline interrupts is taken up again.
func (c *Conn) nextFrame() error {
	for c.left == 0 {
		if c.ended != nil {
			return c.ended
		}
		if c.skip > 0 {
			n, err := c.input.Discard(c.skip)
			c.skip -= n
			if err != nil {
				return c.broken(err)
			}
		}
		header, err := c.input.Peek(headerSize)
		if err != nil {
			return c.broken(err)
		}
		kind, length := frame.Kind(header[0]), binary.BigEndian.Uint32(header[1:])
		_, _ = c.input.Discard(headerSize)
		c.ended = c.begin(kind, length)
	}
	return nil
}

// begin takes note of a frame.
func (c *Conn) begin(kind frame.Kind, length uint32) error {
	switch {
	case length > frame.MaxPayload, kind == c.kinds.in && length > frame.ChunkSize:
		return fmt.Errorf("reading a frame of type %d: %d bytes are too many", kind, length)
	case kind == c.kinds.in:
		c.left = int(length)
	case kind == c.kinds.inEOF:
		return io.EOF
	default:
		c.skip = int(length)
	}
	return nil
}

// broken makes a failure of the stream one of the connection. After a deadline reading can go on.
func (c *Conn) broken(err error) error {
	err, final := c.failure(err, errReset)
	if final {
		c.left, c.ended = 0, err
	}
	return err
}

// Write writes to the other end. What a deadline has cut off in the middle counts as written, and precedes what is written
// next.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	written := 0
	for written < len(b) {
		if err := c.prepare(); err != nil {
			return written, err
		}
		if c.output == nil {
			c.output = make([]byte, bufferSize)
		}
		n := copy(c.output[headerSize:], b[written:])
		n, err := c.send(c.kinds.out, c.output[:headerSize+n])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// ReadFrom writes what r has, to its end. The error is r's, or that of writing.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	buffer := make([]byte, bufferSize)
	written := int64(0)
	for {
		n, err := r.Read(buffer[headerSize:])
		if n > 0 {
			n, failed := c.sendChunk(buffer[:headerSize+n])
			written += int64(n)
			if failed != nil {
				return written, failed
			}
		}
		if errors.Is(err, io.EOF) {
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}

func (c *Conn) sendChunk(chunk []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.prepare(); err != nil {
		return 0, err
	}
	return c.send(c.kinds.out, chunk)
}

// CloseWrite says that no more data comes; the other end reads io.EOF after what was written. Reading goes on.
func (c *Conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.shut && !c.closed.Load() {
		return nil
	}
	return c.sendEOF()
}

func (c *Conn) sendEOF() error {
	if err := c.prepare(); err != nil {
		return err
	}
	_, err := c.send(c.kinds.outEOF, make([]byte, headerSize))
	c.shut = err == nil
	return err
}

// Close ends the connection as a TCP socket's does: what was written still arrives, and so does io.EOF, unless a Write is
// under way or the other end does not read for a second. A Read or Write that waits fails with net.ErrClosed.
func (c *Conn) Close() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	if c.writing.TryLock() {
		_ = c.stream.SetWriteDeadline(time.Now().Add(closeLimit))
		if !c.shut {
			_ = c.sendEOF()
		}
		c.writing.Unlock()
	}
	c.Abort()
	return nil
}
