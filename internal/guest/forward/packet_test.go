package forward

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// maxIPv4 is the largest datagram that IPv4 carries.
const maxIPv4 = 65507

// packetService sends every datagram back, until the test ends.
func packetService(t *testing.T, network, address string) net.Addr {
	t.Helper()
	socket, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		buffer := make([]byte, MaxDatagram)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(buffer[:n], from)
		}
	}()
	return socket.LocalAddr()
}

func TestPackets(t *testing.T) {
	a := newAgent(t)
	tests := []struct{ name, address string }{
		{"by address", packetService(t, "udp", "127.0.0.1:0").String()},
		{"the guest itself", port(packetService(t, "udp", "127.0.0.1:0"))},
		{"all IPv4 addresses", port(packetService(t, "udp4", "0.0.0.0:0"))},
		{"only the IPv6 loopback", port(packetService(t, "udp", "[::1]:0"))},
		{"all addresses", port(packetService(t, "udp", "[::]:0"))},
		{"localhost", "localhost" + port(packetService(t, "udp", "[::1]:0"))},
	}
	if own := ownAddresses(); len(own) > 0 {
		address := port(packetService(t, "udp", net.JoinHostPort(own[0], "0")))
		tests = append(tests, struct{ name, address string }{"only a card's address", address})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			conn := a.mustDial(t, "udp", test.address)
			buffer := make([]byte, MaxDatagram)
			for _, size := range []int{0, 1, 100, 1472, frame.ChunkSize, frame.ChunkSize + 1, maxIPv4, 3} {
				if n, err := conn.Write(pattern(size)); n != size || err != nil {
					t.Errorf("writing %d bytes: %d, %v", size, n, err)
				}
				n, err := conn.Read(buffer)
				if err != nil || !bytes.Equal(buffer[:n], pattern(size)) {
					t.Errorf("of a datagram of %d bytes %d came back, %v", size, n, err)
				}
			}
		})
	}
}

// TestPacketBoundaries: datagrams that wait together stay apart, and one that does not fit is cut.
func TestPacketBoundaries(t *testing.T) {
	a := newAgent(t)
	conn := a.mustDial(t, "udp", packetService(t, "udp", "127.0.0.1:0").String())
	sizes := []int{10, 0, 5000, 1, 7}
	for _, size := range sizes {
		if _, err := conn.Write(pattern(size)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond)
	buffer := make([]byte, 1000)
	for _, size := range sizes {
		if n, err := conn.Read(buffer); n != min(size, len(buffer)) || err != nil {
			t.Errorf("a datagram of %d bytes is read as %d into %d, %v", size, n, len(buffer), err)
		}
	}
}

func TestPacketTooLong(t *testing.T) {
	a := newAgent(t)
	conn := a.mustDial(t, "udp", packetService(t, "udp", "127.0.0.1:0").String())
	if _, err := conn.Write(pattern(MaxDatagram + 1)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("writing %d bytes gives %v", MaxDatagram+1, err)
	}
	// The network of the guest may refuse what the stream carries. That is a lost datagram, and no more.
	if _, err := conn.Write(pattern(MaxDatagram)); err != nil {
		t.Error(err)
	}
	_, _ = conn.Write([]byte("x"))
	if n, err := conn.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Errorf("after a datagram that the guest's network refuses come %d bytes, %v", n, err)
	}
}

// TestPacketRefused: the flow ends in the guest's words when nothing listens.
func TestPacketRefused(t *testing.T) {
	a := newAgent(t)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := socket.LocalAddr()
	_ = socket.Close()
	conn := a.mustDial(t, "udp", port(address))
	_, _ = conn.Write([]byte("x"))
	_, err = conn.Read(make([]byte, 10))
	var refused *frame.Refusal
	if !errors.As(err, &refused) || refused.Reason != frame.NotFound {
		t.Errorf("reading gives %v, not that nothing listens", err)
	}
}

