// Package port publishes ports of a VM on addresses of the host: whoever connects there reaches a service in the guest,
// through a stream of the channel. Nothing of it needs privileges or a network card in the guest.
package port

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// Protocol is "tcp" or "udp". The zero Protocol is invalid.
type Protocol string

// The protocols.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// maxPorts bounds the ports of a specification and those of a VM.
const maxPorts = 1024

// Spec says what to publish, or what to publish no longer.
type Spec struct {
	IP       netip.Addr // of the host; invalid: 127.0.0.1, or any when it selects
	Host     uint16     // port of the host; 0: a free one, or any when it selects
	Guest    uint16
	Protocol Protocol
}

// Parse reads docker's [IP:][HOST:]GUEST[/tcp|/udp]. HOST and GUEST may be ranges of the same length, such as 8000-8009,
// which give a Spec for each port. IPv6 addresses are in brackets. Errors are of kind Usage.
func Parse(text string) ([]Spec, error) {
	specs, err := parse(text)
	if err != nil {
		return nil, fault.New(fault.Usage, fmt.Errorf("%q is no port to publish: %w", text, err),
			"write [IP:][HOST:]GUEST[/tcp|/udp], such as 8080:80, 53:53/udp or [::1]:8000-8009:8000-8009")
	}
	return specs, nil
}

func parse(text string) ([]Spec, error) {
	addresses, protocol, err := cutProtocol(text)
	if err != nil {
		return nil, err
	}
	ip, ports, err := cutIP(addresses)
	if err != nil {
		return nil, err
	}
	host, guest, both := strings.Cut(ports, ":")
	if !both {
		host, guest = "", ports
	}
	to, err := parseRange(guest)
	if err != nil {
		return nil, err
	}
	from := span{0, to.length}
	if host != "" && host != "0" {
		if from, err = parseRange(host); err != nil {
			return nil, err
		}
	}
	if from.length != to.length {
		return nil, fmt.Errorf("%s are %d ports and %s are %d", host, from.length, guest, to.length)
	}
	return expand(ip, from, to, protocol), nil
}

func expand(ip netip.Addr, from, to span, protocol Protocol) []Spec {
	specs := make([]Spec, to.length)
	for i := range specs {
		specs[i] = Spec{IP: ip, Guest: uint16(to.first + i), Protocol: protocol}
		if from.first != 0 {
			specs[i].Host = uint16(from.first + i)
		}
	}
	return specs
}

func cutProtocol(text string) (addresses string, _ Protocol, _ error) {
	addresses, name, given := strings.Cut(text, "/")
	switch protocol := Protocol(strings.ToLower(name)); {
	case !given:
		return addresses, TCP, nil
	case protocol == TCP || protocol == UDP:
		return addresses, protocol, nil
	}
	return "", "", fmt.Errorf("the protocol %q is neither tcp nor udp", name)
}

// cutIP splits [IP:][HOST:]GUEST after the address. Without brackets it has no colons.
func cutIP(text string) (ip netip.Addr, ports string, err error) {
	var address string
	if inner, found := strings.CutPrefix(text, "["); found {
		if address, ports, found = strings.Cut(inner, "]:"); !found {
			return ip, "", fmt.Errorf("the address in brackets is not followed by a colon and a port")
		}
	} else if strings.Count(text, ":") < 2 {
		return ip, text, nil
	} else {
		address, ports, _ = strings.Cut(text, ":")
	}
	if strings.Count(ports, ":") > 1 {
		return ip, "", fmt.Errorf("it has too many colons; an IPv6 address needs brackets")
	}
	ip, err = netip.ParseAddr(address)
	if err != nil {
		return ip, "", fmt.Errorf("%q is no IP address", address)
	}
	return ip.Unmap(), ports, nil
}

// span is a range of ports.
type span struct{ first, length int }

func parseRange(text string) (span, error) {
	low, high, ranged := strings.Cut(text, "-")
	if !ranged {
		high = low
	}
	first, err := parsePort(low)
	if err != nil {
		return span{}, err
	}
	last, err := parsePort(high)
	switch {
	case err != nil:
		return span{}, err
	case last < first:
		return span{}, fmt.Errorf("the range %s runs backwards", text)
	case last-first >= maxPorts:
		return span{}, fmt.Errorf("the range %s has more than %d ports", text, maxPorts)
	}
	return span{first, last - first + 1}, nil
}

func parsePort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port from 1 to 65535", text)
	}
	return int(n), nil
}

// address returns where to listen.
func (s Spec) address() netip.AddrPort {
	ip := s.IP
	if !ip.IsValid() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(ip, s.Host)
}

// selects reports whether s means a port that is published.
func (s Spec) selects(p Published) bool {
	return s.Guest == p.Guest && s.Protocol == p.Protocol &&
		(s.Host == 0 || s.Host == p.Address.Port()) && (!s.IP.IsValid() || s.IP == p.Address.Addr())
}

// String returns the specification as Parse reads it.
func (s Spec) String() string {
	var b strings.Builder
	if s.IP.IsValid() {
		fmt.Fprintf(&b, "%s:", bracket(s.IP))
	}
	if s.Host != 0 {
		fmt.Fprintf(&b, "%d", s.Host)
	}
	if s.IP.IsValid() || s.Host != 0 {
		b.WriteString(":")
	}
	fmt.Fprintf(&b, "%d/%s", s.Guest, s.Protocol)
	return b.String()
}

func bracket(ip netip.Addr) string {
	if ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// Published is a port of the guest that is reachable on an address of the host.
type Published struct {
	Address  netip.AddrPort `json:"address"` // of the host, with the port that is really open
	Guest    uint16         `json:"guest"`
	Protocol Protocol       `json:"protocol"`
}

// String returns ADDRESS->GUEST/PROTOCOL, as docker ps shows it.
func (p Published) String() string { return fmt.Sprintf("%v->%d/%s", p.Address, p.Guest, p.Protocol) }
