package vm

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

const (
	agentPrefix = "banger-guest: " // begins each line of the agent (ARCHITECTURE.md)
	// panicPrefix is what the kernel prints in any case (kernel/panic.c).
	panicPrefix = "Kernel panic - not syncing: "

	tailLines  = 15  // of the console that are shown
	traceLines = 4   // of them that may follow the panic: the rest is the kernel's stack
	lineLength = 240 // bytes of a line that are shown
)

// console is what a console log tells about a boot.
type console struct {
	output bool   // it printed something
	step   string // the last step that the agent began
	fatal  string // why the agent gave up
	panic  string // why the kernel did
	tail   []string
	after  int // lines after the panic
}

// readConsole reads a console log. The guest has written it, so that any of it may be missing, doubled or a lie.
func readConsole(log []byte) console {
	var c console
	for line := range bytes.Lines(log) {
		for _, message := range messages(line) {
			text := printable(string(message))
			if text == "" {
				continue
			}
			c.output = true
			c.read(text)
			c.keep(text)
		}
	}
	return c
}

// kernelTime begins each line of the kernel (print_time in kernel/printk/printk.c).
var kernelTime = regexp.MustCompile(`\[ *[0-9]+\.[0-9]{6}\] `)

// messages splits a line where the kernel began one of its own: the terminal writes a program's line and its end
// separately (OPOST in drivers/tty/n_tty.c), and the kernel may print in between.
func messages(line []byte) [][]byte {
	var all [][]byte
	begin := 0
	for _, at := range kernelTime.FindAllIndex(line, -1) {
		all = append(all, line[begin:at[0]])
		begin = at[0]
	}
	return append(all, line[begin:])
}

// keep adds a line to the tail.
func (c *console) keep(line string) {
	if c.panic != "" {
		c.after++ // the panic's own line counts
	}
	if c.after > 1+traceLines {
		return
	}
	c.tail = append(c.tail, line)
	if len(c.tail) > tailLines {
		c.tail = c.tail[1:]
	}
}

// read takes note of one line. The first reason to give up is the reason: others follow from it. A line of the
// agent may begin in the middle of another one.
func (c *console) read(line string) {
	if _, text, ok := strings.Cut(line, agentPrefix); ok {
		if step, ok := strings.CutPrefix(text, "step "); ok {
			c.step = step
		}
		if fatal, ok := strings.CutPrefix(text, "fatal: "); ok && c.fatal == "" {
			c.fatal = fatal
		}
	}
	if i := strings.Index(line, panicPrefix); i >= 0 && c.panic == "" {
		c.panic = line[i:]
	}
}

// failed is the step that the console shows as begun and not as done.
func (c console) failed() Step {
	switch c.step {
	case "":
		return StepKernel
	case "modules":
		return StepModules
	case "root":
		return StepRoot
	case "grow":
		return StepGrow
	case "handover":
		if c.fatal != "" || c.panic != "" {
			return StepInit
		}
	}
	return StepAgent
}

// standstill says how far the guest came.
func (c console) standstill() string {
	switch c.step {
	case "":
		return "the kernel did not start the initramfs"
	case "handover":
		return "the image's init runs"
	case "agent":
		return "the agent runs"
	}
	return "the initramfs was at the step \"" + c.step + "\""
}

// printable returns a line without what could steer the user's terminal, and not too much of it.
func printable(line string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, ""))
	clean = strings.TrimSpace(clean)
	if len(clean) > lineLength {
		clean = strings.ToValidUTF8(clean[:lineLength], "") + "…"
	}
	return clean
}

// Panic returns the line in which the guest's kernel gave up, if the console log has one.
func Panic(log []byte) (line string, ok bool) {
	c := readConsole(log)
	return c.panic, c.panic != ""
}

// HandedOver reports whether the console log shows that the root's init was started. From there on silence is no sign
// of trouble.
func HandedOver(log []byte) bool {
	switch readConsole(log).step {
	case "handover", "agent":
		return true
	}
	return false
}
