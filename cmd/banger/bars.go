package main

import (
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/imagepull"
)

// layerBars is what is under way: a step and, while it is the pull, the layers that have not come.
type layerBars struct {
	step   imagepull.Step
	layers []imagepull.LayerProgress // in the order of the image
}

// begin notes how far a step is. Another step than before has no layers.
func (b *layerBars) begin(step imagepull.Step) {
	if step.Name != b.step.Name {
		b.layers = nil
	}
	b.step = step
}

// set notes how far a layer is, and returns the state that it was in; "" for a new one.
func (b *layerBars) set(layer imagepull.LayerProgress) (before imagepull.LayerState) {
	if b.step.Name != "Pull" {
		b.begin(imagepull.Step{Name: "Pull"})
	}
	for i := range b.layers {
		if b.layers[i].DiffID == layer.DiffID {
			before, b.layers[i] = b.layers[i].State, layer
			return before
		}
	}
	b.layers = append(b.layers, layer)
	return ""
}

// maxShown is how many layers are shown. More than a few tell nobody more, and when a terminal becomes narrower, many lines
// that it wraps anew would leave it at the top, where they cannot be taken away.
const maxShown = 8

// lines are the lines for a terminal of that size: the step and the layers to which something happens, as far as they fit,
// and how many others are to come.
func (b *layerBars) lines(columns, rows int) []string {
	var active []string
	waiting := 0
	for _, layer := range b.layers {
		switch layer.State {
		case imagepull.LayerWaiting:
			waiting++
		case imagepull.LayerDownloading, imagepull.LayerUnpacking:
			active = append(active, layerLine(layer, columns))
		}
	}
	room := max(0, min(maxShown, rows-4)) // the step, the last line, the cursor, and one row of what was there before
	if len(active) > room {
		waiting += len(active) - room
		active = active[:room]
	}
	lines := append([]string{b.head()}, active...)
	if waiting > 0 && rows > 3 {
		lines = append(lines, fmt.Sprintf("  and %d more", waiting))
	}
	return lines
}

// head is the line of the step.
func (b *layerBars) head() string {
	detail := b.step.Detail
	if b.step.Amount != nil {
		detail = strings.Join(amountWords(*b.step.Amount), "  ")
	}
	if ended := b.ended(); len(b.layers) > 0 {
		detail = strings.TrimRight(fmt.Sprintf("%d of %s  %s", ended, counted(len(b.layers), "layer"), detail), " ")
	}
	return fmt.Sprintf("%-18s       …  %s", b.step.Name, visible(detail))
}

// counted is a number of things in words.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// ended is how many layers are in the store.
func (b *layerBars) ended() (n int) {
	for _, layer := range b.layers {
		if layer.State == imagepull.LayerDone || layer.State == imagepull.LayerExists {
			n++
		}
	}
	return n
}

const (
	minBar = 8 // columns, below which a bar says nothing
	maxBar = 40
	// amountRoom is what most amounts need beside a bar, "999.9MB of 999.9MB  99.99MB/s  1m40s left", so that bars keep
	// their length while the words change.
	amountRoom = 42
)

// layerLine is the line of one layer. A terminal that is too narrow for a bar has a word instead.
func layerLine(layer imagepull.LayerProgress, columns int) string {
	name := fmt.Sprintf("  %-12s  ", shortDigest(layer.Digest))
	if layer.State != imagepull.LayerDownloading {
		return name + string(layer.State)
	}
	words := strings.Join(amountWords(layer.Amount), "  ")
	room := columns - len(name) - len("[] ") - amountRoom
	if layer.Total <= 0 || room < minBar {
		return fmt.Sprintf("%s%s  %s", name, layer.State, words)
	}
	return fmt.Sprintf("%s%s %s", name, bar(layer.Amount, min(room, maxBar)), words)
}

// bar shows a part of a whole as [===>    ], with width columns between the brackets.
func bar(a imagepull.Amount, width int) string {
	full := int(min(a.Bytes, a.Total) * int64(width) / a.Total)
	filled := strings.Repeat("=", full)
	if full > 0 && full < width {
		filled = filled[1:] + ">"
	}
	return fmt.Sprintf("[%-*s]", width, filled)
}
