package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// moduleList names the modules to load, and marks an initramfs of banger's.
	moduleList = "/banger/modules.list"
	// initramfsProgram is this program in the initramfs.
	initramfsProgram = "/init"
	// newRoot is where the root disk is mounted before it becomes the root.
	newRoot = "/root"
	// diskLimit is how long the kernel may take to find the root disk.
	diskLimit = 20 * time.Second

	// rootOptions have the kernel zero the inode tables of new groups while the file system grows
	// (ext4_setup_next_flex_gd of fs/ext4/resize.c), and not afterwards in the background, at a tenth of the speed. It
	// asks the disk to write zeros (setup_new_flex_group_blocks), which the overlay notes without storing them.
	rootOptions = "noinit_itable"

	rootSerial    = "banger-root"
	modulesSerial = "banger-modules"
)

// runInitramfs boots from the initramfs into the root disk. It does not return.
func runInitramfs() {
	mountErr := errors.Join(mountAll("/", earlyMounts()), adoptConsole("/dev/console"))
	out := console{os.Stderr}
	if mountErr != nil {
		out.say("%v", mountErr)
	}
	out.fatal(handOver(out))
}

// handOver ends in the program that the host wants as process 1, or in an error.
func handOver(out console) error {
	line, err := readCommandLine("/proc/cmdline")
	if err != nil {
		return err
	}
	if line.init == "" {
		return errors.New("the kernel's command line has no banger.init")
	}
	out.step("modules")
	loaded, err := loadModules(out)
	if err != nil {
		return err
	}
	out.step("root")
	disk, err := mountRoot(out, line.modules)
	if err != nil {
		return err
	}
	<-loaded
	if line.grow {
		out.step("grow")
		if err := grow(disk, newRoot); err != nil {
			return err
		}
	}
	if line.hostname != "" {
		_ = unix.Sethostname([]byte(line.hostname)) // the agent does it again, and says why it fails
	}
	kept, err := renew(initramfsProgram, newRoot)
	if err != nil {
		out.say("%v", err)
	}
	out.step("handover")
	if err := switchRoot(kept); err != nil {
		return err
	}
	if line.spawn {
		if err := spawnAgent(); err != nil {
			return err
		}
	}
	if line.init == agentPath && kept {
		runInit() // the same program, whose start would take an emulated processor another tenth of a second
	}
	argv := []string{line.init}
	if line.init == agentPath {
		argv = append(argv, "init")
	}
	err = unix.Exec(line.init, argv, os.Environ())
	return fmt.Errorf("starting the init %q of the image: %w", line.init, err)
}

// spawnAgent starts the agent as a child of process 1, for an init that knows nothing of it. Nobody starts it again.
func spawnAgent() error {
	process, err := os.StartProcess(agentPath, []string{agentPath, "agent"}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("starting the agent beside the image's init: %w", err)
	}
	return process.Release()
}

// rootModules are what the root needs. With the last of them in the list it can be mounted.
func rootModules() []string { return []string{"virtio_blk", "ext4"} }

// pciDevices has an entry for each device on a PCI bus.
const pciDevices = "/sys/bus/pci/devices"

// loadModules loads the listed modules in their order. It returns when those are loaded that the root needs; loaded is
// closed when all are. One that does not load is reported: what matters is whether the disks appear.
func loadModules(out console) (loaded <-chan struct{}, err error) {
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return nil, fmt.Errorf("reading the list of modules: %w", err)
	}
	first, rest := splitModules(strings.Fields(string(list)), isEmpty(pciDevices))
	out.load(first)
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.load(rest)
	}()
	return done, nil
}

// splitModules splits the files of modules, such as 06-virtio_blk.ko, after the last that the root needs. The drivers of a
// PCI bus are left out if the machine has none.
func splitModules(files []string, noPCI bool) (first, rest []string) {
	if noPCI {
		files = slices.DeleteFunc(files, func(file string) bool { return strings.HasPrefix(moduleOf(file), "virtio_pci") })
	}
	split := 0
	for i, file := range files {
		if slices.Contains(rootModules(), moduleOf(file)) {
			split = i + 1
		}
	}
	return files[:split], files[split:]
}

// moduleOf returns the name of the module in a file NN-NAME.ko.
func moduleOf(file string) string {
	_, file, _ = strings.Cut(file, "-")
	return moduleName(file)
}

// load loads modules of the initramfs.
func (c console) load(files []string) {
	for _, name := range files {
		if err := loadModule(filepath.Join(filepath.Dir(moduleList), name)); err != nil {
			c.say("loading the module %q: %v", name, err)
		}
	}
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) { // it is loaded, or built in
		return nil
	}
	return err
}

