// Package table shows measurements as a table in Markdown.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/bench/contender"
)

// Row is one line of a table: several runs of the same.
type Row struct {
	Label string
	Runs  []contender.Measurement
	Err   error // why there is nothing to show
}

const header = `| what | ready | synced | CPU | peak memory | before writing | on disk | first ÷ this, ready | first ÷ this, synced |
|---|---|---|---|---|---|---|---|---|
`

// Write writes the rows, of medians, and how many times the first row's time is that of each other. A value that no run
// has is a dash.
func Write(out io.Writer, rows []Row) error {
	var b strings.Builder
	b.WriteString(header)
	for i, row := range rows {
		if row.Err != nil {
			fmt.Fprintf(&b, "| %s | %s ||||||||\n", row.Label, strings.ReplaceAll(row.Err.Error(), "\n", " "))
			continue
		}
		m := row.medians()
		fmt.Fprintf(&b, "| %s%s | %s | %s | %s | %s | %s | %s |", row.Label, row.note(), seconds(m.Ready),
			seconds(m.Synced), seconds(m.CPU), mib(m.Memory), mib(m.Before), mib(m.Stored))
		if i == 0 || rows[0].Err != nil {
			b.WriteString(" | |\n")
			continue
		}
		first := rows[0].medians()
		fmt.Fprintf(&b, " %s | %s |\n", ratio(first.Ready, m.Ready), ratio(first.Synced, m.Synced))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// note says that a row is no median.
func (r Row) note() string {
	synced := slices.DeleteFunc(slices.Clone(r.Runs), func(m contender.Measurement) bool { return m.Synced == 0 })
	if len(synced) == 1 {
		return " (1 run)"
	}
	return ""
}

// medians returns the median of each value over the runs that have it.
func (r Row) medians() contender.Measurement {
	return contender.Measurement{
		Ready:  median(r.Runs, func(m contender.Measurement) time.Duration { return m.Ready }),
		Synced: median(r.Runs, func(m contender.Measurement) time.Duration { return m.Synced }),
		CPU:    median(r.Runs, func(m contender.Measurement) time.Duration { return m.CPU }),
		Memory: median(r.Runs, func(m contender.Measurement) int64 { return m.Memory }),
		Before: median(r.Runs, func(m contender.Measurement) int64 { return m.Before }),
		Stored: median(r.Runs, func(m contender.Measurement) int64 { return m.Stored }),
	}
}

func median[T ~int64](runs []contender.Measurement, value func(contender.Measurement) T) T {
	var values []T
	for _, m := range runs {
		if v := value(m); v != 0 {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func mib(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<19)>>20) }

func ratio(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", a.Seconds()/b.Seconds())
}
