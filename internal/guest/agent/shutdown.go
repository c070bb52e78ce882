package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// termLimit is how long processes have to end by themselves at a shutdown, killLimit how long the kernel may take
	// to end the rest.
	termLimit = 5 * time.Second
	killLimit = 2 * time.Second

	// clearLoop is LOOP_CLR_FD of include/uapi/linux/loop.h, freeze is FIFREEZE, _IOWR('X', 119, int), of
	// include/uapi/linux/fs.h.
	clearLoop = 0x4c01
	freeze    = 0xc0045877
)

// endProcesses asks every process to end, and kills those that do not.
func (s *supervisor) endProcesses() {
	_ = syscall.Kill(-1, syscall.SIGTERM)
	// A shell in the foreground ignores SIGTERM and ends at a hangup.
	_ = syscall.Kill(-1, syscall.SIGHUP)
	_ = syscall.Kill(-1, syscall.SIGCONT)
	if s.waitForAll(termLimit) {
		return
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	s.waitForAll(killLimit)
}

// waitForAll waits until no process is left: every one is a child of process 1 or becomes one.
func (s *supervisor) waitForAll(limit time.Duration) bool {
	end := time.After(limit)
	for {
		select {
		case pid := <-s.ended:
			if pid == noChildren {
				return true
			}
		case <-end:
			return false
		}
	}
}

// leaveDisks leaves every disk as a clean shutdown does, whatever was going on: without swap, with each file system
// unmounted, and the root read-only. No process is left but this one and those that the kernel could not end.
func leaveDisks() []error {
	failed := endSwap("/proc/swaps")
	// A loop device keeps the file system busy that has its file. What is busy otherwise is cut off in the last round.
	for _, flags := range []int{0, 0, unix.MNT_DETACH} {
		unmountAll(flags)
		clearLoops("/sys/block", "/dev")
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		failed = append(failed, fmt.Errorf("making the root read-only: %w", err), freezeRoot("/"))
	}
	return slices.DeleteFunc(failed, func(err error) bool { return err == nil })
}

// endSwap ends every swap area of a text like /proc/swaps, whose first line has titles.
func endSwap(list string) []error {
	text, _ := os.ReadFile(list) // absent without CONFIG_SWAP
	var failed []error
	for i, line := range strings.Split(string(text), "\n") {
		file, _, ok := strings.Cut(line, " ")
		if i == 0 || !ok {
			continue
		}
		path, err := unix.BytePtrFromString(unescape(file))
		if err != nil {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
			failed = append(failed, fmt.Errorf("ending the swap area %q: %w", file, errno))
		}
	}
	return failed
}

// unmountAll unmounts what it can, the last mounted first.
func unmountAll(flags int) {
	text, _ := os.ReadFile("/proc/self/mounts")
	for _, m := range unmountOrder(string(text)) {
		how := flags
		if m.remote {
			how = unix.MNT_FORCE | unix.MNT_DETACH // its server may never answer
		}
		_ = unix.Unmount(m.target, how)
	}
}

// mountpoint is a place where something is mounted.
type mountpoint struct {
	target string
	remote bool // who has the data is not this kernel
}

// clearLoops takes the files away from the loop devices that are not in use.
func clearLoops(sysfs, dev string) {
	files, _ := filepath.Glob(filepath.Join(sysfs, "loop*", "loop", "backing_file"))
	for _, file := range files {
		name := filepath.Base(filepath.Dir(filepath.Dir(file)))
		if device, err := os.Open(filepath.Join(dev, name)); err == nil {
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, device.Fd(), clearLoop, 0)
			_ = device.Close()
		}
	}
}

// freezeRoot writes the root so that nothing is left to recover, although somebody still has files open for writing:
// ext4 then empties its journal and takes the mark of a mounted file system away (ext4_freeze of fs/ext4/super.c).
func freezeRoot(root string) error {
	dir, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("freezing the root: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), freeze, 0); errno != 0 {
		return fmt.Errorf("freezing the root: %w", errno)
	}
	return nil
}

// unmountOrder returns the places in a text like /proc/self/mounts, the last mounted first, without the root and what has
// nothing to write: the kernel's own file systems and those in memory. Each unmounting takes milliseconds.
func unmountOrder(mounts string) []mountpoint {
	var order []mountpoint
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		target := unescape(fields[1])
		first, _, _ := strings.Cut(strings.TrimPrefix(target, "/"), "/")
		if target != "/" && first != "proc" && first != "sys" && first != "dev" && !inMemory(fields[2]) {
			order = append(order, mountpoint{target, isRemote(fields[2])})
		}
	}
	slices.Reverse(order)
	return order
}

// inMemory reports whether a type of file systems has its files in memory.
func inMemory(fstype string) bool {
	return fstype == "tmpfs" || fstype == "ramfs" || fstype == "rootfs" || fstype == "nsfs"
}

// isRemote reports whether a type of file systems is a network's, or a program's.
func isRemote(fstype string) bool {
	switch name, _, _ := strings.Cut(fstype, "."); name {
	case "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse":
		return true
	}
	return false
}

// unescape undoes the octal escapes that the kernel writes for blanks, newlines and backslashes (fs/proc_namespace.c,
// mangle).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}
