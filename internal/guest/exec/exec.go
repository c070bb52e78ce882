// Package exec runs commands in the guest, one per stream of a channel: the host's half (Run, Hello, WaitBoot,
// Poweroff) and the agent's half (Guest).
//
// A stream carries frames (package frame): one request of the host, then standard input, terminal sizes and signals in
// one direction, and standard output, standard error and the result in the other. docs/guest-protocol.md is the
// specification.
package exec

import (
	"syscall"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// stdinWindow is how many bytes of standard input may be on their way to a command. It keeps a command that does not
// read from holding up the signals and sizes behind its input.
const stdinWindow = 128 << 10

// The exit codes that docker and the shells give to a command that could not be started.
const (
	CodeNotExecutable = 126 // also for an unknown user or an unusable directory
	CodeNotFound      = 127
	codeSignal        = 128 // plus the number of the signal that ended the command
)

// Size is the size of a terminal in characters.
type Size struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Command says what to run in the guest. What is left empty comes from the config of the image.
type Command struct {
	// Argv is the program and its arguments. The program is looked up on the guest's PATH if it has no slash. An empty
	// Argv runs the image's Entrypoint and Cmd.
	Argv []string `json:"argv,omitempty"`
	// Env is added to the image's environment: KEY=VALUE sets KEY, an entry without "=" removes it.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory; "" is the image's WorkingDir, or /. A directory that is missing is made.
	Dir string `json:"dir,omitempty"`
	// User is NAME, UID, NAME:GROUP or UID:GID as the image knows them; "" is the image's User, or root.
	User string `json:"user,omitempty"`
	// TTY gives the command a terminal of this size, on which standard output and error are one stream.
	TTY   *Size `json:"tty,omitempty"`
	Stdin bool  `json:"stdin,omitempty"` // false: standard input is empty (or the silent terminal)
	// Login gives what a login gives: HOME, USER, LOGNAME and SHELL of the user over the image's environment, and their
	// home as the working directory. An empty Argv then is the user's shell as a login shell, one element is a command
	// line for that shell, and more are a program and its arguments. An image without the user's shell has another one
	// asked; without any, a command line is split into words, and is refused if it takes more than that.
	Login bool `json:"login,omitempty"`
	// Detach starts the command without streams, for Start alone. It outlives the stream and the session.
	Detach bool `json:"detach,omitempty"`
}

// detached is the reply to a command that was detached.
type detached struct {
	PID int `json:"pid"`
}

// Info is what an agent says about itself.
type Info struct {
	Protocol int    `json:"protocol"` // its frame.Version
	Agent    string `json:"agent"`    // the version of the agent, see package embedded
	Init     string `json:"init"`     // "guest" or "systemd"
}

// Code returns the exit code that docker gives to a command that was refused.
func Code(refused *frame.Refusal) int {
	if refused.Reason == frame.NotFound {
		return CodeNotFound
	}
	return CodeNotExecutable
}

// The requests.
const (
	doExec     = "exec"
	doHello    = "hello"
	doPoweroff = "poweroff"
	doWaitBoot = "wait-boot"
	doUser     = "user"
)

// maxSignal is the largest number of a signal (_NSIG of the kernel's include/uapi/asm/signal.h).
const maxSignal = 64

// End is how a command ended: with Code, or by Signal when that is not zero.
type End struct {
	Code   int            `json:"code"`
	Signal syscall.Signal `json:"signal,omitempty"`
}

// ExitCode returns the exit code as docker gives it.
func (e End) ExitCode() int {
	if e.Signal != 0 {
		return codeSignal + int(e.Signal)
	}
	return e.Code
}
