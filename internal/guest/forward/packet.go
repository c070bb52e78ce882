package forward

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// PacketConn is one end of a flow of datagrams that goes through a stream, as a connected *net.UDPConn is of one through a
// network, but that nothing is lost on the way to the other end. It owns the stream.
type PacketConn struct {
	end

	reading sync.Mutex
	input   []byte // the frame at hand, with its header
	have    int    // bytes of it that have been read
	ended   error

	output []byte
}

func newPacketConn(stream net.Conn, k kinds, remote net.Addr) *PacketConn {
	c := &PacketConn{}
	c.stream, c.kinds, c.local, c.remote = stream, k, namedAddr{network: udp}, remote
	return c
}

// errTooLong is a frame that is longer than any datagram.
var errTooLong = errors.New("the other end sent a datagram that is too long")

// Read reads one datagram; what does not fit into b is lost. The error is a *frame.Refusal when nothing listens in the guest
// any more, and ECONNRESET when the guest is gone.
func (c *PacketConn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	datagram, err := c.next()
	return copy(b, datagram), err
}

// ReadPacket is Read without copying: the datagram is valid until the next read.
func (c *PacketConn) ReadPacket() ([]byte, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.next()
}

// next is ReadPacket. The caller holds reading.
func (c *PacketConn) next() ([]byte, error) {
	for c.ended == nil {
		kind, payload, err := c.nextFrame()
		if err != nil {
			return nil, c.broken(err)
		}
		if kind == c.kinds.in {
			return payload, nil
		}
		if kind == frame.Error {
			c.ended = frame.DecodeRefusal(payload)
		}
	}
	return nil, c.ended
}

// broken makes a failure of the stream one of the connection.
func (c *PacketConn) broken(err error) error {
	other := errReset
	if errors.Is(err, errTooLong) {
		other = err
	}
	err, final := c.failure(err, other)
	if final {
		c.ended = err
	}
	return err
}

// nextFrame reads one frame. What a deadline interrupts is taken up again by the next call.
func (c *PacketConn) nextFrame() (frame.Kind, []byte, error) {
	for {
		need := headerSize
		if c.have >= headerSize {
			length := binary.BigEndian.Uint32(c.input[1:])
			if length > MaxDatagram {
				return 0, nil, fmt.Errorf("%w: %d bytes", errTooLong, length)
			}
			need += int(length)
		}
		if c.have >= headerSize && c.have == need {
			c.have = 0
			return frame.Kind(c.input[0]), c.input[headerSize:need], nil
		}
		if need > len(c.input) {
			c.input = append(c.input, make([]byte, need-len(c.input))...)
		}
		n, err := c.stream.Read(c.input[c.have:need])
		c.have += n
		if err != nil {
			return 0, nil, err
		}
	}
}

// Write sends b as one datagram, of MaxDatagram bytes at most. It waits while the guest does not take datagrams.
func (c *PacketConn) Write(b []byte) (int, error) {
	if len(b) > MaxDatagram {
		return 0, fmt.Errorf("a datagram of %d bytes: %w", len(b), syscall.EMSGSIZE)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.prepare(); err != nil {
		return 0, err
	}
	c.output = append(append(c.output[:0], make([]byte, headerSize)...), b...)
	return c.send(c.kinds.out, c.output)
}

// Close ends the flow.
func (c *PacketConn) Close() error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	c.Abort()
	return nil
}

// relay copies datagrams between conn and socket, both ways, until the host ends the flow or nothing listens at address.
func relay(conn *PacketConn, socket net.Conn, address string) *frame.Refusal {
	var sending sync.WaitGroup
	var refused error
	sending.Go(func() {
		refused = conn.sendTo(socket)
		_ = socket.Close()
	})
	failed := conn.receiveFrom(socket)
	_ = socket.Close()
	// Ends the reading, but leaves the stream open for the refusal.
	_ = conn.stream.SetDeadline(time.Now())
	sending.Wait()
	_ = conn.stream.SetWriteDeadline(time.Now().Add(closeLimit))
	if errors.Is(refused, syscall.ECONNREFUSED) || errors.Is(failed, syscall.ECONNREFUSED) {
		return refusal(endpoint{udp, address}, syscall.ECONNREFUSED)
	}
	return nil
}

// sendTo sends what comes from the other end. What the network does not take is lost, as datagrams are.
func (c *PacketConn) sendTo(socket net.Conn) error {
	for {
		b, err := c.ReadPacket()
		if err != nil {
			return err
		}
		_, err = socket.Write(b)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}

// receiveFrom sends what comes from socket to the other end.
func (c *PacketConn) receiveFrom(socket net.Conn) error {
	buffer := make([]byte, MaxDatagram)
	for {
		n, err := socket.Read(buffer)
		if err != nil {
			return err
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return err
		}
	}
}
