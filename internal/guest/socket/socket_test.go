package socket

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

const titles = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestRead(t *testing.T) {
	table := titles +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 0\n" +
		"   2: 0000000000000000FFFF00000F02000A:0016 0000000000000000FFFF00000202000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 7 2 0000000000000000 0\n"
	got, err := Read(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []Socket{
		{Local: netip.MustParseAddrPort("127.0.0.1:8080"), Remote: netip.MustParseAddrPort("0.0.0.0:0"), UID: 1000, Inode: 12345},
		{Local: netip.MustParseAddrPort("[::1]:53"), Remote: netip.MustParseAddrPort("[::]:0"), Inode: 99},
		{Local: netip.MustParseAddrPort("[::ffff:10.0.2.15]:22"), Remote: netip.MustParseAddrPort("[::ffff:10.0.2.2]:50000"), Inode: 7},
	}
	if len(got) != len(want) {
		t.Fatalf("the table has %v, not %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d is %+v, not %+v", i+1, got[i], want[i])
		}
	}
}

// TestBound: the kernel's own table, in which a socket of this process appears with this user.
func TestBound(t *testing.T) {
	for _, test := range []struct{ network, address string }{
		{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"tcp", "[::]:0"}, {"udp", "127.0.0.1:0"}, {"udp", "[::1]:0"},
	} {
		address := open(t, test.network, test.address)
		found := 0
		for _, s := range Bound("/proc/self", test.network) {
			if s.Local == address && s.UID == uint32(os.Getuid()) && s.Inode != 0 {
				found++
			}
		}
		if found != 1 {
			t.Errorf("the %s socket on %v is found %d times", test.network, address, found)
		}
	}
}

func open(t *testing.T, network, address string) netip.AddrPort {
	t.Helper()
	if network == "udp" {
		socket, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = socket.Close() })
		return socket.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestTakes(t *testing.T) {
	for _, test := range []struct {
		bound, to       string
		takes, collides bool
	}{
		{"127.0.0.1:80", "127.0.0.1:80", true, true},
		{"127.0.0.1:80", "127.0.0.1:81", false, false},
		{"127.0.0.1:80", "127.0.0.2:80", false, false},
		{"127.0.0.1:80", "0.0.0.0:80", false, true},
		{"0.0.0.0:80", "127.0.0.1:80", true, true},
		{"0.0.0.0:80", "[::1]:80", false, false},
		{"[::]:80", "[::1]:80", true, true},
		{"[::]:80", "127.0.0.1:80", true, true},
		{"[::1]:80", "127.0.0.1:80", false, false},
		{"[::ffff:127.0.0.1]:80", "127.0.0.1:80", true, true},
	} {
		s := Socket{Local: netip.MustParseAddrPort(test.bound)}
		to := netip.MustParseAddrPort(test.to)
		if s.Takes(to) != test.takes || s.Collides(to) != test.collides {
			t.Errorf("%s takes %s: %v, collides with it: %v; want %v, %v", test.bound, test.to, s.Takes(to), s.Collides(to), test.takes, test.collides)
		}
	}
}

// FuzzRead: any text is a table or an error.
func FuzzRead(f *testing.F) {
	f.Add(titles + "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1\n")
	f.Add("\n1: : : x")
	f.Add("\n 0: 00:0 00:0 0 0 0 0 0 0 0")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = Read(strings.NewReader(text)) })
}
