package exec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// defaultPath is docker's PATH for an image that sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment returns the environment of a command: what every command has, the image's over it, and over both the
// command's own.
func environment(image, own []string, home string, tty bool) []string {
	host, _ := os.Hostname()
	defaults := []string{"PATH=" + defaultPath, "HOSTNAME=" + host, "HOME=" + home}
	if tty {
		defaults = append(defaults, "TERM=xterm")
	}
	var env []string
	for _, entry := range append(append(defaults, image...), own...) {
		env = setVariable(env, entry)
	}
	return env
}

// setVariable adds KEY=VALUE to env, or replaces KEY in its place. An entry that is only KEY removes it, as in docker. An
// entry without a key is dropped.
func setVariable(env []string, entry string) []string {
	key, _, ok := strings.Cut(entry, "=")
	if key == "" {
		return env
	}
	if !ok {
		return slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
	}
	for i, e := range env {
		if strings.HasPrefix(e, key+"=") {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

// variable returns the value of key in env.
func variable(env []string, key string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, key+"="); ok {
			return value
		}
	}
	return ""
}

// lookUpProgram finds name as execvp(3) does: a name with a slash is a path, seen from dir, any other is searched for
// in the directories of path. A file that is there but cannot be executed is found only if no other can.
func lookUpProgram(name, path, dir string) (string, *frame.Refusal) {
	if name == "" {
		return "", frame.Refuse(frame.NotFound, "running the command: its name is empty")
	}
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	missing := frame.Refuse(frame.NotFound, "running %q: executable file not found in $PATH", name)
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if err.Reason == frame.NotExecutable {
			missing = err
		}
	}
	return "", missing
}

// executable says why file cannot be run, if that is known before trying.
func executable(file string) *frame.Refusal {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return frame.Refuse(frame.NotFound, "running %q: no such file or directory", file)
	case err != nil:
		return frame.Refuse(frame.NotExecutable, "running %q: %v", file, err)
	case info.IsDir():
		return frame.Refuse(frame.NotExecutable, "running %q: is a directory", file)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return frame.Refuse(frame.NotExecutable, "running %q: permission denied", file)
	}
	return nil
}

// refusal turns the kernel's answer to execve(2) into a frame.Refusal. The kernel says "no such file" also about a script's
// interpreter or a program's loader.
func refusal(file string, err error) *frame.Refusal {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return frame.Refuse(frame.NotExecutable, "running %q: %v", file, err)
	}
	if errno == syscall.ENOENT {
		return frame.Refuse(frame.NotFound, "running %q: its interpreter or loader is missing", file)
	}
	return frame.Refuse(frame.NotExecutable, "running %q: %v", file, errno)
}
