// Package qemu boots a vm.Spec with QEMU: the microvm machine, as an ordinary user, with KVM where the host has it and
// software emulation otherwise. docs/vm.md describes a machine's files and how a failed boot is told.
package qemu

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/banger-vm/banger/internal/guest/machine"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm"
)

const (
	// syncLimit is how long a guest that does not power off may take to write to its disks.
	syncLimit = 5 * time.Second
	// exitLimit is how long QEMU may take to end after it has closed the channel.
	exitLimit = 2 * time.Second
	// maxConsole is how much of the end of a console log is read, in bytes.
	maxConsole = 4 << 20
	// maxWords is how much of the end of QEMU's log an error has, in bytes.
	maxWords = 4 << 10
)

// Machine is a running VM. It is safe for concurrent use.
type Machine struct {
	spec    vm.Spec
	files   files
	log     string // what QEMU printed
	process *system.Process
	newDisk bool          // it was made by this start
	socket  *os.File      // the place of the channel's socket (open(2), O_PATH); nil before it is first dialled
	keeper  *keeper       // of the channel to the agent; nil before the boot is over
	kept    chan struct{} // closed when the keeper has ended
	killed  atomic.Bool
	done    chan struct{}
}

// PID returns the process id of QEMU.
func (m *Machine) PID() int { return m.process.PID() }

// Done is closed when the machine has ended and its sockets are removed.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Kill ends the machine at once, as if its power was cut. Killing one that has ended does nothing.
func (m *Machine) Kill() {
	m.killed.Store(true)
	m.process.Kill()
}

// Wait waits for the end of the machine. It returns nil if the guest powered off or restarted, or Kill was called, and
// else what happened: the guest's kernel panicked, or QEMU failed.
func (m *Machine) Wait() error {
	<-m.done
	if m.killed.Load() {
		return nil
	}
	if err := m.process.Wait(); err != nil {
		return fmt.Errorf("running the VM %q: %w", m.spec.Name, withWords(err, m.log))
	}
	if line, ok := vm.Panic(readTail(m.files.console)); ok {
		return fmt.Errorf("running the VM %q: %s", m.spec.Name, line)
	}
	return nil
}

// Shutdown asks the guest to power off and waits for it. A guest that has not done so before ctx ends has its disks
// synced, if it can do that, and is killed, which is an error.
func (m *Machine) Shutdown(ctx context.Context) error {
	err := m.keeper.powerOff(ctx)
	select {
	case <-m.done:
		return nil
	default:
	}
	if err == nil {
		err = m.await(ctx)
	}
	if err == nil {
		return nil
	}
	m.sync()
	m.Kill()
	<-m.done
	return fmt.Errorf("shutting down the VM %q, which was then killed: %w", m.spec.Name, err)
}

// sync has the guest write to its disks what it holds.
func (m *Machine) sync() {
	ctx, cancel := context.WithTimeout(context.Background(), syncLimit)
	defer cancel()
	if stream, err := m.Open(ctx); err == nil {
		_ = machine.Sync(ctx, stream)
	}
}

func (m *Machine) await(ctx context.Context) error {
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the guest to power off: %w", context.Cause(ctx))
	}
}

// cleanUp closes what the machine's end leaves behind.
func (m *Machine) cleanUp() {
	<-m.process.Done()
	if m.keeper != nil {
		<-m.kept
	}
	_ = m.socket.Close() // an error where nobody has dialled
	_ = os.Remove(m.files.socket)
	close(m.done)
}

// words returns what QEMU printed last, on one line.
func words(log string) string {
	text := readTail(log)
	text = text[max(0, len(text)-maxWords):]
	return strings.Join(strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// withWords adds QEMU's words to the error of its process.
func withWords(err error, log string) error {
	if text := words(log); text != "" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// readTail returns the end of a log, or nothing if it cannot be read.
func readTail(path string) []byte {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > maxConsole {
		_, _ = file.Seek(-maxConsole, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(file, maxConsole))
	return text
}
