package vm

import (
	"fmt"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// Step is a part of the boot, in the order of the constants. The zero Step is invalid.
type Step string

// The steps at which a boot can fail.
const (
	StepVMM     Step = "vmm"     // the VMM starts and stays alive
	StepKernel  Step = "kernel"  // the kernel runs, and starts the initramfs
	StepModules Step = "modules" // the initramfs loads the drivers
	StepRoot    Step = "root"    // the initramfs finds and mounts the root disk
	StepGrow    Step = "grow"    // the initramfs grows the root's file system, if that was asked for
	StepInit    Step = "init"    // the root's init is started
	StepAgent   Step = "agent"   // the init starts the agent, and the agent answers
)

// BootError is a machine that did not come up.
type BootError struct {
	Name    string   // of the machine
	Step    Step     // where it failed
	Detail  string   // what happened, on one line, with the words of the one who noticed
	Console []string // the last lines of the console, without control characters
	Log     string   // path of the whole console log; who moves or removes the file changes this
}

// Error returns the step and what happened, and below it the end of the console.
func (e *BootError) Error() string {
	text := fmt.Sprintf("booting the VM %q: %s: %s", e.Name, e.Step.doing(), e.Detail)
	if len(e.Console) > 0 {
		text += "\nthe last lines of its console:\n  " + strings.Join(e.Console, "\n  ")
	}
	if e.Log != "" {
		text += "\nthe whole console: " + e.Log
	}
	return text
}

// doing names a step in a sentence.
func (s Step) doing() string {
	switch s {
	case StepVMM:
		return "running the VMM"
	case StepKernel:
		return "starting the kernel"
	case StepModules:
		return "loading the drivers"
	case StepRoot:
		return "mounting the root disk"
	case StepGrow:
		return "growing the root disk"
	case StepInit:
		return "starting the image's init"
	}
	return "waiting for the guest agent"
}

// Evidence is what is left of a boot that failed.
type Evidence struct {
	Name    string
	Console []byte // all that the console printed
	Log     string // where it is kept
	VMM     string // the words of a VMM that ended with an error; "" if it ran on or ended in order
	Ended   bool   // the machine ended by itself
	Waited  time.Duration
}

// Diagnose decides at which step the boot failed, and why. The result is a fault.Boot around a *BootError.
func Diagnose(e Evidence) error {
	c := readConsole(e.Console)
	step, detail := e.verdict(c)
	err := &BootError{Name: e.Name, Step: step, Detail: detail, Console: c.tail, Log: e.Log}
	return fault.New(fault.Boot, err, hint(step, c))
}

// verdict asks the witnesses in the order of their knowledge: the VMM, the agent, the kernel, and the silence.
func (e Evidence) verdict(c console) (Step, string) {
	waited := e.Waited.Round(min(time.Second, max(e.Waited/10, time.Millisecond)))
	switch {
	case e.VMM != "":
		return StepVMM, e.VMM
	case c.fatal != "":
		return c.failed(), c.fatal
	case c.panic != "":
		return c.failed(), c.panic
	case e.Ended && !c.output:
		return StepKernel, "the machine ended before the kernel printed anything"
	case e.Ended:
		return c.failed(), "the machine ended without a reason on its console"
	case !c.output:
		return StepKernel, fmt.Sprintf("no output within %v", waited)
	}
	return c.failed(), fmt.Sprintf("%s, and nothing more came within %v", c.standstill(), waited)
}

func hint(step Step, c console) string {
	switch {
	case step == StepVMM:
		return "`banger doctor` checks what a VM needs of this host"
	case step == StepKernel && c.panic != "":
		return "the kernel does not boot with this machine or initramfs; import another one with `banger kernel import`"
	case step == StepKernel:
		return "if the host is busy, allow the boot more time; otherwise import another kernel with `banger kernel import`"
	case step == StepModules, step == StepRoot:
		return "the kernel may lack a driver (`banger kernel inspect`), or the image's disk is damaged (remove and pull it)"
	case step == StepGrow:
		return "choose a smaller --disk or leave it out, or allow the boot more time"
	case step == StepInit:
		return "the image's init cannot run; pull the image again, or choose one with another init"
	}
	return "the image's init did not start the guest agent in time; allow the boot more time, or pull the image again"
}
