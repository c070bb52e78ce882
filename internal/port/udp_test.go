package port

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
)

func mustIP(text string) netip.Addr { return netip.MustParseAddr(text) }

// packetService sends every datagram back, until the test ends. It returns the port.
func packetService(t *testing.T) int {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		buffer := make([]byte, 65535)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(buffer[:n], from)
		}
	}()
	return socket.LocalAddr().(*net.UDPAddr).Port
}

// flowsOf returns how many flows the only port of a Set has.
func flowsOf(t *testing.T, s *Set) int {
	t.Helper()
	p := s.open[0].port.(*udpPort)
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.flows)
}

// checkEcho sends a datagram and expects it back.
func checkEcho(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	if _, err := conn.Write(pattern(size)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 65535)
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, err := conn.Read(buffer)
	if err != nil || !bytes.Equal(buffer[:n], pattern(size)) {
		t.Errorf("of a datagram of %d bytes %d came back, %v", size, n, err)
	}
}

func TestUDP(t *testing.T) {
	s := newSet(t)
	guest := packetService(t)
	for _, ip := range []string{"127.0.0.1", "[::1]", "0.0.0.0"} {
		p := add(t, s, "%s::%d/udp", ip, guest)
		for range 3 {
			conn := dial(t, "udp", p.Address)
			for _, size := range []int{0, 1, 1472, 40_000, 65507, 2} {
				checkEcho(t, conn, size)
			}
		}
	}
}

// TestFlows: clients are told apart.
func TestFlows(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "%d/udp", packetService(t))
	var clients []net.Conn
	for i := range 20 {
		conn := dial(t, "udp", p.Address)
		if _, err := conn.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, conn)
	}
	for i, conn := range clients {
		b := make([]byte, 10)
		if n, err := conn.Read(b); n != 1 || err != nil || b[0] != byte(i) {
			t.Errorf("client %d gets %v, %v", i, b[:n], err)
		}
	}
	if n := flowsOf(t, s); n != len(clients) {
		t.Errorf("there are %d flows of %d clients", n, len(clients))
	}
}

// TestIdleFlow: a flow ends when nothing has passed for a while, and its client begins another without noticing.
func TestIdleFlow(t *testing.T) {
	s := newSet(t)
	s.idle = 200 * time.Millisecond
	p := add(t, s, "%d/udp", packetService(t))
	conn := dial(t, "udp", p.Address)
	checkEcho(t, conn, 10)
	for deadline := time.Now().Add(30 * time.Second); flowsOf(t, s) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("a flow is still there 30 s after its last datagram")
		}
		time.Sleep(10 * time.Millisecond)
	}
	checkEcho(t, conn, 10)
}

// TestManyFlows: clients without number take the place of those that were silent longest.
func TestManyFlows(t *testing.T) {
	s := newSet(t)
	p := add(t, s, "%d/udp", packetService(t))
	first := dial(t, "udp", p.Address)
	checkEcho(t, first, 1)
	for range maxFlows + 50 {
		conn, err := net.Dial("udp", p.Address.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x"))
		_ = conn.Close()
	}
	if n := flowsOf(t, s); n > maxFlows {
		t.Errorf("there are %d flows, more than %d", n, maxFlows)
	}
	var err error
	for range 50 { // datagrams may be lost while flows are replaced
		_, _ = first.Write([]byte("again"))
		_ = first.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err = first.Read(make([]byte, 10)); err == nil {
			return
		}
	}
	t.Errorf("a client does not get through: %v", err)
}

// TestUDPNoService: datagrams are lost while nothing listens, and arrive as soon as something does.
func TestUDPNoService(t *testing.T) {
	s := newSet(t)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := socket.LocalAddr().String()
	p := add(t, s, "%d/udp", socket.LocalAddr().(*net.UDPAddr).Port)
	_ = socket.Close()
	conn := dial(t, "udp", p.Address)
	for range 10 {
		if _, err := conn.Write([]byte("lost")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if socket, err = net.ListenPacket("udp", address); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	for range 50 {
		_, _ = conn.Write([]byte("found"))
		b := make([]byte, 10)
		_ = socket.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := socket.ReadFrom(b); err == nil && string(b[:n]) == "found" {
			return
		}
	}
	t.Error("no datagram arrives after the service has come up")
}
