package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interfaces configures network interfaces by the old requests of netdevice(7). Netlink, which can do more, takes an
// emulated processor several times as long.
type interfaces struct{ socket int }

func openInterfaces() (interfaces, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return interfaces{socket}, err
}

func (i interfaces) close() { _ = unix.Close(i.socket) }

// ifreq is struct ifreq of include/uapi/linux/if.h, on a machine of 64 bits.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	value address // or, in its first two bytes, flags
	_     [8]byte
}

func about(name string) *ifreq {
	var r ifreq
	copy(r.name[:], name)
	return &r
}

// address is a sockaddr_in (ip(7)), without a port.
type address struct {
	family uint16
	_      uint16
	ip     [4]byte
	_      [8]byte
}

func addressOf(ip netip.Addr) address { return address{family: unix.AF_INET, ip: ip.As4()} }

// rtentry is struct rtentry of include/uapi/linux/route.h.
type rtentry struct {
	_                 uint64
	to, gateway, mask address
	flags             uint16
	_                 int16
	_                 uint64
	_                 uintptr
	_                 int16  // metric
	_                 *byte  // device
	_, _              uint64 // MTU, window
	_                 uint16 // initial round trip time
}

// Flags of a route (include/uapi/linux/route.h).
const (
	routeUp      = 1
	routeGateway = 2
)

func (i interfaces) ioctl(request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(i.socket), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// up brings an interface up.
func (i interfaces) up(name string) error {
	r := about(name)
	err := i.ioctl(unix.SIOCGIFFLAGS, unsafe.Pointer(r))
	if err == nil {
		r.value.family |= unix.IFF_UP
		err = i.ioctl(unix.SIOCSIFFLAGS, unsafe.Pointer(r))
	}
	if err != nil {
		return fmt.Errorf("bringing %q up: %w", name, err)
	}
	return nil
}

// hasAddress reports whether an interface has an IPv4 address.
func (i interfaces) hasAddress(name string) (bool, error) {
	switch err := i.ioctl(unix.SIOCGIFADDR, unsafe.Pointer(about(name))); {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("finding the network card %q: %w", name, err)
	}
	return true, nil
}

// setAddress gives an interface an IPv4 address and the mask of its network.
func (i interfaces) setAddress(name string, prefix netip.Prefix) error {
	mask, _ := netip.AddrFromSlice(net.CIDRMask(prefix.Bits(), 32))
	for _, step := range []struct {
		request uintptr
		value   netip.Addr
	}{{unix.SIOCSIFADDR, prefix.Addr()}, {unix.SIOCSIFNETMASK, mask}} {
		r := about(name)
		r.value = addressOf(step.value)
		if err := i.ioctl(step.request, unsafe.Pointer(r)); err != nil {
			return fmt.Errorf("giving %q the address %v: %w", name, prefix, err)
		}
	}
	return nil
}

// setGateway makes the default route, unless there is the same.
func (i interfaces) setGateway(gateway netip.Addr) error {
	anywhere := addressOf(netip.IPv4Unspecified())
	route := rtentry{to: anywhere, mask: anywhere, gateway: addressOf(gateway), flags: routeUp | routeGateway}
	if err := i.ioctl(unix.SIOCADDRT, unsafe.Pointer(&route)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("setting the default route by %v: %w", gateway, err)
	}
	return nil
}
