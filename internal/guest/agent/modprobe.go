package agent

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// modprobePath is the program that the kernel starts when it wants a module (its default, CONFIG_MODPROBE_PATH).
	modprobePath = "/sbin/modprobe"
	// modprobeSetting is where the kernel is told to start another.
	modprobeSetting = "/proc/sys/kernel/modprobe"
	// kvmAlias is /dev/kvm (KVM_MINOR of include/linux/miscdevice.h), which belongs to a driver for each kind of CPU.
	kvmAlias = "char-major-10-232"
)

// serveModules makes this program the kernel's modprobe. Most images have none; one that is there, or comes later, is
// still used.
func serveModules() error {
	if err := os.WriteFile(modprobeSetting, []byte(agentPath), 0o644); err != nil {
		return fmt.Errorf("setting %q: %w", modprobeSetting, err)
	}
	return nil
}

// isModprobe reports whether args are what the kernel starts its modprobe with (call_modprobe of kernel/kmod.c).
func isModprobe(args []string) bool { return len(args) == 4 && args[1] == "-q" && args[2] == "--" }

// modprobe loads what the kernel asks for, and returns the exit code.
func modprobe(args []string) int {
	name := args[3]
	if name != kvmAlias && executable(modprobePath) {
		err := unix.Exec(modprobePath, append([]string{modprobePath}, args[1:]...), os.Environ())
		console{os.Stderr}.say("starting %q: %v", modprobePath, err)
		return 1
	}
	dir, err := moduleDir("/")
	if err != nil {
		return 1
	}
	names := []string{name}
	if name == kvmAlias {
		names = virtualization("/proc/cpuinfo")
	}
	for _, file := range findModules(dir, names) {
		if err := loadModule(filepath.Join(dir, file)); err != nil {
			return 1
		}
	}
	return 0
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// moduleDir returns where the modules of the running kernel are, below root.
func moduleDir(root string) (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("asking for the kernel's release: %w", err)
	}
	return filepath.Join(root, "lib/modules", unix.ByteSliceToString(name.Release[:])), nil
}

// virtualization returns the driver of the CPU's virtualization, if it has any.
func virtualization(cpuinfo string) []string {
	text, _ := os.ReadFile(cpuinfo)
	for _, flag := range strings.Fields(string(text)) {
		switch flag {
		case "vmx":
			return []string{"kvm_intel"}
		case "svm":
			return []string{"kvm_amd"}
		}
	}
	return nil
}

// findModules returns the files, relative to dir, of the modules that names are, or are aliases of, in the order in
// which they have to be loaded.
func findModules(dir string, names []string) []string {
	dependencies, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil
	}
	aliases, _ := os.ReadFile(filepath.Join(dir, "modules.alias"))
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[underscores(name)] = true
		for _, module := range aliased(string(aliases), name) {
			wanted[underscores(module)] = true
		}
	}
	var files []string
	for line := range strings.Lines(string(dependencies)) { // "FILE: DEPENDENCY…", to be loaded from the end on
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !wanted[moduleName(file)] {
			continue
		}
		before := strings.Fields(needs)
		for i := len(before) - 1; i >= 0; i-- {
			files = append(files, before[i])
		}
		files = append(files, file)
	}
	return files
}

// aliased returns the modules that have name as an alias: lines of "alias PATTERN MODULE".
func aliased(text, name string) []string {
	var modules []string
	name = underscores(name)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "alias" {
			continue
		}
		if ok, err := path.Match(underscores(fields[1]), name); ok && err == nil {
			modules = append(modules, fields[2])
		}
	}
	return modules
}

// underscores has "_" for "-": module names do not tell them apart. No alias that a kernel asks for by itself has
// a range in brackets.
func underscores(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName returns the name of the module in a file such as kernel/fs/fuse/fuse.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return underscores(name)
}

// prepareModules sets up what needs modules: the kernel's way to them, and the device nodes that load them.
func prepareModules() error {
	dir, err := moduleDir("/")
	if err != nil || !exists(filepath.Join(dir, "modules.dep")) {
		return err // a kernel without modules
	}
	return errors.Join(serveModules(), makeDevices("/dev", staticDevices(dir)))
}
