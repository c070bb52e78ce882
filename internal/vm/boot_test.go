package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/banger-vm/banger/internal/fault"
)

// The console logs below testdata are of real boots with QEMU 7.2 and Debian's 6.1 cloud kernel, without their middle.
func TestDiagnose(t *testing.T) {
	tests := []struct {
		name     string
		log      string // file in testdata; "" is an empty console
		evidence Evidence
		step     Step
		detail   string // part of it
		tail     string // part of one of the last lines of the console; "" is none
	}{
		{name: "QEMU refuses an option",
			evidence: Evidence{VMM: "qemu-system-x86_64: exit status 1: invalid accelerator hax", Ended: true},
			step:     StepVMM, detail: "invalid accelerator hax"},
		{name: "QEMU is killed after the agent answered", log: "agent-silent.log",
			evidence: Evidence{VMM: "qemu-system-x86_64: signal: killed", Ended: true},
			step:     StepVMM, detail: "signal: killed", tail: "banger-guest: step agent"},
		{name: "nothing at all", step: StepKernel, detail: "no output within 40s",
			evidence: Evidence{Waited: 40 * time.Second}},
		{name: "ends before the first line", evidence: Evidence{Ended: true},
			step: StepKernel, detail: "ended before the kernel printed anything"},
		{name: "no init in the initramfs", log: "no-init.log", evidence: Evidence{Ended: true},
			step: StepKernel, detail: "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
			tail: "Kernel panic"},
		{name: "kernel hangs", log: "kernel-hangs.log", evidence: Evidence{Waited: 40 * time.Second},
			step: StepKernel, detail: "the kernel did not start the initramfs, and nothing more came within 40s",
			tail: "tsc: No reference (HPET/PMTIMER) available"},
		{name: "no root disk", log: "no-root-disk.log", evidence: Evidence{Ended: true},
			step: StepRoot, detail: `no disk with the serial "banger-root" appeared within 20s`, tail: "fatal: no disk"},
		{name: "root disk is not ext4", log: "not-ext4.log", evidence: Evidence{Ended: true},
			step: StepRoot, detail: `mounting the root disk "/dev/vda" as ext4: invalid argument`, tail: "fatal: mounting"},
		{name: "file system does not grow", log: "grow-fails.log", evidence: Evidence{Ended: true},
			step: StepGrow, detail: "growing the root file system to 21474836480 bytes: operation not permitted", tail: "fatal:"},
		{name: "no init in the image", log: "init-missing.log", evidence: Evidence{Ended: true},
			step: StepInit, detail: `starting the init "/sbin/init" of the image: no such file or directory`, tail: "fatal:"},
		{name: "init of the image ends", log: "init-ends.log", evidence: Evidence{Ended: true},
			step: StepInit, detail: "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000",
			tail: "Attempted to kill init"},
		{name: "init does not start the agent", log: "handover.log", evidence: Evidence{Waited: 90 * time.Second},
			step: StepAgent, detail: "the image's init runs, and nothing more came within 1m30s", tail: "step handover"},
		{name: "agent does not answer", log: "agent-silent.log", evidence: Evidence{Waited: 2 * time.Minute},
			step: StepAgent, detail: "the agent runs, and nothing more came within 2m0s", tail: "step agent"},
		{name: "guest powers off by itself", log: "agent-silent.log", evidence: Evidence{Ended: true},
			step: StepAgent, detail: "ended without a reason", tail: "step agent"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.evidence.Name, test.evidence.Log = "web", "/vms/web/console.log"
			if test.log != "" {
				test.evidence.Console = readLog(t, test.log)
			}
			err := Diagnose(test.evidence)
			var boot *BootError
			if !errors.As(err, &boot) {
				t.Fatalf("Diagnose = %#v, want a *BootError", err)
			}
			if boot.Step != test.step || !strings.Contains(boot.Detail, test.detail) {
				t.Errorf("diagnosis = %s: %s\nwant %s: …%s…", boot.Step, boot.Detail, test.step, test.detail)
			}
			checkTail(t, boot.Console, test.tail)
			if fault.KindOf(err) != fault.Boot || fault.HintOf(err) == "" {
				t.Errorf("kind = %d, hint = %q; want %d (Boot) and a hint", fault.KindOf(err), fault.HintOf(err), fault.Boot)
			}
		})
	}
}

