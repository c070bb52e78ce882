// Package race times rivals at the same task, in turns, so that all meet the same weather on the machine, and shows the
// medians and ratios as a table in Markdown.
package race

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Runner is who takes part. The first one of a race is what the others are compared with.
type Runner struct {
	Name string
	// Run does the task once. It returns how long that took, where this is not simply the time of the call, or 0.
	Run func(ctx context.Context) (time.Duration, error)
}

// Result is what one runner took.
type Result struct {
	Name  string
	Times []time.Duration
}

// Race has each runner run once uncounted, which fills the caches, and then rounds times, in turns.
func Race(ctx context.Context, rounds int, runners ...Runner) ([]Result, error) {
	results := make([]Result, len(runners))
	for round := range rounds + 1 {
		for i, r := range runners {
			took, err := timed(ctx, r)
			if err != nil {
				return nil, fmt.Errorf("running %s: %w", r.Name, err)
			}
			results[i].Name = r.Name
			if round > 0 {
				results[i].Times = append(results[i].Times, took)
			}
		}
	}
	return results, nil
}

func timed(ctx context.Context, r Runner) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	start := time.Now()
	took, err := r.Run(ctx)
	if took == 0 {
		took = time.Since(start)
	}
	return took, err
}

// Median returns the middle time, the earlier one of two.
func (r Result) Median() time.Duration {
	if len(r.Times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.Times))
	return sorted[(len(sorted)-1)/2]
}

// Ratio is how many times r's median is that of other.
func (r Result) Ratio(other Result) float64 { return r.Median().Seconds() / other.Median().Seconds() }

// Write writes a table of the results. The last column is by how much the first one's median is that of each.
func Write(out io.Writer, results []Result) error {
	var b strings.Builder
	b.WriteString("| what | median | least | greatest | first ÷ this |\n|---|---|---|---|---|\n")
	for i, r := range results {
		ratio := ""
		if i > 0 {
			ratio = fmt.Sprintf("%.2f", results[0].Ratio(r))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Name, show(r.Median()), show(slices.Min(r.Times)), show(slices.Max(r.Times)), ratio)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// show writes a time with three digits or so.
func show(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
