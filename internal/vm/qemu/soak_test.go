package qemu

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestSoak boots BANGER_SOAK times in a row, runs a command in each guest, and tells how long the boots took.
func TestSoak(t *testing.T) {
	text := os.Getenv("BANGER_SOAK")
	if text == "" {
		t.Skip("BANGER_SOAK does not say how many times to boot")
	}
	boots, err := strconv.Atoi(text)
	if err != nil || boots < 1 {
		t.Fatalf("BANGER_SOAK=%q is no number of boots", text)
	}
	k := theKit(t)
	var times []time.Duration
	for i := range boots {
		took, err := bootOnce(t, k)
		if err != nil {
			t.Errorf("boot %d of %d: %v", i+1, boots, err)
			continue
		}
		t.Logf("boot %d of %d: %v", i+1, boots, took.Round(time.Millisecond))
		times = append(times, took)
	}
	if len(times) > 0 {
		slices.Sort(times)
		t.Logf("%d of %d boots succeeded: min %v, median %v, max %v", len(times), boots, times[0].Round(time.Millisecond),
			times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
	}
}

// bootOnce boots, runs a command and ends the machine. It returns the time from the start to the agent's answer.
func bootOnce(t *testing.T, k kit) (time.Duration, error) {
	t.Helper()
	spec := k.spec(t)
	defer func() {
		_ = os.RemoveAll(spec.Dir)
		_ = os.RemoveAll(spec.RuntimeDir)
	}()
	begin := time.Now()
	m, err := Start(t.Context(), newRunner(), spec, rand.Reader)
	if err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if _, _, code := in(t, m, nil, "/bin/guesttool", "exit", "3"); code != 3 {
		t.Errorf("exit code = %d, want 3 (console: %s)", code, filepath.Join(spec.Dir, "console.log"))
	}
	m.Kill()
	<-m.Done()
	return took, nil
}
