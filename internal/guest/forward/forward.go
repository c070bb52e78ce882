// Package forward connects sockets of the host's side with sockets of the guest, one stream of the channel for each
// connection: the host's half (Dial, Listen) and the agent's half (Handlers).
//
// After the request and its reply a stream carries data frames in both directions and, for each direction, a frame that
// ends it. A stream that ends without that frame is a connection that was reset. docs/guest-protocol.md is the
// specification.
package forward

import (
	"io/fs"
	"net"
	"net/netip"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// The networks of Dial and Listen.
const (
	tcp        = "tcp"
	udp        = "udp"
	unixSocket = "unix"
)

// The requests.
const (
	doDial   = "dial"
	doListen = "listen"
	doAccept = "accept"
)

// MaxDatagram is the largest datagram in bytes: what the length in UDP's header of 8 bytes leaves (RFC 768). IPv4 carries
// 20 bytes less.
const MaxDatagram = 65535 - 8

// endpoint are the arguments of dial, and part of those of listen.
type endpoint struct {
	Network string `json:"network"`
	Address string `json:"address"`
}

// listenArgs are the arguments of listen.
type listenArgs struct {
	endpoint
	Mode *uint32 `json:"mode,omitempty"` // permissions of a Unix socket; 0600 without
	// Owner of a Unix socket, who also must be allowed to make and to remove it; the agent's user without.
	Owner *owner `json:"owner,omitempty"`
}

type owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// place is the reply to dial and to listen: the address that it came to.
type place struct {
	Address string `json:"address"`
}

// arrival announces a connection that waits at a listener.
type arrival struct {
	ID     uint64 `json:"id"`
	Remote string `json:"remote,omitempty"` // IP:PORT of the peer; absent for Unix sockets
}

// claim are the arguments of accept.
type claim struct {
	ID uint64 `json:"id"`
}

// Option is an option of Listen.
type Option func(*listenArgs)

// Mode gives a Unix socket these permissions instead of 0600.
func Mode(mode fs.FileMode) Option {
	return func(a *listenArgs) {
		bits := uint32(mode.Perm())
		a.Mode = &bits
	}
}

// Owner gives a Unix socket to a user and group of the guest. The socket is made with their rights, so that they must be
// allowed to make a file of that name.
func Owner(uid, gid uint32) Option {
	return func(a *listenArgs) { a.Owner = &owner{uid, gid} }
}

// kinds are the frames of one end's connections.
type kinds struct{ in, inEOF, out, outEOF frame.Kind }

func hostKinds() kinds { return kinds{frame.Stdout, frame.StdoutEOF, frame.Stdin, frame.StdinEOF} }

func guestKinds() kinds { return kinds{frame.Stdin, frame.StdinEOF, frame.Stdout, frame.StdoutEOF} }

// namedAddr is an address as it was written.
type namedAddr struct{ network, address string }

// Network returns "tcp", "udp" or "unix".
func (a namedAddr) Network() string { return a.network }

// String returns the address.
func (a namedAddr) String() string { return a.address }

// addrOf makes an address of text. What the guest has made up and is no IP:PORT is not repeated.
func addrOf(network, text string) net.Addr {
	numeric, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return namedAddr{network: network}
	case network == udp:
		return net.UDPAddrFromAddrPort(numeric)
	}
	return net.TCPAddrFromAddrPort(numeric)
}
