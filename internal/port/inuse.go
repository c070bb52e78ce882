package port

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/socket"
)

// InUse is an address that cannot be published because something else has it.
type InUse struct {
	Address  netip.AddrPort
	Protocol Protocol
	PID      int    // of the process that holds it; 0 when that cannot be seen
	Holder   string // what holds it, in words
}

// Error says who holds the address.
func (e *InUse) Error() string {
	return fmt.Sprintf("%v/%s is in use by %s", e.Address, e.Protocol, e.Holder)
}

// explain gives an error of listening its kind and hint.
func (s *Set) explain(spec Spec, err error) error {
	address := spec.address()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.New(fault.Conflict, s.inUse(address, spec.Protocol),
			fmt.Sprintf("choose another port of the host, or none, as in %d, to have a free one chosen", spec.Guest))
	case errors.Is(err, syscall.EACCES) && address.Port() < 1024:
		return fault.New(fault.Failure, fmt.Errorf("the host keeps port %d for root", address.Port()),
			fmt.Sprintf("choose a port from 1024 on, or have root run `sysctl net.ipv4.ip_unprivileged_port_start=%d`", address.Port()))
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return fault.New(fault.Usage, fmt.Errorf("the host has no address %v", address.Addr()),
			"`ip address` lists the host's addresses; 0.0.0.0 is all of them")
	}
	return err
}

// inUse finds out who has an address. The caller holds mu.
func (s *Set) inUse(address netip.AddrPort, protocol Protocol) *InUse {
	e := &InUse{Address: address, Protocol: protocol}
	for _, p := range s.open {
		if p.Protocol == protocol && (socket.Socket{Local: p.Address}).Collides(address) {
			e.PID = os.Getpid()
			e.Holder = fmt.Sprintf("port %d of this VM", p.Guest)
			return e
		}
	}
	sockets := slices.DeleteFunc(socket.Bound("/proc/self", string(protocol)), func(other socket.Socket) bool {
		return !other.Collides(address)
	})
	e.PID = processOf(sockets)
	e.Holder = s.holder(e.PID, sockets)
	return e
}

// holder describes a process, or one that cannot be seen.
func (s *Set) holder(pid int, sockets []socket.Socket) string {
	if pid != 0 && s.config.Holder != nil {
		if name := s.config.Holder(pid); name != "" {
			return name
		}
	}
	uid := uint32(os.Getuid())
	switch {
	case pid != 0:
		return fmt.Sprintf("%s (pid %d)", program(pid), pid)
	case len(sockets) > 0 && sockets[0].UID != uid:
		return fmt.Sprintf("a process of another user (uid %d)", sockets[0].UID)
	}
	return "a process that cannot be seen from here"
}

// program returns the name of a process.
func program(pid int) string {
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return "a process"
	}
	return cmp.Or(strings.TrimSpace(string(name)), "a process")
}

// processOf returns a process that has one of the sockets open, as far as this user may look; 0 for none.
func processOf(sockets []socket.Socket) int {
	wanted := map[string]bool{}
	for _, s := range sockets {
		wanted[fmt.Sprintf("socket:[%d]", s.Inode)] = true
	}
	if len(wanted) == 0 {
		return 0
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		if hasOpen(dir, wanted) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid
		}
	}
	return 0
}

// hasOpen reports whether a process has one of the files open that proc(5) names so.
func hasOpen(dir string, wanted map[string]bool) bool {
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return false // another user's, or over
	}
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, "fd", f.Name())); err == nil && wanted[target] {
			return true
		}
	}
	return false
}
