package contender

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fsync"
)

// Measurement is what one run took.
type Measurement struct {
	Ready  time.Duration // until the contender was done; 0 if it is only known with the syncing
	Synced time.Duration // until the file was on the disk, too; 0 if that was left out
	CPU    time.Duration // user and system time until then, child processes included
	Memory int64         // greatest resident memory of the process and of each child, in bytes
	Before int64         // what of Memory had been reached when the clock started
	Stored int64         // bytes that the file takes on the disk
}

// syncing says what a contender does about bringing its file to the disk.
type syncing uint8

const (
	never  syncing = iota // the caller does it
	always                // the contender did it before it returned
	faked                 // the contender believes to have done it
)

// measure runs write, which makes the file, and syncs that unless it has been done or is not wanted. What earlier runs
// wrote is on the disk before the clock starts.
func measure(file string, s syncing, write func() error) (m Measurement, err error) {
	unix.Sync()
	before, err := usage()
	if err != nil {
		return m, err
	}
	start := time.Now()
	if err := write(); err != nil {
		return m, err
	}
	done := time.Since(start)
	if s != always {
		m.Ready = done
	}
	if s != faked {
		if err := fsync.Path(file); err != nil {
			return m, err
		}
		m.Synced = time.Since(start)
	}
	after, err := usage()
	if err != nil {
		return m, err
	}
	m.CPU = after.cpu - before.cpu
	m.Memory, m.Before = after.memory, before.memory
	m.Stored, err = stored(file)
	return m, err
}

// resources are what this process and its ended children have used.
type resources struct {
	cpu    time.Duration
	memory int64 // bytes
}

func usage() (resources, error) {
	var self, children unix.Rusage
	err := errors.Join(unix.Getrusage(unix.RUSAGE_SELF, &self), unix.Getrusage(unix.RUSAGE_CHILDREN, &children))
	if err != nil {
		return resources{}, fmt.Errorf("reading the resources used: %w", err)
	}
	resident, err := peakMemory()
	if err != nil {
		return resources{}, err
	}
	cpu := self.Utime.Nano() + self.Stime.Nano() + children.Utime.Nano() + children.Stime.Nano()
	return resources{time.Duration(cpu), max(resident, children.Maxrss<<10)}, nil
}

// peakMemory returns VmHWM of proc_pid_status(5). Unlike getrusage's, it does not count what the process was before it
// executed this program (fs/exec.c, exec_mmap).
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("\nVmHWM:"))
	value, _, ok := bytes.Cut(rest, []byte(" kB\n"))
	kib, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("reading the peak of memory in /proc/self/status: %q", value)
	}
	return kib << 10, nil
}

// stored returns the bytes that a file takes on the disk.
func stored(file string) (int64, error) {
	var s unix.Stat_t
	if err := unix.Stat(file, &s); err != nil {
		return 0, fmt.Errorf("reading how much %q takes: %w", file, err)
	}
	return s.Blocks * 512, nil
}
