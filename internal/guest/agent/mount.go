package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one of the file systems that the kernel makes up, and its place.
type mount struct {
	target  string
	fstype  string
	flags   uintptr
	data    string
	dirMode os.FileMode // of the directory, if it has to be made
}

// earlyMounts are what the initramfs needs and hands over.
func earlyMounts() []mount {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		{"/proc", "proc", flags, "", 0o555},
		{"/sys", "sysfs", flags, "", 0o555},
		{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", 0o755},
	}
}

// initMounts are what every program may expect, beside the early ones and /run. /tmp is the image's own, as with
// docker.
func initMounts() []mount {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mount{
		// Group 5 is tty by old custom; the mode is what mesg(1) expects, the ptmx mode what lets any user open one.
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", 0o755},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777", 0o1777},
		{"/dev/mqueue", "mqueue", flags, "", 0o755},
		{cgroupRoot, "cgroup2", flags, "nsdelegate", 0o755},
	}
}

// shareMounts makes every mount shared, as systemd does: what is mounted then appears in the mount namespaces that are
// made later, which container engines need for their volumes.
func shareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("sharing the mounts: %w", err)
	}
	return nil
}

// mountAll mounts what is in the table below root, and makes the directories that are missing. It goes on after an
// error. What is mounted already is left alone.
func mountAll(root string, table []mount) error {
	var failed []error
	for _, m := range table {
		target := filepath.Join(root, m.target)
		err := os.MkdirAll(target, m.dirMode)
		if err == nil && !mounted(target) {
			err = unix.Mount(m.fstype, target, m.fstype, m.flags, m.data)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("mounting %s at %q: %w", m.fstype, m.target, err))
		}
	}
	return errors.Join(failed...)
}

// mounted reports whether something is mounted at dir: then it is on another device than its parent.
func mounted(dir string) bool {
	var own, parent unix.Stat_t
	return unix.Stat(dir, &own) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && own.Dev != parent.Dev
}

// linkDevices makes the names that programs expect in /dev and that udev would make.
func linkDevices(dev string) error {
	var failed []error
	for _, link := range [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
	} {
		err := os.Symlink(link[0], filepath.Join(dev, link[1]))
		if err != nil && !errors.Is(err, os.ErrExist) {
			failed = append(failed, fmt.Errorf("making the device link %q: %w", link[1], err))
		}
	}
	return errors.Join(failed...)
}

// maxLinks is how many symbolic links one path may go through (MAXSYMLINKS of include/linux/namei.h).
const maxLinks = 40

// resolveIn returns the path on this system of path inside root, with symbolic links followed as if root were /. What
// does not exist is kept as it is written.
func resolveIn(root, path string) (string, error) {
	resolved, links := "/", 0
	todo := strings.Split(path, "/")
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		next := filepath.Join(resolved, name) // a ".." at the root stays there
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil || name == "" || name == "." || name == ".." {
			resolved = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolving %q: %w", path, unix.ELOOP)
		}
		if filepath.IsAbs(target) {
			resolved = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return filepath.Join(root, resolved), nil
}
