package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/imagepull"
)

// progress shows the steps of a pull or a boot on standard error: a line each when a step has ended and, on a
// terminal, the step that runs.
type progress struct {
	out      io.Writer
	terminal bool
	quiet    bool
	pending  bool // whether an unfinished line is on the terminal
}

func newProgress(sys system) *progress {
	file, ok := sys.stderr.(*os.File)
	return &progress{out: sys.stderr, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

func (p *progress) report(step imagepull.Step) {
	if p.quiet {
		return
	}
	p.clear()
	if step.Done {
		_, _ = fmt.Fprintf(p.out, "%-18s %7s  %s\n", step.Name, seconds(step.Elapsed), step.Detail)
		return
	}
	if p.terminal {
		_, _ = fmt.Fprintf(p.out, "%-18s       …  %s", step.Name, step.Detail)
		p.pending = true
	}
}

// clear takes an unfinished line away, so that something else can be printed.
func (p *progress) clear() {
	if p.pending {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
		p.pending = false
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
