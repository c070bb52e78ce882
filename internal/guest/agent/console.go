package agent

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// console is where the host reads what happens while there is no channel.
type console struct{ w io.Writer }

// openConsole opens the kernel's console, or falls back on standard error.
func openConsole(device string) console {
	file, err := os.OpenFile(device, os.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return console{os.Stderr}
	}
	return console{file}
}

// say prints a line that the host knows as the agent's. It is one write, so that lines of others do not mix with it.
func (c console) say(format string, args ...any) {
	_, _ = fmt.Fprintf(c.w, "banger-guest: "+format+"\n", args...)
}

// sayAll prints those of errs that are errors.
func (c console) sayAll(errs ...error) {
	for _, err := range errs {
		if err != nil {
			c.say("%v", err)
		}
	}
}

// step prints that a step of the boot begins: modules, root, handover, agent.
func (c console) step(name string) { c.say("step %s", name) }

// fatal prints why the boot cannot go on, and ends the VM.
func (c console) fatal(err error) {
	c.say("fatal: %v", err)
	powerOff()
}

// powerOff ends the VM and does not return. A machine without a power switch is restarted, which the VMM is told to take
// for the end; one without that either stays halted.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	for {
		time.Sleep(time.Hour)
	}
}

// adoptConsole makes the kernel's console the standard input, output and error of process 1. The kernel starts it
// without any if the initramfs has no /dev/console, and then the first files that it opens would be taken for them.
func adoptConsole(device string) error {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("opening %q: %w", device, err)
	}
	for target := range 3 {
		if fd == target {
			continue
		}
		if err := unix.Dup3(fd, target, 0); err != nil {
			return fmt.Errorf("making %q the standard streams: %w", device, err)
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}
