package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/imagepull"
)

// The choices of --progress, which are BuildKit's.
const (
	progressAuto  = "auto"  // tty on a terminal, or else plain
	progressTTY   = "tty"   // the step that runs, with a bar for each layer, where they are redrawn
	progressPlain = "plain" // a line for each event
	progressJSON  = "json"  // the same for programs
	progressNone  = "none"
)

// progress shows the steps of a pull or a boot on standard error.
type progress struct {
	out      io.Writer
	terminal bool // whether out is one
	quiet    bool
	mode     string // progressTTY, progressPlain or progressJSON
	now      func() time.Time

	of     string // which of several pulls it is; "" where there is one
	screen screen
	layers layerBars // of the pull that runs
	logged time.Time // when a plain line last said how far a step is
}

func newProgress(sys system) *progress {
	p := &progress{out: sys.stderr, now: time.Now, mode: progressPlain}
	p.screen = screen{out: sys.stderr, size: func() (int, int) { return 80, 24 }}
	file, ok := sys.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return p
	}
	p.terminal = true
	p.screen.size = func() (int, int) {
		columns, rows, err := term.GetSize(int(file.Fd()))
		if err != nil || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	}
	if sys.lookupEnv == nil || sys.getenv("TERM") != "dumb" {
		p.mode = progressTTY
	}
	return p
}

// choose sets the mode that --progress or, without it, BANGER_PROGRESS names.
func (p *progress) choose(flag, variable string) error {
	from, mode := "--progress", flag
	if mode == "" {
		from, mode = "BANGER_PROGRESS", variable
	}
	switch mode {
	case "", progressAuto:
	case progressTTY, progressPlain, progressJSON:
		p.mode = mode
	case progressNone:
		p.quiet = true
	default:
		return usage(fmt.Errorf("%s %q is not known", from, mode), "pass auto, tty, plain, json or none")
	}
	return nil
}

// begin says which of several pulls it is that follows.
func (p *progress) begin(reference string) {
	p.of = reference
	if p.quiet || p.mode == progressJSON {
		return
	}
	p.clear()
	_, _ = fmt.Fprintf(p.out, "Pulling %s\n", reference)
}

// report shows a step. It is called by one goroutine at a time.
func (p *progress) report(step imagepull.Step) {
	switch {
	case p.quiet:
	case p.mode == progressJSON:
		p.print(progressLine{Schema: 1, Reference: p.of, Step: api.StepOf(step)})
	case step.Done:
		p.ended(step)
	case p.mode == progressTTY:
		p.draw(step)
	default:
		p.log(step)
	}
}

// ended prints the line of a step that has ended. What else is under way stays.
func (p *progress) ended(step imagepull.Step) {
	underway := p.layers
	p.clear()
	p.say(step.Name, seconds(step.Elapsed), step.Detail)
	if p.mode == progressTTY && underway.step.Name != "" && underway.step.Name != step.Name {
		p.layers = underway
		p.redraw()
	}
}

// progressLine is a line of --progress json.
type progressLine struct {
	Schema    int        `json:"schema"`
	Reference string     `json:"reference,omitempty"` // of several, the one that is pulled
	Step      *api.Step  `json:"step,omitempty"`
	Error     *api.Error `json:"error,omitempty"` // what banger ends with
}

func (p *progress) print(line progressLine) {
	encoder := json.NewEncoder(p.out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(line)
}

// fail prints the error that banger ends with, for programs. It reports whether that is how errors are printed.
func (p *progress) fail(err error) bool {
	if p.mode == progressJSON {
		p.print(progressLine{Schema: 1, Error: api.ErrorOf(err)})
	}
	return p.mode == progressJSON
}

func (p *progress) say(name, took, detail string) {
	_, _ = fmt.Fprintf(p.out, "%-18s %7s  %s\n", name, took, visible(detail))
}

// logEvery is how often a plain line says how far a step is.
const logEvery = 10 * time.Second

// log prints a line for what matters: where a layer came to, and now and then how far a long step is.
func (p *progress) log(step imagepull.Step) {
	switch {
	case step.Layer != nil:
		p.logLayer(step.Name, *step.Layer)
	case step.Amount != nil && p.now().Sub(p.logged) >= logEvery:
		if !p.logged.IsZero() {
			p.say(step.Name, "", strings.Join(amountWords(*step.Amount), ", "))
		}
		p.logged = p.now()
	}
}

func (p *progress) logLayer(step string, layer imagepull.LayerProgress) {
	if p.layers.set(layer) == layer.State {
		return
	}
	name := shortDigest(layer.Digest) + "  " + string(layer.State)
	switch layer.State {
	case imagepull.LayerDownloading:
		if layer.Bytes > 0 {
			name += " the rest of"
		}
		p.say(step, "", strings.TrimRight(name+" "+sizeOf(layer.Total), " "))
	case imagepull.LayerDone, imagepull.LayerExists:
		p.say(step, "", name)
	}
}

// sizeOf is a size that may not be known.
func sizeOf(bytes int64) string {
	if bytes <= 0 {
		return ""
	}
	return humanSize(bytes)
}

// amountWords says how much is done, how fast it goes on, and how long it will take.
func amountWords(a imagepull.Amount) []string {
	words := []string{humanSize(a.Bytes)}
	if a.Total > 0 {
		words[0] += " of " + humanSize(a.Total)
	}
	if a.Rate > 0 {
		words = append(words, humanSize(a.Rate)+"/s")
	}
	if a.Left.Round(time.Second) > 0 {
		words = append(words, shortDuration(a.Left)+" left")
	}
	return words
}

// shortDuration has no more digits than somebody who waits reads.
func shortDuration(d time.Duration) string {
	if d < time.Hour {
		return d.Round(time.Second).String()
	}
	return units.HumanDuration(d)
}

// draw redraws what is under way.
func (p *progress) draw(step imagepull.Step) {
	if step.Layer != nil {
		p.layers.set(*step.Layer)
	} else {
		p.layers.begin(step)
	}
	p.redraw()
}

func (p *progress) redraw() {
	columns, rows := p.screen.size()
	p.screen.show(p.layers.lines(columns, rows))
}

// show shows one line, until something else is shown.
func (p *progress) show(line string) { p.screen.show([]string{line}) }

// clear takes away what is under way, so that something else can be printed.
func (p *progress) clear() {
	p.screen.show(nil)
	p.layers = layerBars{}
	p.logged = time.Time{}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
