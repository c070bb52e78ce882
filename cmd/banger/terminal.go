package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// terminal is the user's terminal while a guest's command has it.
type terminal struct {
	fd      int
	state   *term.State // nil: nothing to restore
	resized chan os.Signal
}

// attach connects a command's streams to the user's, to the terminal if tty says so, and has signals passed on to the
// command once it runs.
func (a *app) attach(streams *engine.Streams, tty, interactive bool) (*terminal, error) {
	signals := make(chan syscall.Signal, impatience)
	streams.Signals, streams.Stdout, streams.Stderr = signals, a.stdout, a.stderr
	if interactive {
		streams.Stdin = a.stdin
	}
	t := &terminal{fd: int(a.stdin.Fd())}
	streams.Started = func() error {
		a.interrupts.forwardTo(signals)
		if !tty || !interactive { // without -i nobody would read the keys, and Ctrl-C has to stay a signal
			return nil
		}
		return t.raw()
	}
	if !tty {
		return t, nil
	}
	if !term.IsTerminal(t.fd) {
		return nil, usage(errors.New("-t needs a terminal on standard input"), "leave -t out")
	}
	size, err := t.size()
	if err != nil {
		return nil, err
	}
	streams.TTY = &size
	streams.Resize = t.watch()
	return t, nil
}

// raw hands every key to the guest, once there is a guest to take it.
func (t *terminal) raw() error {
	state, err := term.MakeRaw(t.fd)
	if err != nil {
		return fmt.Errorf("preparing the terminal: %w", err)
	}
	t.state = state
	return nil
}

func (t *terminal) size() (exec.Size, error) {
	columns, rows, err := term.GetSize(t.fd)
	if err != nil {
		return exec.Size{}, fmt.Errorf("asking the terminal for its size: %w", err)
	}
	return exec.Size{Rows: uint16(rows), Columns: uint16(columns)}, nil
}

// watch reports the terminal's size whenever it changes.
func (t *terminal) watch() <-chan exec.Size {
	sizes := make(chan exec.Size, 1)
	t.resized = make(chan os.Signal, 1)
	signal.Notify(t.resized, syscall.SIGWINCH)
	go func() {
		for range t.resized {
			if size, err := t.size(); err == nil {
				sizes <- size
			}
		}
	}()
	return sizes
}

// restore gives the terminal back as it was.
func (t *terminal) restore() {
	if t.resized != nil {
		signal.Stop(t.resized)
		close(t.resized)
	}
	if t.state != nil {
		_ = term.Restore(t.fd, t.state)
	}
}

// startOrRunError gives a command that could not be started in the guest docker's codes, 126 and 127, and everything
// else banger's own.
func startOrRunError(err error) error {
	var refused *frame.Refusal
	if errors.As(err, &refused) {
		return codedError{error: err, code: exec.Code(refused)}
	}
	var start *monitor.StartError
	if errors.As(err, &start) {
		return codedError{error: err, code: start.Code}
	}
	if fault.KindOf(err) == fault.Usage {
		return err
	}
	return codedError{error: err, code: exitOfRun}
}

// printOfRun prints what is known of a command that was left running.
func (a *app) printOfRun(line string) error {
	if _, err := fmt.Fprintln(a.stdout, line); err != nil {
		return startOrRunError(err)
	}
	return nil
}

func exitOf(code int) error {
	if code == 0 {
		return nil
	}
	return guestExit(code)
}

// onTerminal reports whether standard input is a terminal.
func (a *app) onTerminal() bool { return term.IsTerminal(int(a.stdin.Fd())) }
