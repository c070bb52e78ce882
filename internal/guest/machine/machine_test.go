package machine

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// fake is a guest whose clock and randomness are variables.
type fake struct {
	mu     sync.Mutex
	offset time.Duration // of its clock, to the host's
	steps  int
	seeds  [][]byte
	syncs  int
	delay  time.Duration // of each stream
	fails  error
}

func (f *fake) guest() *Guest {
	return &Guest{
		proc: os.DirFS("/proc"), root: "/",
		now: func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return time.Now().Add(f.offset) },
		step: func(by time.Duration) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.offset += by
			f.steps++
			return f.fails
		},
		seed: func(b []byte) error { f.seeds = append(f.seeds, bytes.Clone(b)); return f.fails },
		sync: func() { f.syncs++ },
	}
}

// open opens a stream to the guest.
func (f *fake) open(context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		time.Sleep(f.delay)
		f.guest().Handlers().Serve(far)
	}()
	return near, nil
}

func (f *fake) stream(t *testing.T) net.Conn {
	t.Helper()
	conn, _ := f.open(t.Context())
	return conn
}

func TestSetClock(t *testing.T) {
	tests := []struct {
		name    string
		offset  time.Duration
		delay   time.Duration
		stepped bool
	}{
		{name: "right", offset: 0},
		{name: "a little behind", offset: -100 * time.Millisecond},
		{name: "a little ahead", offset: 100 * time.Millisecond},
		{name: "behind", offset: -time.Second, stepped: true},
		{name: "ahead", offset: 600 * time.Millisecond, stepped: true},
		{name: "slept for a day", offset: -24 * time.Hour, stepped: true},
		{name: "from 1970", offset: -50 * 365 * 24 * time.Hour, stepped: true},
		{name: "slow channel, right", offset: 0, delay: 600 * time.Millisecond},
		{name: "slow channel, wrong", offset: -2 * time.Second, delay: 600 * time.Millisecond, stepped: true},
		{name: "too slow to know", offset: -400 * time.Millisecond, delay: time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := &fake{offset: test.offset, delay: test.delay}
			behind, stepped, err := SetClock(t.Context(), f.open)
			if err != nil || stepped != test.stepped || stepped != (f.steps == 1) {
				t.Fatalf("SetClock = %v, %v, %v after %d steps, want stepped %v", behind, stepped, err, f.steps, test.stepped)
			}
			slack := test.delay/2 + 100*time.Millisecond
			if wrong := (behind + test.offset).Abs(); wrong > slack {
				t.Errorf("the clock is said to be %v behind, want %v", behind, -test.offset)
			}
			if left := f.offset.Abs(); stepped && left > slack {
				t.Errorf("after the step the clock is wrong by %v", left)
			}
		})
	}
}

// TestCompareAcrossSleep: a host that slept between question and answer knows nothing.
func TestCompareAcrossSleep(t *testing.T) {
	before := time.Now()
	after := before.Round(0).Add(8 * time.Hour)
	for _, guest := range []time.Time{before, after} {
		behind, vague := compare(before, after, guest)
		if behind.Abs() > ClockTolerance+vague {
			t.Errorf("a clock that was right is taken for %v behind (give or take %v)", behind, vague)
		}
	}
}

func TestSeed(t *testing.T) {
	for size, ok := range map[int]bool{31: false, 32: true, 512: true, 513: false} {
		f := &fake{}
		random := bytes.Repeat([]byte{7}, size)
		err := Seed(t.Context(), f.stream(t), random)
		var refused *frame.Refusal
		if ok && (err != nil || len(f.seeds) != 1 || !bytes.Equal(f.seeds[0], random)) {
			t.Errorf("a seed of %d bytes gave %v and reached the kernel as %x", size, err, f.seeds)
		}
		if !ok && (!errors.As(err, &refused) || refused.Reason != frame.Refused || len(f.seeds) != 0) {
			t.Errorf("a seed of %d bytes gave %v, want a refusal", size, err)
		}
	}
	f := &fake{fails: errors.New("no generator")}
	if err := Seed(t.Context(), f.stream(t), make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "no generator") {
		t.Errorf("a kernel that takes no randomness gave %v", err)
	}
}

// TestKernelTakesEntropy: the kernel of this machine takes what addEntropy gives it, or says that only root may.
func TestKernelTakesEntropy(t *testing.T) {
	if err := addEntropy(make([]byte, 32)); err != nil && !errors.Is(err, os.ErrPermission) {
		t.Errorf("adding randomness: %v", err)
	}
}

func TestSync(t *testing.T) {
	f := &fake{}
	if err := Sync(t.Context(), f.stream(t)); err != nil || f.syncs != 1 {
		t.Errorf("Sync = %v after %d calls of sync(2), want none and 1", err, f.syncs)
	}
}

