// Package system is the only way in which banger runs programs of the host: mkfs.ext4, debugfs, qemu.
//
// It finds a program (also in the sbin directories, which are not on an ordinary user's PATH), runs it with an
// environment that does not change its language, captures what it prints, and puts the program's own words into the
// error. A program that is missing is a fault that names the package to install.
package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// sbin are looked in after the PATH: e2fsprogs live there.
var sbin = [...]string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// packages says which package of Debian and Ubuntu has a program.
func packageOf(program string) string {
	switch program {
	case "mkfs.ext4", "mke2fs", "debugfs", "e2fsck", "dumpe2fs", "resize2fs":
		return "e2fsprogs"
	case "qemu-system-x86_64":
		return "qemu-system-x86"
	case "ssh":
		return "openssh-client"
	case "qemu-img":
		return "qemu-utils"
	}
	return program
}

// Command is one program to run.
type Command struct {
	Name  string // looked up by Find
	Args  []string
	Dir   string    // working directory; "" is the caller's
	Env   []string  // KEY=VALUE, added to the caller's environment
	Stdin io.Reader // nil is an empty input
}

// String returns the command as one would type it, for messages.
func (c Command) String() string {
	return strings.Join(append([]string{c.Name}, c.Args...), " ")
}

// Result is what a finished program printed.
type Result struct {
	Stdout []byte
	Stderr []byte
}

// Output returns both streams, trimmed, standard error last.
func (r Result) Output() string {
	return strings.TrimSpace(strings.TrimSpace(string(r.Stdout)) + "\n" + strings.TrimSpace(string(r.Stderr)))
}

// ExitError is a program that ran and failed. Its text has the program's own words.
type ExitError struct {
	Command string
	Code    int // -1 when a signal ended it
	Output  string
	Err     error
}

// Error returns what failed and what the program printed.
func (e *ExitError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Command, e.Err, e.Output)
}

// Unwrap returns the error of os/exec.
func (e *ExitError) Unwrap() error { return e.Err }

// CommandRunner runs programs of the host. Its value is immutable and safe for concurrent use.
type CommandRunner struct {
	path []string
}

// NewCommandRunner returns a runner that looks for programs in the directories of path (as in $PATH) and then in the
// sbin directories.
func NewCommandRunner(path string) *CommandRunner {
	return &CommandRunner{path: append(filepath.SplitList(path), sbin[:]...)}
}

// Find returns the absolute path of a program. A missing program is a fault.NoTool which names its package.
func (r *CommandRunner) Find(name string) (string, error) {
	for _, dir := range r.path {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	err := fmt.Errorf("finding %q: not on the PATH, nor in %s", name, strings.Join(sbin[:], ", "))
	return "", fault.New(fault.NoTool, err, "install it: sudo apt-get install "+packageOf(name))
}

// Run runs c to its end and returns what it printed. When ctx ends, the program is terminated, then killed; it also dies
// when banger does. A program that exits with another code than 0 gives an *ExitError beside the Result.
func (r *CommandRunner) Run(ctx context.Context, c Command) (Result, error) {
	var stdout, stderr bytes.Buffer
	p, err := r.Start(ctx, c, &stdout, &stderr)
	if err != nil {
		return Result{}, err
	}
	<-p.done
	result := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	return result, failure(ctx, c, result, p.err)
}

func (r *CommandRunner) command(ctx context.Context, c Command, stdout, stderr io.Writer) (*exec.Cmd, error) {
	file, err := r.Find(c.Name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, file, c.Args...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Dir, c.Stdin, stdout, stderr
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), c.Env...)
	// A process group of its own: Ctrl-C on the terminal reaches banger, which then ends the program in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// failure turns the error of os/exec into one that has the program's own words, or the reason why ctx ended.
func failure(ctx context.Context, c Command, result Result, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("running %s: %w", c.Name, context.Cause(ctx))
	}
	code := -1
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	return &ExitError{Command: c.Name, Code: code, Output: result.Output(), Err: err}
}
