package forward

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/guest/socket"
)

// connectLimit is how long the guest tries to connect.
const connectLimit = 30 * time.Second

// connect makes a connection of bytes.
func connect(ctx context.Context, to endpoint) (net.Conn, *frame.Refusal) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if to.Network == unixSocket {
		return dialFirst(ctx, to, []string{to.Address})
	}
	if to.Network != tcp {
		return nil, frame.Refuse(frame.Refused, "the guest's agent does not know the network %q", to.Network)
	}
	host, port, err := net.SplitHostPort(to.Address)
	if err != nil {
		return nil, frame.Refuse(frame.Refused, "%q is not HOST:PORT: %v", to.Address, err)
	}
	return dialFirst(ctx, to, candidates(host, port))
}

// dialFirst dials the addresses in turn, until one answers. Of the failures the one that says most counts.
func dialFirst(ctx context.Context, to endpoint, addresses []string) (net.Conn, *frame.Refusal) {
	var worst error
	var dialer net.Dialer
	for _, address := range addresses {
		conn, err := dialer.DialContext(ctx, to.Network, address)
		if err == nil {
			return conn, nil
		}
		if worst == nil || weight(err) > weight(worst) {
			worst = err
		}
	}
	return nil, refusal(to, worst)
}

// weight says how much the failure of one address of several counts: least if the guest does not have such addresses, as ::1
// without IPv6, and more if nobody listens there.
func weight(err error) int {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return 0
	case errors.Is(err, syscall.ECONNREFUSED):
		return 1
	}
	return 2
}

// candidates returns the addresses that host may mean.
func candidates(host, port string) []string {
	var hosts []string
	switch host {
	case "":
		hosts = append([]string{"127.0.0.1", "::1"}, ownAddresses()...)
	case "localhost": // need not be in /etc/hosts
		hosts = []string{"127.0.0.1", "::1"}
	default:
		hosts = []string{host}
	}
	addresses := make([]string, 0, len(hosts))
	for _, h := range hosts {
		addresses = append(addresses, net.JoinHostPort(h, port))
	}
	return addresses
}

// ownAddresses returns the addresses of the guest's network cards.
func ownAddresses() []string {
	var own []string
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().IsGlobalUnicast() {
			own = append(own, prefix.Addr().String())
		}
	}
	return own
}

// refusal says why nobody could be reached at an address.
func refusal(to endpoint, err error) *frame.Refusal {
	where := to.Address
	if host, port, err := net.SplitHostPort(to.Address); err == nil && host == "" {
		where = "port " + port
	}
	var unknown *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return frame.Refuse(frame.NotFound, "nothing listens on %s in the guest", where)
	case errors.Is(err, fs.ErrNotExist):
		return frame.Refuse(frame.NotFound, "nothing listens on %s in the guest: there is no such socket", where)
	case errors.As(err, &unknown):
		return frame.Refuse(frame.NotFound, "the guest cannot look up the host of %s: %v", where, unknown)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return frame.Refuse(frame.Failed, "nobody answers on %s, as seen from the guest", where)
	}
	return frame.Refuse(frame.Failed, "connecting to %s in the guest: %v", where, err)
}

// connectUDP makes a socket for a flow of datagrams.
func connectUDP(ctx context.Context, address string) (net.Conn, *frame.Refusal) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, frame.Refuse(frame.Refused, "%q is not HOST:PORT: %v", address, err)
	}
	addresses := candidates(host, port)
	if host == "" || host == "localhost" {
		addresses = []string{listening(addresses, socket.Bound("/proc/self", udp))}
	}
	return dialFirst(ctx, endpoint{udp, address}, addresses)
}

// listening returns the first of the addresses to which a socket is bound, if need be by being bound to all of them. A
// datagram cannot be tried on several addresses as a connection can.
func listening(addresses []string, bound []socket.Socket) string {
	for _, address := range addresses {
		want, err := netip.ParseAddrPort(address)
		for _, s := range bound {
			if err == nil && s.Takes(want) {
				return address
			}
		}
	}
	return addresses[0]
}