// TestReadStats reads the figures of this machine.
func TestReadStats(t *testing.T) {
	s, err := ReadStats(t.Context(), (&fake{}).stream(t))
	if err != nil {
		t.Fatal(err)
	}
	for what, wrong := range map[string]bool{
		"CPUs": s.CPUs < 1, "uptime": s.Uptime <= 0, "CPU time": s.CPUBusy <= 0 || s.CPUBusy > s.CPUTotal,
		"processes": s.Processes < 1,
		"memory":    s.MemoryUsed+s.MemoryAvailable != s.MemoryTotal || s.MemoryUsed == 0,
		"agent":     s.AgentMemory < 1<<20 || s.AgentMemory > s.MemoryTotal, "root": s.RootSize == 0 || s.RootFree > s.RootSize,
	} {
		if wrong {
			t.Errorf("the %s of this machine cannot be right: %+v", what, s)
		}
	}
}

// procOf is a /proc of a machine with known figures.
func procOf() fstest.MapFS {
	return fstest.MapFS{
		"uptime":  {Data: []byte("12.34 20.00\n")},
		"loadavg": {Data: []byte("0.50 0.25 0.10 1/70 123\n")},
		"stat": {Data: []byte("cpu  100 10 50 1000 20 3 4 5 6 0\ncpu0 50 5 25 500 10 1 2 2 3 0\ncpu1 50 5 25 500 10 2 2 3 3 0\n" +
			"intr 5 6\n")},
		"meminfo": {Data: []byte("MemTotal:         243040 kB\nMemFree:          100000 kB\nMemAvailable:     200000 kB\n")},
		"diskstats": {Data: []byte(" 254 0 vda 10 0 80 5 20 0 160 5 0 5 10\n 254 1 vda1 10 0 80 5 20 0 160 5 0 5 10\n" +
			" 254 16 vdb 1 0 8 5 0 0 0 5 0 5 10\n   7 0 loop0 1 0 8 5 0 0 0 5 0 5 10\n")},
		"net/dev": {Data: []byte("Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n" +
			"    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n  veth1: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n")},
		"self/statm": {Data: []byte("300000 2000 1500 10 0 100 0\n")},
		"1/stat":     {}, "17/stat": {}, "bus/x": {},
	}
}

func TestParse(t *testing.T) {
	got, err := (&Guest{proc: procOf(), root: "/"}).readStats()
	if err != nil {
		t.Fatal(err)
	}
	got.RootSize, got.RootFree = 0, 0
	want := Stats{
		Uptime: 12340 * time.Millisecond, CPUs: 2, CPUBusy: 1670 * time.Millisecond, CPUTotal: 11920 * time.Millisecond,
		Load: [3]float64{0.5, 0.25, 0.1}, Processes: 2,
		MemoryTotal: 243040 << 10, MemoryAvailable: 200000 << 10, MemoryUsed: 43040 << 10,
		AgentMemory: 2000 * uint64(os.Getpagesize()), DiskRead: 88 * 512, DiskWritten: 160 * 512, NetReceived: 1000, NetSent: 2000,
	}
	if got != want {
		t.Errorf("the figures are\n%+v, want\n%+v", got, want)
	}
}

// TestParseRefuses: a file that is not what it should be is an error that names it, not a zero.
func TestParseRefuses(t *testing.T) {
	for file, text := range map[string]string{
		"uptime": "soon", "loadavg": "1 2", "stat": "cpu 1 2\n", "meminfo": "MemFree: 1 kB\n",
		"diskstats": " 254 0 vda x 0 80 5 20 0 160\n", "net/dev": "eth0: 1\n", "self/statm": "1",
	} {
		proc := procOf()
		proc[file] = &fstest.MapFile{Data: []byte(text)}
		if _, err := (&Guest{proc: proc, root: "/"}).readStats(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("with /proc/%s = %q the error is %v", file, text, err)
		}
	}
}

// FuzzParse: no text of a file is a panic, or gives figures that JSON cannot carry.
func FuzzParse(f *testing.F) {
	for _, file := range procOf() {
		f.Add(string(file.Data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		proc := procOf()
		for name := range proc {
			if !strings.HasSuffix(name, "/x") {
				proc[name] = &fstest.MapFile{Data: []byte(text)}
			}
		}
		stats, _ := (&Guest{proc: proc, root: "/"}).readStats()
		if err := frame.NewWriter(&bytes.Buffer{}).WriteJSON(frame.Reply, stats); err != nil {
			t.Errorf("%+v cannot be sent: %v", stats, err)
		}
	})
}

// FuzzArgs: no argument of the host makes the agent panic.
func FuzzArgs(f *testing.F) {
	f.Add("clock", []byte(`{"step_ns":5}`))
	f.Add("seed", []byte(`{"bytes":"AAAA"}`))
	f.Fuzz(func(_ *testing.T, do string, args []byte) {
		handler := (&fake{}).guest().Handlers()[do]
		if handler == nil {
			return
		}
		near, far := net.Pipe()
		go func() { _ = handler(far, args); _ = far.Close() }()
		_, _ = frame.Read(near)
		_ = near.Close()
	})
}
