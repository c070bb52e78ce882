package qemu

import (
	"errors"
	"time"
)

// tscWindow is how long the counter is watched. The two clocks are read within about 100 ns of each other, so that the
// error is about 10 ppm.
const tscWindow = 10 * time.Millisecond

// The rates of any CPU that has such a counter, in kHz.
const (
	minTSCKHz = 100_000
	maxTSCKHz = 20_000_000
)

// TSCKHz measures the rate of this host's time stamp counter in kHz, in about 10 ms. Under TCG the guest's counter is
// the host's (QEMU, include/qemu/timer.h, cpu_get_host_ticks). A host of another architecture has an error.
func TSCKHz() (int, error) {
	first, ok := readTSC()
	if !ok {
		return 0, errors.New("measuring the rate of the time stamp counter: this CPU has none")
	}
	time.Sleep(tscWindow)
	second, _ := readTSC()
	khz := rateKHz(first, second)
	if khz < minTSCKHz || khz > maxTSCKHz {
		return 0, errors.New("measuring the rate of the time stamp counter: it does not run evenly")
	}
	return khz, nil
}

// sample is one reading of both clocks.
type sample struct {
	ticks uint64
	at    time.Time // monotonic
}

func rateKHz(first, second sample) int {
	elapsed := second.at.Sub(first.at)
	if elapsed <= 0 || second.ticks <= first.ticks {
		return 0
	}
	return int(float64(second.ticks-first.ticks) / elapsed.Seconds() / 1000)
}

// readTSC reads both clocks several times and keeps the pair that was read in the shortest time, which no interrupt
// has torn apart.
func readTSC() (sample, bool) {
	best, shortest := sample{}, time.Hour
	for range 16 {
		before := time.Now()
		ticks, ok := rdtsc()
		after := time.Now()
		if !ok {
			return sample{}, false
		}
		if span := after.Sub(before); span < shortest {
			best, shortest = sample{ticks, before.Add(span / 2)}, span
		}
	}
	return best, true
}
