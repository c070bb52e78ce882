package table

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/bench/contender"
)

func TestWrite(t *testing.T) {
	const mib = 1 << 20
	run := func(ready, synced time.Duration) contender.Measurement {
		return contender.Measurement{
			Ready: ready * time.Second, Synced: synced * time.Second, CPU: time.Second,
			Memory: 3*mib - 1, Before: 2 * mib, Stored: mib,
		}
	}
	var out strings.Builder
	err := Write(&out, []Row{
		{Label: "a", Runs: []contender.Measurement{run(9, 12), run(1, 2), run(2, 3)}},
		{Label: "b", Runs: []contender.Measurement{run(0, 30), run(4, 0), run(0, 6), run(8, 0), run(0, 10)}},
		{Label: "c", Runs: []contender.Measurement{run(0, 12)}},
		{Label: "d", Err: errors.New("out of\npaper")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := header + `| a | 2.00 s | 3.00 s | 1.00 s | 3 MiB | 2 MiB | 1 MiB | | |
| b | 4.00 s | 10.00 s | 1.00 s | 3 MiB | 2 MiB | 1 MiB | 0.500 | 0.300 |
| c (1 run) | – | 12.00 s | 1.00 s | 3 MiB | 2 MiB | 1 MiB | – | 0.250 |
| d | out of paper ||||||||
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