// TestPacketClosed: the end of a flow, by either side.
func TestPacketClosed(t *testing.T) {
	a := newAgent(t)
	address := packetService(t, "udp", "127.0.0.1:0").String()
	conn := a.mustDial(t, "udp", address)
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 10))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond)
	_ = conn.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading while the flow is closed gives %v", err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to a closed flow gives %v", err)
	}
	gone := a.mustDial(t, "udp", address)
	time.AfterFunc(20*time.Millisecond, func() { _ = a.Close() })
	if _, err := gone.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("reading from a guest that is gone gives %v", err)
	}
}

// TestPacketDeadline: a datagram that comes in pieces survives the deadlines between them.
func TestPacketDeadline(t *testing.T) {
	stream, peer := net.Pipe()
	conn := newPacketConn(stream, hostKinds(), nil)
	defer conn.Abort()
	go func() {
		defer func() { _ = peer.Close() }()
		for _, b := range []byte{byte(frame.Stdout), 0, 0, 0, 3, 'a', 'b', 'c'} {
			_, _ = peer.Write([]byte{b})
			time.Sleep(2 * time.Millisecond)
		}
	}()
	for interrupted := 0; ; interrupted++ {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		b := make([]byte, 10)
		n, err := conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if string(b[:n]) != "abc" || err != nil || interrupted == 0 {
			t.Errorf("after %d interruptions %q was read, %v", interrupted, b[:n], err)
		}
		return
	}
}

// fed is a stream from which data can be read and to which everything can be written.
type fed struct {
	net.Conn
	data *bytes.Reader
}

func (f fed) Read(b []byte) (int, error)      { return f.data.Read(b) }
func (f fed) SetReadDeadline(time.Time) error { return nil }
func (f fed) Close() error                    { return nil }

// readAll reads to the end, and checks what that takes.
func readAll(t *testing.T, stream []byte, read func(b []byte) (int, error)) {
	t.Helper()
	total := 0
	for b := make([]byte, MaxDatagram+1); ; {
		n, err := read(b)
		total += n
		if n > MaxDatagram || total > len(stream) {
			t.Fatalf("a read gives %d bytes, all together %d of a stream of %d", n, total, len(stream))
		}
		if err != nil {
			return
		}
	}
}

// FuzzGuest: whatever a guest sends on the stream of a connection, a flow or a listener, the host reads it to an end and
// keeps no more of it than a datagram.
func FuzzGuest(f *testing.F) {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	_ = w.Write(frame.Stdout, []byte("data"))
	_ = w.Write(99, []byte("of a later version"))
	_ = w.WriteJSON(frame.Accepted, arrival{7, "127.0.0.1:80"})
	_ = w.WriteJSON(frame.Error, frame.Refuse(frame.NotFound, "nothing"))
	_ = w.Write(frame.StdoutEOF, nil)
	f.Add(b.Bytes())
	for _, length := range []uint32{0, frame.ChunkSize + 1, MaxDatagram + 1, frame.MaxPayload + 1, 1<<32 - 1} {
		for _, kind := range []frame.Kind{frame.Stdout, frame.Accepted, frame.Error, 99} {
			f.Add(append(binary.BigEndian.AppendUint32([]byte{byte(kind)}, length), "xxxx"...))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		bytesOf := newConn(fed{data: bytes.NewReader(stream)}, hostKinds(), nil, nil)
		readAll(t, stream, bytesOf.Read)
		flow := newPacketConn(fed{data: bytes.NewReader(stream)}, hostKinds(), nil)
		readAll(t, stream, flow.Read)
		if len(flow.input) > headerSize+MaxDatagram {
			t.Errorf("a flow keeps %d bytes", len(flow.input))
		}
		for r := bytes.NewReader(stream); ; {
			a, err := readArrival(r)
			if err != nil {
				break
			}
			_ = addrOf(tcp, a.Remote).String()
		}
	})
}
