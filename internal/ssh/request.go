package ssh

import (
	"math"
	"net"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/exec"
)

// The payloads of requests of a session (RFC 4254, section 6).
type (
	ptyRequest struct {
		Term          string
		Columns, Rows uint32
		Width, Height uint32 // in pixels
		Modes         string
	}
	windowChange struct {
		Columns, Rows uint32
		Width, Height uint32
	}
	envRequest       struct{ Name, Value string }
	execRequest      struct{ Command string }
	subsystemRequest struct{ Name string }
	signalRequest    struct{ Name string }
	exitStatus       struct{ Status uint32 }
	exitSignal       struct {
		Signal   string
		Core     bool
		Message  string
		Language string
	}
)

// The payloads of what forwards connections (RFC 4254, section 7; PROTOCOL of OpenSSH's sources, section 2.4).
type (
	directTCP struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	directUnix struct {
		Path      string
		Reserved  string
		Reserved2 uint32
	}
	forwardTCP struct {
		Host string
		Port uint32
	}
	forwardUnix  struct{ Path string }
	forwardReply struct{ Port uint32 }
	arrivedTCP   struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	arrivedUnix struct{ Path, Reserved string }
)

// valid refuses what is no variable: the agent takes a name alone as the removal of a variable.
func (e envRequest) valid() bool {
	return e.Name != "" && !strings.ContainsAny(e.Name, "=\x00") && !strings.Contains(e.Value, "\x00")
}

// sizeOf makes a terminal's size of what a client says.
func sizeOf(columns, rows uint32) *exec.Size {
	return &exec.Size{Rows: uint16(min(rows, math.MaxUint16)), Columns: uint16(min(columns, math.MaxUint16))}
}

// address joins a host and a port, if it is one.
func address(host string, port uint32) (string, bool) {
	if port > math.MaxUint16 || strings.ContainsAny(host, "\x00[]") {
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)), true
}

// standardSignals are the names of signals in SSH (RFC 4254, section 6.10), without SIG.
const standardSignals = " ABRT ALRM FPE HUP ILL INT KILL PIPE QUIT SEGV TERM USR1 USR2 "

// signalName names a signal as OpenSSH does: what has no name in SSH is "SIG@openssh.com" (session.c, sig2name).
func signalName(number syscall.Signal) string {
	name := strings.TrimPrefix(unix.SignalName(number), "SIG")
	if name != "" && strings.Contains(standardSignals, " "+name+" ") {
		return name
	}
	return "SIG@openssh.com"
}

// signalNumber is the signal of a name without SIG, or 0. It knows those of Linux as well.
func signalNumber(name string) syscall.Signal {
	if strings.HasPrefix(name, "SIG") {
		return 0
	}
	return unix.SignalNum("SIG" + name)
}