// mountRoot mounts the root disk, and the module disk in it if there is one, which a VM can do without. It returns the root
// disk's device.
func mountRoot(out console, modules bool) (device string, err error) {
	disk, err := waitForDisk("/sys/block", rootSerial, diskLimit)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return "", fmt.Errorf("making %q: %w", newRoot, err)
	}
	device = "/dev/" + disk
	if err := mountDisk(device, newRoot, 0, rootOptions); err != nil {
		return "", fmt.Errorf("mounting the root disk %q as ext4: %w", device, err)
	}
	if modules {
		find := func() (string, error) { return waitForDisk("/sys/block", modulesSerial, diskLimit) }
		if err := mountModules(find, newRoot); err != nil {
			out.say("%v", err)
		}
	}
	return device, nil
}

// mountDisk mounts the ext4 file system of a disk that has been found.
func mountDisk(device, target string, flags uintptr, options string) error {
	return whenReady(diskLimit, func() error { return unix.Mount(device, target, "ext4", flags, options) })
}

// whenReady uses a disk until that does not fail for the reason that the disk is not ready. It is in /sys before its file is
// in /dev (drivers/base/core.c, device_add), and that before it can be opened (block/genhd.c, device_add_disk: bdev_add).
func whenReady(limit time.Duration, use func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := use()
		if !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENOENT) || time.Now().After(end) {
			return err
		}
	}
}

// isEmpty reports whether there is nothing in a directory, or no directory.
func isEmpty(dir string) bool {
	entries, _ := os.ReadDir(dir)
	return len(entries) == 0
}

// findDisk returns the name of the virtio disk with the given serial, from a directory like /sys/block.
func findDisk(sysfs, serial string) (string, bool) {
	files, _ := filepath.Glob(filepath.Join(sysfs, "*", "serial"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == serial {
			return filepath.Base(filepath.Dir(file)), true
		}
	}
	return "", false
}

func waitForDisk(sysfs, serial string, limit time.Duration) (string, error) {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if disk, ok := findDisk(sysfs, serial); ok {
			return disk, nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no disk with the serial %q appeared within %v (the kernel found %s)", serial, limit, disks(sysfs))
		}
	}
}

// disks names what is in /sys/block, for a message.
func disks(sysfs string) string {
	entries, _ := os.ReadDir(sysfs)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return "no disks at all"
	}
	return strings.Join(names, ", ")
}

// mountModules mounts the module disk where /lib/modules of root leads. An image without /lib does without.
func mountModules(find func() (disk string, err error), root string) error {
	place, err := resolveIn(root, "/lib/modules")
	if err != nil {
		return fmt.Errorf("finding /lib/modules in the image: %w", err)
	}
	err = os.Mkdir(place, 0o755)
	switch {
	case missing(err):
		return nil
	case err != nil && !errors.Is(err, os.ErrExist):
		return fmt.Errorf("making /lib/modules in the image: %w", err)
	}
	disk, err := find()
	if err != nil {
		return fmt.Errorf("finding the module disk: %w", err)
	}
	if err := mountDisk("/dev/"+disk, place, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mounting the module disk %q: %w", disk, err)
	}
	return nil
}

// switchRoot makes newRoot the root and frees the initramfs (Documentation/filesystems/ramfs-rootfs-initramfs.rst: it
// can neither be unmounted nor pivoted away), but for this program if it is kept.
func switchRoot(kept bool) error {
	for _, m := range earlyMounts() {
		target := newRoot + m.target
		if err := os.MkdirAll(target, m.dirMode); err != nil {
			return fmt.Errorf("making %q in the image: %w", m.target, err)
		}
		if err := unix.Mount(m.target, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %q into the image: %w", m.target, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root disk: %w", err)
	}
	removeInitramfs(kept)
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root disk to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return os.Chdir("/")
}

// removeInitramfs gives the initramfs's memory back. It leaves everything alone if / is not the initramfs.
func removeInitramfs(kept bool) {
	if !exists(moduleList) {
		return
	}
	var root syscall.Stat_t
	if syscall.Stat("/", &root) != nil {
		return
	}
	entries, _ := os.ReadDir("/")
	for _, e := range entries {
		var st syscall.Stat_t
		path := "/" + e.Name()
		if kept && path == initramfsProgram {
			continue
		}
		if syscall.Lstat(path, &st) == nil && st.Dev == root.Dev {
			_ = os.RemoveAll(path)
		}
	}
}
