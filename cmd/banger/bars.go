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

// set notes how far a layer is.
func (b *layerBars) set(layer imagepull.LayerProgress) {
	b.step.Name = "Pull"
	for i := range b.layers {
		if b.layers[i].DiffID == layer.DiffID {
			b.layers[i] = layer
			return
		}
	}
	b.layers = append(b.layers, layer)
}

// lines are the lines for a terminal of that size: the step and, as far as they fit, the layers. Those that something
// happens to come first.
func (b *layerBars) lines(columns, rows int) []string {
	lines := []string{b.head()}
	var active, waiting []string
	for _, layer := range b.layers {
		switch layer.State {
		case imagepull.LayerWaiting:
			waiting = append(waiting, layerLine(layer, columns))
		case imagepull.LayerDownloading, imagepull.LayerUnpacking:
			active = append(active, layerLine(layer, columns))
		}
	}
	room := max(0, rows-2-len(lines)) // the cursor has a row of its own, and one is left of what was there before
	rest := append(active, waiting...)
	if len(rest) > room {
		kept := max(0, room-1)
		more := fmt.Sprintf("  and %d more", len(rest)-kept)
		rest = append(rest[:kept:kept], more)
	}
	return append(lines, rest[:min(room, len(rest))]...)
}

// head is the line of the step.
func (b *layerBars) head() string {
	detail := b.step.Detail
	if b.step.Amount != nil {
		detail = strings.Join(amountWords(*b.step.Amount), "  ")
	}
	if ended := b.ended(); len(b.layers) > 0 {
		detail = strings.TrimRight(fmt.Sprintf("%d of %d layers  %s", ended, len(b.layers), detail), " ")
	}
	return fmt.Sprintf("%-18s       …  %s", b.step.Name, detail)
}

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
)

// layerLine is the line of one layer. A terminal that is too narrow for all of it first loses the bar.
func layerLine(layer imagepull.LayerProgress, columns int) string {
	name := fmt.Sprintf("  %-12s  ", shortDigest(layer.Digest))
	switch layer.State {
	case imagepull.LayerDownloading:
	case imagepull.LayerWaiting:
		return strings.TrimRight(fmt.Sprintf("%s%-11s  %s", name, layer.State, sizeOf(layer.Total)), " ")
	default:
		return name + string(layer.State)
	}
	words := strings.Join(amountWords(layer.Amount), "  ")
	room := columns - len(name) - len("downloading  [] ") - len(words)
	if layer.Total <= 0 || room < minBar {
		return fmt.Sprintf("%s%-11s  %s", name, layer.State, words)
	}
	return fmt.Sprintf("%s%-11s  %s %s", name, layer.State, bar(layer.Amount, min(room, maxBar)), words)
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
