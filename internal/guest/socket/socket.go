// Package socket reads the kernel's tables of TCP and UDP sockets.
package socket

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Socket is a socket of the network namespace.
type Socket struct {
	Local  netip.AddrPort
	Remote netip.AddrPort
	UID    uint32 // its owner
	Inode  uint64 // of the file in the kernel's sockfs; 0 for a connection that no process has any more
}

// Bound returns the sockets of a network, "tcp" or "udp", that take what comes from anybody: that listen, or are bound
// without being connected. proc is a process's directory, such as /proc/self. A table that cannot be read is empty.
func Bound(proc, network string) []Socket {
	var all []Socket
	for _, table := range []string{network, network + "6"} {
		file, err := os.Open(filepath.Join(proc, "net", table))
		if err != nil {
			continue // without IPv6 there is only one
		}
		sockets, err := Read(file)
		_ = file.Close()
		if err == nil {
			all = append(all, sockets...)
		}
	}
	return slices.DeleteFunc(all, func(s Socket) bool { return s.Remote.Port() != 0 })
}

// Takes reports whether the socket gets what is sent to an address. Without its options it is taken for one that does not
// keep an IPv6 wildcard from IPv4.
func (s Socket) Takes(to netip.AddrPort) bool {
	if s.Local.Port() != to.Port() {
		return false
	}
	own, other := s.Local.Addr().Unmap(), to.Addr().Unmap()
	return own == other || own.IsUnspecified() && (own.Is6() || other.Is4())
}

// Collides reports whether the socket keeps another one from being bound to an address: Takes, or an address that takes
// what this socket is bound to.
func (s Socket) Collides(with netip.AddrPort) bool {
	return s.Takes(with) || Socket{Local: with}.Takes(s.Local)
}

// Read reads a table in the format of /proc/net/tcp (net/ipv4/tcp_ipv4.c, get_tcp4_sock; net/ipv4/udp.c, udp4_format_sock):
// a line of titles, then a line for each socket whose fields are, among others, its number, local address, remote address,
// state, two of queues, timers and retransmissions, the user id, a time-out and the inode.
func Read(table io.Reader) ([]Socket, error) {
	var sockets []Socket
	lines := bufio.NewScanner(table)
	lines.Scan() // titles
	for lines.Scan() {
		s, err := parse(strings.Fields(lines.Text()))
		if err != nil {
			return nil, fmt.Errorf("reading a table of sockets: %w", err)
		}
		sockets = append(sockets, s)
	}
	return sockets, lines.Err()
}

const (
	fieldLocal  = 1
	fieldRemote = 2
	fieldUID    = 7
	fieldInode  = 9
)

func parse(fields []string) (s Socket, err error) {
	if len(fields) <= fieldInode {
		return s, fmt.Errorf("a line has %d fields", len(fields))
	}
	if s.Local, err = parseAddress(fields[fieldLocal]); err != nil {
		return s, err
	}
	if s.Remote, err = parseAddress(fields[fieldRemote]); err != nil {
		return s, err
	}
	uid, err := strconv.ParseUint(fields[fieldUID], 10, 32)
	if err != nil {
		return s, err
	}
	s.UID = uint32(uid)
	s.Inode, err = strconv.ParseUint(fields[fieldInode], 10, 64)
	return s, err
}

// parseAddress reads ADDRESS:PORT in hexadecimal: each 32 bits of the address as the (little-endian) CPU sees the bytes
// that are in the network's order, the port as a number.
func parseAddress(text string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", address)
	}
	return netip.AddrPortFrom(ip, uint16(number)), nil
}
