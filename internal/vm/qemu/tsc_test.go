package qemu

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// TestTSCKHz compares with what the host's kernel says. "cpu MHz" is the present clock of the core; where the counter
// does not change with it the two may differ by as much as a core is throttled or boosted.
func TestTSCKHz(t *testing.T) {
	first, err := TSCKHz()
	if err != nil {
		t.Fatal(err)
	}
	mhz := cpuMHz(t)
	if ratio := float64(first) / 1000 / mhz; ratio < 0.2 || ratio > 5 {
		t.Errorf("TSCKHz = %d, which is %.2f times the %.0f MHz of /proc/cpuinfo", first, ratio, mhz)
	}
	second, err := TSCKHz()
	if err != nil {
		t.Fatal(err)
	}
	if deviation := math.Abs(float64(first-second)) / float64(first); deviation > 1e-3 {
		t.Errorf("two measurements gave %d and %d kHz, which differ by %.4f%%, want 0.1%% at most", first, second, 100*deviation)
	}
}

func cpuMHz(t *testing.T) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var mhz float64
		if _, err := fmt.Sscanf(line, "cpu MHz : %f", &mhz); err == nil {
			return mhz
		}
	}
	t.Fatal("/proc/cpuinfo has no \"cpu MHz\"")
	return 0
}

func TestRate(t *testing.T) {
	start := time.Now()
	tests := []struct {
		name    string
		ticks   uint64
		elapsed time.Duration
		want    int
	}{
		{"2.6 GHz", 26_000_000, 10 * time.Millisecond, 2_600_000},
		{"stands still", 0, 10 * time.Millisecond, 0},
		{"no time between", 26_000_000, 0, 0},
	}
	for _, test := range tests {
		second := sample{ticks: 1000 + test.ticks, at: start.Add(test.elapsed)}
		if got := rateKHz(sample{1000, start}, second); got != test.want {
			t.Errorf("%s: rate = %d kHz, want %d", test.name, got, test.want)
		}
	}
	if got := rateKHz(sample{1000, start}, sample{10, start.Add(time.Second)}); got != 0 {
		t.Errorf("a counter that runs backwards has the rate %d kHz, want 0", got)
	}
}
