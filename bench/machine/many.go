package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Many is the measurement of many small VMs at once.
type Many struct {
	Banger Banger
	Image  string // with a shell
	VMs    int
	Memory string // of each, as --memory takes it
}

// memory is what the processes of one VM take, in bytes.
type memory struct{ agent, init, monitor int64 }

// Run starts the VMs at once, runs a command in each, and writes what it took.
func (m Many) Run(ctx context.Context, out io.Writer) (err error) {
	names := m.names()
	defer func() { err = errors.Join(err, m.Banger.remove(ctx, names...)) }()
	start := time.Now()
	if err := m.each(ctx, names, m.start); err != nil {
		return err
	}
	up := time.Since(start)
	if err := m.each(ctx, names, m.use); err != nil {
		return err
	}
	used := time.Since(start)
	var most memory
	for _, name := range names {
		one, err := m.memoryOf(ctx, name)
		if err != nil {
			return fmt.Errorf("measuring the VM %q: %w", name, err)
		}
		most = memory{max(most.agent, one.agent), max(most.init, one.init), max(most.monitor, one.monitor)}
	}
	_, err = fmt.Fprintf(out, "| what | |\n|---|---|\n| %d VMs of %s at once, until the last is up | %.1f s |\n"+
		"| a command has run in each | %.1f s |\n| agent in the guest, the largest | %s |\n"+
		"| process 1 in the guest, the largest | %s |\n| monitor, the largest | %s |\n", m.VMs, m.Memory, up.Seconds(),
		used.Seconds(), mib(most.agent), mib(most.init), mib(most.monitor))
	return err
}

func (m Many) names() []string {
	names := make([]string, m.VMs)
	for i := range names {
		names[i] = fmt.Sprintf("bench-many-%d", i)
	}
	return names
}

func (m Many) each(ctx context.Context, names []string, do func(context.Context, string) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		group.Go(func() error { return do(ctx, name) })
	}
	return group.Wait()
}

func (m Many) start(ctx context.Context, name string) error {
	_, err := m.Banger.run(ctx, "vm", "run", "-d", "--name", name, "--memory", m.Memory, "--boot-timeout", "5m", m.Image, "--", "sleep", "100000")
	return err
}

func (m Many) use(ctx context.Context, name string) error {
	said, err := m.Banger.exec(ctx, name, "hostname")
	if err == nil && strings.TrimSpace(said) != name {
		err = fmt.Errorf("the VM %q says that it is %q", name, said)
	}
	return err
}

// memoryOf reads the resident memory of the agent, of process 1, which is the same program, and of the monitor.
func (m Many) memoryOf(ctx context.Context, name string) (memory, error) {
	var found memory
	text, err := m.Banger.exec(ctx, name, "sh", "-c", "for p in $(pidof banger-guest); do cat /proc/$p/status; done")
	if err != nil {
		return found, err
	}
	for _, status := range strings.SplitAfter(text, "nonvoluntary_ctxt_switches:") {
		if !strings.Contains(status, "VmRSS:") {
			continue
		}
		size, err := resident(status)
		if err != nil {
			return found, err
		}
		if strings.Contains(status, "\nPid:\t1\n") {
			found.init = size
		} else {
			found.agent = max(found.agent, size)
		}
	}
	if found.agent == 0 {
		return found, fmt.Errorf("there is no agent: %q", text)
	}
	pid, err := m.Banger.monitorOf(name)
	if err != nil {
		return found, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return found, err
	}
	found.monitor, err = resident(string(status))
	return found, err
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Streams is the measurement of many commands at once that move data.
type Streams struct {
	Banger  Banger
	VM      string
	Streams int
	Bytes   int64 // of each
}

// Run lets the streams race, out of the guest and into it, and writes how long the slowest took against the median.
func (s Streams) Run(ctx context.Context, out io.Writer) error {
	size := fmt.Sprint(s.Bytes)
	var b strings.Builder
	b.WriteString("| what | median | slowest | slowest ÷ median | together |\n|---|---|---|---|---|\n")
	for _, direction := range []struct {
		name  string
		input bool
		argv  []string
	}{
		{"out of the guest", false, []string{"head", "-c", size, "/dev/zero"}},
		{"into the guest", true, []string{"cat"}},
	} {
		times, err := s.race(ctx, direction.input, direction.argv)
		if err != nil {
			return err
		}
		median, slowest := times[(len(times)-1)/2], times[len(times)-1]
		rate := float64(s.Bytes) * float64(len(times)) / slowest.Seconds() / 1e6
		fmt.Fprintf(&b, "| %d × %s %s | %.2f s | %.2f s | %.2f | %.0f MB/s |\n", s.Streams, mib(s.Bytes), direction.name,
			median.Seconds(), slowest.Seconds(), slowest.Seconds()/median.Seconds(), rate)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// race returns the times of all streams, the shortest first.
func (s Streams) race(ctx context.Context, input bool, argv []string) ([]time.Duration, error) {
	times := make([]time.Duration, s.Streams)
	group, ctx := errgroup.WithContext(ctx)
	for i := range times {
		group.Go(func() error {
			start := time.Now()
			err := s.one(ctx, input, argv)
			times[i] = time.Since(start)
			return err
		})
	}
	err := group.Wait()
	slices.Sort(times)
	return times, err
}

func (s Streams) one(ctx context.Context, input bool, argv []string) error {
	args, counted := []string{"vm", "exec", s.VM, "--"}, &counter{}
	if !input {
		err := s.Banger.runTo(ctx, nil, counted, append(args, argv...)...)
		if err == nil && counted.n != s.Bytes {
			err = fmt.Errorf("%d bytes came instead of %d", counted.n, s.Bytes)
		}
		return err
	}
	args = []string{"vm", "exec", "-i", s.VM, "--", "sh", "-c", "cat >/dev/null"}
	return s.Banger.runTo(ctx, io.LimitReader(zeros{}, s.Bytes), counted, args...)
}

// counter counts what is written to it.
type counter struct{ n int64 }

// Write takes everything.
func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// zeros has no end.
type zeros struct{}

// Read fills b.
func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