func readLog(t *testing.T, name string) []byte {
	t.Helper()
	log, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func checkTail(t *testing.T, tail []string, want string) {
	t.Helper()
	if len(tail) > tailLines {
		t.Errorf("the tail has %d lines, want %d at most", len(tail), tailLines)
	}
	if got := strings.Join(tail, "\n"); !strings.Contains(got, want) || want == "" && got != "" {
		t.Errorf("the last lines of the console are\n%s\nwant %q among them", got, want)
	}
}

func TestBootErrorText(t *testing.T) {
	err := &BootError{Name: "web", Step: StepRoot, Detail: "no disk", Console: []string{"one", "two"}, Log: "/vms/web/console.log"}
	want := `booting the VM "web": mounting the root disk: no disk
the last lines of its console:
  one
  two
the whole console: /vms/web/console.log`
	if got := err.Error(); got != want {
		t.Errorf("text of the error is\n%s\nwant\n%s", got, want)
	}
	err.Console, err.Log = nil, ""
	if got, want := err.Error(), `booting the VM "web": mounting the root disk: no disk`; got != want {
		t.Errorf("text without a console is %q, want %q", got, want)
	}
}

// TestConsoleCannotSteerTheTerminal: the guest chooses what its console prints.
func TestConsoleCannotSteerTheTerminal(t *testing.T) {
	log := "\x1b]0;owned\x07\x1b[2Jbanger-guest: fatal: \x1b[31mred\x9b0m\r\n\u202ereversed\n\xff\xfe\n"
	c := readConsole([]byte(log))
	if c.fatal != "[31mred0m" {
		t.Errorf("reason of the agent = %q, want it without control characters: %q", c.fatal, "[31mred0m")
	}
	for _, line := range c.tail {
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("line %q has control characters", line)
		}
	}
}

func TestKernelPrintsInTheMiddle(t *testing.T) {
	log := "banger-guest: step grow[    2.256073] EXT4-fs warning (device vda): no\r\n\r\n" +
		"banger-guest: fatal: growing: no[    2.272223] ACPI: PM: Preparing [   12.272223] reboot: Power down\r\n"
	c := readConsole([]byte(log))
	if c.step != "grow" || c.fatal != "growing: no" {
		t.Errorf("step %q and reason %q, want %q and %q", c.step, c.fatal, "grow", "growing: no")
	}
	want := []string{
		"banger-guest: step grow", "[    2.256073] EXT4-fs warning (device vda): no",
		"banger-guest: fatal: growing: no", "[    2.272223] ACPI: PM: Preparing", "[   12.272223] reboot: Power down",
	}
	if !slices.Equal(c.tail, want) {
		t.Errorf("tail %q, want %q", c.tail, want)
	}
}

func TestPanic(t *testing.T) {
	line, ok := Panic(readLog(t, "init-ends.log"))
	if want := "Kernel panic - not syncing: Attempted to kill init!"; !ok || !strings.HasPrefix(line, want) {
		t.Errorf("Panic = %q, %t, want %q…", line, ok, want)
	}
	if line, ok := Panic(readLog(t, "handover.log")); ok {
		t.Errorf("Panic = %q for a log without one", line)
	}
}

func TestHandedOver(t *testing.T) {
	for log, want := range map[string]bool{"no-root-disk.log": false, "kernel-hangs.log": false, "handover.log": true, "agent-silent.log": true} {
		if got := HandedOver(readLog(t, log)); got != want {
			t.Errorf("HandedOver of %s = %t, want %t", log, got, want)
		}
	}
}

func FuzzReadConsole(f *testing.F) {
	f.Add([]byte("[    0.1] x\nbanger-guest: step root\nbanger-guest: fatal: no\n"))
	f.Add([]byte("Kernel panic - not syncing: \x1b[2J\r\n\xff"))
	f.Fuzz(func(t *testing.T, log []byte) {
		c := readConsole(log)
		for _, line := range append(c.tail, c.fatal, c.panic) {
			if len(line) > lineLength+len("…") || !utf8.ValidString(line) || strings.ContainsAny(line, "\x1b\n\r\x07") {
				t.Errorf("%q is shown of the log %q", line, log)
			}
		}
		if len(c.tail) > tailLines {
			t.Errorf("%d lines are shown, want %d at most", len(c.tail), tailLines)
		}
	})
}
