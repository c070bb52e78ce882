package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// What a shutdown has to cope with. Each verb returns when it is so.

// The ioctls of include/uapi/linux/loop.h and FIFREEZE of include/uapi/linux/fs.h.
const (
	loopSetFile = 0x4c00
	loopGetFree = 0x4c82
	freeze      = 0xc0045877
)

func ioctl(file *os.File, request, argument uintptr) (int, error) {
	n, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), request, argument)
	if errno != 0 {
		return 0, fmt.Errorf("ioctl %#x: %w", request, errno)
	}
	return int(n), nil
}

// mountLoop mounts the ext4 image at dir, and writes a file to it.
func mountLoop(image, dir string) error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	number, err := ioctl(control, loopGetFree, 0)
	if err != nil {
		return err
	}
	name := "/dev/loop" + strconv.Itoa(number)
	device, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	backing, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err := ioctl(device, loopSetFile, backing.Fd()); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount(name, dir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", name, err)
	}
	return os.WriteFile(filepath.Join(dir, "inside"), []byte("inside"), 0o600)
}

// mountOverlay mounts an overlay of the root file system, as container engines do, and writes a file to it.
func mountOverlay(dir string) error {
	options := ""
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		options += "," + name + "=" + path
	}
	merged := filepath.Join(dir, "merged")
	if err := os.MkdirAll(merged, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("overlay", merged, "overlay", 0, options[1:]); err != nil {
		return fmt.Errorf("mounting an overlay: %w", err)
	}
	return os.WriteFile(filepath.Join(merged, "file"), []byte("merged"), 0o600)
}

// swapOn makes a swap area of 1 MiB in file (the header of include/linux/swap.h) and uses it.
func swapOn(path string) error {
	const pages, page = 256, 4096
	area := make([]byte, pages*page)
	binary.LittleEndian.PutUint32(area[1024:], 1)       // version
	binary.LittleEndian.PutUint32(area[1028:], pages-1) // last page
	copy(area[page-10:], "SWAPSPACE2")
	if err := os.WriteFile(path, area, 0o600); err != nil {
		return err
	}
	syscall.Sync() // the kernel wants to know where the file is on the disk
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_SWAPON, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return fmt.Errorf("swapon: %w", errno)
	}
	return nil
}

// fillDisk writes to file until there is no room.
func fillDisk(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err := file.Write(block[:size]); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return err
		}
	}
	return file.Close()
}

// linger starts this program again, to run verb in the background until it is killed. It has started when it says so.
func linger(verb string, args ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/guesttool", append([]string{verb}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = w.Close()
	if word, err := io.ReadAll(io.LimitReader(r, 5)); err != nil || string(word) != "ready" {
		return fmt.Errorf("%s did not start: %q, %v", verb, word, err)
	}
	return nil
}

// sayReady tells linger that all is as it should be.
func sayReady() { _, _ = os.NewFile(3, "ready").WriteString("ready") }

// stubborn ignores every signal that it can, in dir, with a file that it writes to and one that is unlinked.
func stubborn(dir string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	if err := os.Chdir(dir); err != nil {
		return err
	}
	unlinked, err := os.Create(filepath.Join(dir, "unlinked"))
	if err != nil {
		return err
	}
	if err := os.Remove(unlinked.Name()); err != nil {
		return err
	}
	busy, err := os.Create(filepath.Join(dir, "busy"))
	if err != nil {
		return err
	}
	sayReady()
	for {
		_, _ = busy.WriteString("x")
		_, _ = unlinked.WriteString("x")
		time.Sleep(time.Millisecond)
	}
}

// stuck has a file of the root open for writing and waits in the kernel, for ever and whatever signal comes, for the file
// system at dir, which is frozen.
func stuck(dir string) error {
	root, err := os.Create("/stuck")
	if err != nil {
		return err
	}
	target, err := os.Open(dir)
	if err != nil {
		return err
	}
	if _, err := ioctl(target, freeze, 0); err != nil {
		return err
	}
	sayReady()
	_ = os.WriteFile(filepath.Join(dir, "never"), nil, 0o600)
	return root.Close()
}
