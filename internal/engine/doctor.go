package engine

import (
	"context"
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/embedded"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

// CheckState is the result of a check.
type CheckState string

// The states. A warning leaves banger usable.
const (
	Pass CheckState = "pass"
	Warn CheckState = "warn"
	Fail CheckState = "fail"
)

// Check is one thing that banger needs of its host.
type Check struct {
	Name   string     `json:"name"`
	State  CheckState `json:"state"`
	Detail string     `json:"detail"`
	Hint   string     `json:"hint,omitempty"`
}

// lowSpace is the free space below which a pull is likely to fail.
const lowSpace = 2 * gib

// Doctor checks what pulling and running need of this host. What is wrong is in the checks; the error says why ctx ended.
func (e *Engine) Doctor(ctx context.Context) ([]Check, error) {
	checks := []Check{
		e.checkProgram("boot VMs", "qemu-system-x86_64"),
		e.checkProgram("boot VMs", "qemu-img"),
		optional(e.checkProgram("build disks with --builder mkfs", "mkfs.ext4")),
		optional(e.checkProgram("build disks with --builder mkfs", "debugfs")),
		checkAccelerator(),
		e.checkKernel(),
		checkAgent(),
		e.checkSpace(ctx),
		e.checkRuntimeDir(),
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return checks, nil
}

func (e *Engine) checkProgram(purpose, program string) Check {
	file, err := e.runner.Find(program)
	if err != nil {
		return failed(program, err)
	}
	return Check{Name: program, State: Pass, Detail: fmt.Sprintf("%s (to %s)", file, purpose)}
}

// optional makes a failure of something that banger works without a warning.
func optional(check Check) Check {
	if check.State == Fail {
		check.State, check.Detail = Warn, check.Detail+" (needed for --builder mkfs only)"
	}
	return check
}

func failed(name string, err error) Check {
	return Check{Name: name, State: Fail, Detail: err.Error(), Hint: fault.HintOf(err)}
}

func checkAccelerator() Check {
	accelerator, reason := qemu.HostAccelerator()
	check := Check{Name: "accelerator", State: Pass, Detail: accelerator + ": " + reason}
	if accelerator != "kvm" {
		check.State = Warn
		check.Hint = "VMs run in software emulation, several times slower; on real hardware add yourself to the group kvm"
	}
	return check
}

func (e *Engine) checkKernel() Check {
	found, err := e.kernels.Default()
	if err != nil {
		return failed("kernel", err)
	}
	check := Check{Name: "kernel", State: Pass, Detail: found.Name + ", version " + found.Version}
	if lacks := found.Lacks(); lacks != "" {
		check.State, check.Hint = Warn, "it lacks "+lacks
	}
	return check
}

func checkAgent() Check {
	if _, err := embedded.Agent(); err != nil {
		return failed("guest agent", err)
	}
	return Check{Name: "guest agent", State: Pass, Detail: "version " + embedded.Version()}
}

func (e *Engine) checkSpace(ctx context.Context) Check {
	stage, err := e.home.NewStage(ctx)
	if err != nil {
		return failed("home", fault.New(fault.Failure, err, "set BANGER_HOME to a directory of your own"))
	}
	_ = stage.Close()
	var stat unix.Statfs_t
	if err := unix.Statfs(e.home.Dir(), &stat); err != nil {
		return failed("home", fmt.Errorf("checking %q: %w", e.home.Dir(), err))
	}
	free := int64(stat.Bavail) * stat.Bsize
	check := Check{Name: "home", State: Pass, Detail: fmt.Sprintf("%s, %s free", e.home.Dir(), units.BytesSize(float64(free)))}
	if free < lowSpace {
		check.State, check.Hint = Warn, "free some space, or set BANGER_HOME to a larger disk"
	}
	return check
}

func (e *Engine) checkRuntimeDir() Check {
	if err := e.makeRuntimeDir(); err != nil {
		return failed("sockets", err)
	}
	return Check{Name: "sockets", State: Pass, Detail: e.config.RuntimeDir}
}
