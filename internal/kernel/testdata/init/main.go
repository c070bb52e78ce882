// Command init loads the modules of an initramfs that package kernel made, says what the kernel then has, and ends.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"
)

func main() {
	for _, dir := range []string{"proc", "sys"} {
		check(os.MkdirAll("/"+dir, 0o755))
		check(syscall.Mount(dir, "/"+dir, map[string]string{"proc": "proc", "sys": "sysfs"}[dir], 0, ""))
	}
	list, err := os.ReadFile("/banger/modules.list")
	check(err)
	for _, name := range strings.Fields(string(list)) {
		fmt.Printf("init: load %s: %v\n", name, load("/banger/"+name))
	}
	systems, err := os.ReadFile("/proc/filesystems")
	check(err)
	fmt.Printf("init: ext4 %v\n", strings.Contains(string(systems), "\text4\n"))
	disks, err := filepath.Glob("/sys/block/vd*/serial")
	check(err)
	for _, disk := range disks {
		serial, err := os.ReadFile(disk)
		check(err)
		fmt.Printf("init: disk %s\n", serial)
	}
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	check(err)
	for _, port := range ports {
		name, err := os.ReadFile(port)
		check(err)
		fmt.Printf("init: port %s", name)
	}
	end()
}

func load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	empty := [1]byte{}
	const finitModule = 313 // x86-64
	_, _, errno := syscall.Syscall(finitModule, file.Fd(), uintptr(unsafe.Pointer(&empty)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Println("init: failed:", err)
		end()
	}
}

func end() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}
