// Package monitor is the process that stands behind a running VM, and how the rest of banger talks to it.
//
// A monitor is the parent of one VMM. It boots the machine, runs the VM's command and keeps its output, publishes ports,
// keeps the guest's clock right, and ends with the machine. It outlives whoever started it. Nothing else holds the
// channel to the guest's agent: others ask the monitor for a stream to it.
//
// It serves a Unix socket. A connection begins with one request, a line of JSON; answers are lines of JSON too. After some
// of them the connection carries something else: bytes of a stream to the agent, or the frames of the VM's command
// (package frame). The connection that starts a monitor is the same, but for being there already: it is the process's
// descriptor 3. docs/vm.md, "The monitor", is the specification.
package monitor

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// version is that of the requests. A monitor lives on when banger is replaced by a newer one.
const version = 1

// request is the first line of a connection.
type request struct {
	Version int    `json:"version"`
	Do      string `json:"do"`

	Start  *Start        `json:"start,omitempty"`
	Limit  time.Duration `json:"limit,omitempty"`  // of doStop
	Signal int           `json:"signal,omitempty"` // of doSignal
	Add    []string      `json:"add,omitempty"`    // of doPorts, as package port writes them
	Remove []string      `json:"remove,omitempty"` // of doPorts
}

// The requests.
const (
	doStart  = "start"  // only on the connection that starts the monitor
	doStatus = "status" // answers a Status
	doStream = "stream" // becomes a stream to the agent
	doStop   = "stop"   // answers the State of the ended run
	doKill   = "kill"   // the same
	doWait   = "wait"   // the same
	doPorts  = "ports"  // answers what was added or removed
	doSignal = "signal" // sends a signal to the VM's command
)

// Start says what to boot.
type Start struct {
	Dir  string  `json:"dir"`  // of the instance
	Spec vm.Spec `json:"spec"` // RuntimeDir is made by the monitor
	// Attached makes the connection carry the frames of the VM's command once the machine has booted.
	Attached bool       `json:"attached,omitempty"`
	Terminal *exec.Size `json:"terminal,omitempty"` // size of the command's terminal, if it has one
}

// Phase is where a machine is. The zero Phase is invalid.
type Phase string

// The phases.
const (
	Starting Phase = "starting"
	Running  Phase = "running"
	Stopping Phase = "stopping"
)

// Status is what a monitor says of its VM.
type Status struct {
	Phase   Phase     `json:"phase"`
	Started time.Time `json:"started"`
	PID     int       `json:"pid"` // of the monitor
	VMM     int       `json:"vmm"` // process id; 0 before there is one
	// Silent is since when the guest's agent has not answered; nil if it does.
	Silent *time.Time `json:"silent,omitempty"`
	// Ports are those that are published.
	Ports []port.Published `json:"ports,omitempty"`
}

// answer is a line from the monitor.
type answer struct {
	Booted bool             `json:"booted,omitempty"` // of doStart: what follows are frames, if the client is attached
	OK     bool             `json:"ok,omitempty"`
	Status *Status          `json:"status,omitempty"`
	State  *instance.State  `json:"state,omitempty"`
	Ports  []port.Published `json:"ports,omitempty"`
	Error  *failure         `json:"error,omitempty"`
}

// failure is an error on its way between two processes.
type failure struct {
	Kind    fault.Kind `json:"kind"`
	Message string     `json:"message"`
	Hint    string     `json:"hint,omitempty"`
	Code    int        `json:"code,omitempty"` // the exit code of a command that could not be started
	// Errno is the system's number for what went wrong, 0 where it has none.
	Errno syscall.Errno `json:"errno,omitempty"`
	// Boot has the parts of a *vm.BootError.
	Boot *vm.BootError `json:"boot,omitempty"`
}

func failureOf(err error) *failure {
	f := &failure{Kind: fault.KindOf(err), Message: err.Error(), Hint: fault.HintOf(err)}
	_, _ = errors.As(err, &f.Boot), errors.As(err, &f.Errno)
	var start *StartError
	if errors.As(err, &start) {
		f.Code = start.Code
	}
	return f
}

// exitCode is what a VM exits with that did not come to run its command.
func (f *failure) exitCode() int { return max(f.Code, 1) }

func (f *failure) err() error {
	switch {
	case f.Boot != nil:
		return fault.New(f.Kind, f.Boot, f.Hint)
	case f.Code != 0:
		return &StartError{Message: f.Message, Code: f.Code}
	}
	return fault.New(f.Kind, told{f.Message, f.Errno}, f.Hint)
}

// told is an error of another process, in its words.
type told struct {
	message string
	errno   syscall.Errno
}

// Error returns the words.
func (t told) Error() string { return t.message }

// Is reports whether target is its number.
func (t told) Is(target error) bool { return t.errno != 0 && target == error(t.errno) }

// StartError is the VM's command that could not be started, with docker's exit code for that.
type StartError struct {
	Message string
	Code    int
}

// Error returns the agent's words.
func (e *StartError) Error() string { return e.Message }

// ErrGone is a monitor that ended before it answered: it was killed.
var ErrGone = errors.New("the VM's monitor ended without an answer")

func gone(err error) error { return fmt.Errorf("%w: %w", ErrGone, err) }
