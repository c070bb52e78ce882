package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/vm/instance"
)

// Banger runs banger's command line.
type Banger struct {
	Program string // path
	Home    string // BANGER_HOME, which is in the environment as well
}

// Run runs one command line.
func (b Banger) Run(ctx context.Context, args ...string) error {
	return b.runTo(ctx, nil, io.Discard, args...)
}

// run is Run, and returns what banger printed.
func (b Banger) run(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := b.runTo(ctx, nil, &out, args...)
	return out.String(), err
}

func (b Banger) runTo(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, b.Program, args...)
	var words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running banger %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(words.Bytes()))
	}
	return nil
}

// exec runs a command in a VM and returns what it printed.
func (b Banger) exec(ctx context.Context, vm string, argv ...string) (string, error) {
	return b.run(ctx, append([]string{"vm", "exec", vm, "--"}, argv...)...)
}

// remove removes VMs, in whatever state they are, also when ctx has ended.
func (b Banger) remove(ctx context.Context, vms ...string) error {
	_, err := b.run(context.WithoutCancel(ctx), append([]string{"vm", "rm", "--force"}, vms...)...)
	return err
}

// monitorOf returns the process id of a VM's monitor.
func (b Banger) monitorOf(vm string) (int, error) {
	text, err := os.ReadFile(filepath.Join(b.Home, "vms", vm, "monitor.json"))
	if err != nil {
		return 0, err
	}
	var m instance.Monitor
	err = json.Unmarshal(text, &m)
	return m.PID, err
}

// resident returns the resident memory of a process in bytes: VmRSS of proc_pid_status(5), whose text it is given.
func resident(status string) (int64, error) {
	_, rest, _ := strings.Cut(status, "\nVmRSS:")
	value, _, ok := strings.Cut(rest, " kB\n")
	kib, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if !ok || err != nil {
		return 0, errors.New("there is no VmRSS")
	}
	return kib << 10, nil
}

// RandomFile makes a file of that many bytes, which no compression makes smaller.
func RandomFile(path string, size int64) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, file.Close())
}
