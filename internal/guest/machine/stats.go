package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/stat, USER_HZ of the kernel, which is 100 on every architecture that banger boots.
const tick = time.Second / 100

// sector is the unit of /proc/diskstats in bytes, whatever the disk's own is (Documentation/admin-guide/iostats.rst).
const sector = 512

// readStats reads the figures. Each file that is missing is an error: the kernel has them all.
func (g *Guest) readStats() (Stats, error) {
	var s Stats
	var failed []error
	for _, source := range []struct {
		file  string
		parse func(text string, s *Stats) error
	}{
		{"uptime", parseUptime}, {"stat", parseCPU}, {"loadavg", parseLoad}, {"meminfo", parseMemory},
		{"diskstats", parseDisks}, {"net/dev", parseNetwork}, {"self/statm", parseOwnMemory},
	} {
		text, err := fs.ReadFile(g.proc, source.file)
		if err == nil {
			err = source.parse(string(text), &s)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("reading /proc/%s: %w", source.file, err))
		}
	}
	failed = append(failed, g.countProcesses(&s), g.measureRoot(&s))
	return s, errors.Join(failed...)
}

func (g *Guest) countProcesses(s *Stats) error {
	entries, err := fs.ReadDir(g.proc, ".")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			s.Processes++
		}
	}
	return err
}

func (g *Guest) measureRoot(s *Stats) error {
	var root unix.Statfs_t
	if err := unix.Statfs(g.root, &root); err != nil {
		return fmt.Errorf("measuring the root file system: %w", err)
	}
	s.RootSize, s.RootFree = root.Blocks*uint64(root.Bsize), root.Bfree*uint64(root.Bsize)
	return nil
}

var errFormat = errors.New("unknown format")

// parseUptime reads "SECONDS SECONDS", of which the second is the idle time.
func parseUptime(text string, s *Stats) error {
	first, _, _ := strings.Cut(text, " ")
	seconds, err := strconv.ParseFloat(strings.TrimSpace(first), 64)
	if err != nil || !(seconds >= 0 && seconds < 1e9) {
		return errFormat
	}
	s.Uptime = time.Duration(seconds * float64(time.Second))
	return nil
}

// parseCPU reads the line "cpu user nice system idle iowait irq softirq steal guest guest_nice", and counts the lines
// of single CPUs. The times of guests are in user and nice already.
func parseCPU(text string, s *Stats) error {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu"):
		case fields[0] != "cpu":
			s.CPUs++
		default:
			times := numbers(fields[1:min(len(fields), 9)])
			if len(times) < 8 {
				return errFormat
			}
			for i, t := range times {
				s.CPUTotal += time.Duration(t) * tick
				const idle, wait, steal = 3, 4, 7
				if i != idle && i != wait && i != steal {
					s.CPUBusy += time.Duration(t) * tick
				}
			}
		}
	}
	if s.CPUs == 0 {
		return errFormat
	}
	return nil
}

// numbers parses fields up to the first that is no number.
func numbers(fields []string) []uint64 {
	var values []uint64
	for _, f := range fields {
		v, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			break
		}
		values = append(values, v)
	}
	return values
}

func parseLoad(text string, s *Stats) error {
	fields := strings.Fields(text)
	if len(fields) < len(s.Load) {
		return errFormat
	}
	for i := range s.Load {
		load, err := strconv.ParseFloat(fields[i], 64)
		if err != nil || !(load >= 0 && load < 1e9) { // JSON has no infinity
			return errFormat
		}
		s.Load[i] = load
	}
	return nil
}

// parseMemory reads lines such as "MemTotal:  243040 kB", whose unit is KiB.
func parseMemory(text string, s *Stats) error {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		values := numbers(strings.Fields(rest))
		if len(values) == 0 {
			continue
		}
		switch name {
		case "MemTotal":
			s.MemoryTotal = values[0] << 10
		case "MemAvailable":
			s.MemoryAvailable = values[0] << 10
		}
	}
	if s.MemoryTotal == 0 || s.MemoryAvailable > s.MemoryTotal {
		return errFormat
	}
	s.MemoryUsed = s.MemoryTotal - s.MemoryAvailable
	return nil
}

// parseOwnMemory reads "size resident …" in pages (proc(5), statm).
func parseOwnMemory(text string, s *Stats) error {
	values := numbers(strings.Fields(text))
	if len(values) < 2 {
		return errFormat
	}
	s.AgentMemory = values[1] * uint64(os.Getpagesize())
	return nil
}

// parseDisks sums up the virtio disks: "major minor name reads merged sectors ms writes merged sectors …". Their
// partitions, vda1, are in them.
func parseDisks(text string, s *Stats) error {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		name, isVirtio := strings.CutPrefix(fields[2], "vd")
		if !isVirtio || strings.ContainsAny(name, "0123456789") {
			continue
		}
		values := numbers(fields[3:10])
		if len(values) < 7 {
			return errFormat
		}
		s.DiskRead += values[2] * sector
		s.DiskWritten += values[6] * sector
	}
	return nil
}

// card is the network card that the host gives a guest. The interfaces of containers count its bytes once more.
const card = "eth0"

// parseNetwork reads the card's line: "name: bytes packets errs drop fifo frame compressed multicast bytes …".
func parseNetwork(text string, s *Stats) error {
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(line, ":")
		if !found || strings.TrimSpace(name) != card {
			continue
		}
		values := numbers(strings.Fields(rest))
		if len(values) < 9 {
			return errFormat
		}
		s.NetReceived, s.NetSent = values[0], values[8]
	}
	return nil
}
