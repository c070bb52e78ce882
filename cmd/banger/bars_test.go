package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/banger-vm/banger/internal/imagepull"
)

// layerAt is the progress of a layer of that letter.
func layerAt(letter string, state imagepull.LayerState, bytes, total int64) imagepull.LayerProgress {
	hex := "sha256:" + strings.Repeat(letter, 64)
	return imagepull.LayerProgress{Digest: hex, DiffID: hex, State: state, Amount: imagepull.Amount{Bytes: bytes, Total: total}}
}

// TestBars: the lines of a pull on terminals of several sizes.
func TestBars(t *testing.T) {
	running := layerAt("b", imagepull.LayerDownloading, 30e6, 120e6)
	running.Rate, running.Left = 10e6, 9*time.Second
	layers := []imagepull.LayerProgress{
		layerAt("a", imagepull.LayerDone, 5, 5), running, layerAt("c", imagepull.LayerWaiting, 0, 2e6),
		layerAt("d", imagepull.LayerUnpacking, 7, 7), layerAt("e", imagepull.LayerDownloading, 1e6, 0),
		layerAt("f", imagepull.LayerExists, 0, 7),
	}
	const head = "Pull                     …  2 of 6 layers  30MB of 120MB  10MB/s  9s left"
	const b, d, e = "  bbbbbbbbbbbb  ", "  dddddddddddd  unpacking", "  eeeeeeeeeeee  downloading  1MB"
	const wide = b + "[=========>                              ] 30MB of 120MB  10MB/s  9s left"
	for _, test := range []struct {
		columns, rows int
		want          []string
	}{
		{200, 50, []string{head, wide, d, e, "  and 1 more"}},
		{80, 50, []string{head, b + "[===>               ] 30MB of 120MB  10MB/s  9s left", d, e, "  and 1 more"}},
		{60, 50, []string{head, b + "downloading  30MB of 120MB  10MB/s  9s left", d, e, "  and 1 more"}},
		{200, 7, []string{head, wide, d, e, "  and 1 more"}},
		{200, 6, []string{head, wide, d, "  and 2 more"}},
		{200, 4, []string{head, "  and 4 more"}},
		{200, 3, []string{head}},
		{200, 1, []string{head}},
	} {
		var bars layerBars
		for _, layer := range layers {
			bars.set(layer)
		}
		bars.step.Amount = &running.Amount
		if got := bars.lines(test.columns, test.rows); !slices.Equal(got, test.want) {
			t.Errorf("%d columns and %d rows:\n%s\nwant\n%s", test.columns, test.rows, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		bytes, total int64
		want         string
	}{
		{0, 100, "[          ]"}, {9, 100, "[          ]"}, {10, 100, "[>         ]"}, {55, 100, "[====>     ]"},
		{99, 100, "[========> ]"}, {100, 100, "[==========]"}, {300, 100, "[==========]"}, {1 << 50, 1 << 51, "[====>     ]"},
	} {
		if got := bar(imagepull.Amount{Bytes: c.bytes, Total: c.total}, 10); got != c.want {
			t.Errorf("%d of %d is shown as %s, want %s", c.bytes, c.total, got, c.want)
		}
	}
}

// TestAmountWords: what is not known is not said.
func TestAmountWords(t *testing.T) {
	for want, amount := range map[string]imagepull.Amount{
		"0B": {}, "5MB": {Bytes: 5e6}, "5MB of 2.5GB": {Bytes: 5e6, Total: 25e8}, "5MB|1.2kB/s": {Bytes: 5e6, Rate: 1200},
		"0B of 9B|9B/s":             {Total: 9, Rate: 9, Left: 400 * time.Millisecond},
		"0B of 9B|1B/s|9s left":     {Total: 9, Rate: 1, Left: 9400 * time.Millisecond},
		"0B of 9B|1B/s|1m40s left":  {Total: 9, Rate: 1, Left: 100 * time.Second},
		"0B of 9B|1B/s|3 days left": {Total: 9, Rate: 1, Left: 72 * time.Hour},
	} {
		if got := strings.Join(amountWords(amount), "|"); got != want {
			t.Errorf("%+v is said as %q, want %q", amount, got, want)
		}
	}
}

// TestPlain: a line for what matters, and one every ten seconds while something takes long.
func TestPlain(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1e9, 0)
	p := newProgress(system{stderr: &out})
	p.now = func() time.Time { return now }
	amount := imagepull.Amount{Bytes: 1e6, Total: 2e6, Rate: 1e5, Left: 10 * time.Second}
	p.report(imagepull.Step{Name: "Pull"})
	for _, layer := range []imagepull.LayerProgress{
		layerAt("a", imagepull.LayerWaiting, 0, 9), layerAt("b", imagepull.LayerWaiting, 0, 9), layerAt("b", imagepull.LayerExists, 0, 9),
		layerAt("a", imagepull.LayerDownloading, 0, 9), layerAt("a", imagepull.LayerDownloading, 5, 9),
		layerAt("a", imagepull.LayerUnpacking, 9, 9), layerAt("a", imagepull.LayerDone, 9, 9),
		layerAt("c", imagepull.LayerDownloading, 5, 9), layerAt("d", imagepull.LayerDownloading, 0, 0),
	} {
		p.report(imagepull.Step{Name: "Pull", Layer: &layer})
	}
	for range 24 { // seconds
		p.report(imagepull.Step{Name: "Pull", Amount: &amount})
		now = now.Add(time.Second)
	}
	p.report(imagepull.Step{Name: "Pull", Done: true, Detail: "2 layers,\x1b2MB", Elapsed: 24 * time.Second})
	const want = `Pull                        bbbbbbbbbbbb  exists
Pull                        aaaaaaaaaaaa  downloading 9B
Pull                        aaaaaaaaaaaa  done
Pull                        cccccccccccc  downloading the rest of 9B
Pull                        dddddddddddd  downloading
Pull                        1MB of 2MB, 100kB/s, 10s left
Pull                        1MB of 2MB, 100kB/s, 10s left
Pull               24.00 s  2 layers, 2MB
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", &out, want)
	}
}

// erased is what takes some rows away.
func erased(rows int) string { return "\r\x1b[2K" + strings.Repeat("\x1b[A\x1b[2K", rows) }

// TestScreen: what is shown is replaced whatever the terminal's width has become, and no line is wider than that.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	columns := 20
	s := screen{out: &out, size: func() (int, int) { return columns, 10 }}
	for _, step := range []struct {
		columns int
		lines   []string
		want    string
	}{
		{20, nil, ""},
		{20, []string{"one", "twenty columns, yes.", "twenty-one columns, no"}, "one\ntwenty columns, yes.\ntwenty-one columns,…\n"},
		{20, []string{"…"}, erased(3) + "…\n"},
		{20, []string{"a line of 18 chars"}, erased(1) + "a line of 18 chars\n"},
		{9, []string{"narrow"}, erased(2) + "narrow\n"}, // the line has come to take two rows
		{2, []string{"narrow", ""}, erased(3) + "n…\n\n"},
		{1, nil, erased(3)},
		{1, nil, ""},
	} {
		columns = step.columns
		out.Reset()
		s.show(step.lines)
		if out.String() != step.want {
			t.Errorf("%d columns: %q gives %q, want %q", columns, step.lines, out.String(), step.want)
		}
		for line := range strings.SplitSeq(out.String(), "\n") {
			line = line[strings.LastIndex(line, "K")+1:]
			if n := utf8.RuneCountInString(line); n > columns {
				t.Errorf("a line of %d columns on a terminal of %d: %q", n, columns, line)
			}
		}
	}
}

// TestOtherStepEnds: a line that comes in the middle of a pull stands above its layers, which stay.
func TestOtherStepEnds(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(system{stderr: &out})
	p.mode = progressTTY
	p.report(imagepull.Step{Name: "Resolve", Detail: "x"})
	p.report(imagepull.Step{Name: "Pull"})
	for _, layer := range []imagepull.LayerProgress{layerAt("a", imagepull.LayerUnpacking, 9, 9), layerAt("b", imagepull.LayerWaiting, 0, 9)} {
		p.report(imagepull.Step{Name: "Pull", Layer: &layer})
	}
	out.Reset()
	p.report(imagepull.Step{Name: "Registry", Detail: "asking another", Done: true})
	const pull = "Pull                     …  0 of 2 layers\n  aaaaaaaaaaaa  unpacking\n  and 1 more\n"
	if want := erased(3) + "Registry            0.00 s  asking another\n" + pull; out.String() != want {
		t.Errorf("when another step ends, %q is written, want %q", out.String(), want)
	}
	out.Reset()
	p.report(imagepull.Step{Name: "Pull", Detail: "2 layers", Done: true})
	if want := erased(3) + "Pull                0.00 s  2 layers\n"; out.String() != want {
		t.Errorf("at the end %q is written, want %q", out.String(), want)
	}
}

// TestNoColours: nothing but the cursor's movements is written to a terminal, so that NO_COLOR holds.
func TestNoColours(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(system{stderr: &out})
	p.mode = progressTTY
	for n := range 5 {
		layer := layerAt(fmt.Sprint(n), imagepull.LayerDownloading, 5, 9)
		p.report(imagepull.Step{Name: "Pull", Layer: &layer})
	}
	p.report(imagepull.Step{Name: "Pull", Done: true})
	text := out.String()
	if strings.Count(text, "\x1b") != strings.Count(text, "\x1b[A")+strings.Count(text, "\x1b[2K") {
		t.Errorf("there is more than cursor movements: %q", text)
	}
}
