package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/guest/machine"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// Stats are the figures of a VM that runs.
type Stats struct {
	Name       string        `json:"name"`
	Guest      machine.Stats `json:"guest"`          // the guest's word
	HostMemory uint64        `json:"host_memory"`    // resident memory of the VMM, in bytes
	Monitor    uint64        `json:"monitor_memory"` // resident memory of the monitor, in bytes
}

// statsLimit is how long a guest may take to give its figures.
const statsLimit = 10 * time.Second

// Stats returns the figures of the VMs that are named, or of all that run. One that cannot be asked is reported in the
// error, beside the rest.
func (e *Engine) Stats(ctx context.Context, names []string) ([]Stats, error) {
	instances, err := e.running(names)
	failed := []error{err}
	all := []Stats{}
	for _, i := range instances {
		s, err := e.statsOf(ctx, i)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, s)
	}
	return all, errors.Join(failed...)
}

// running returns the VMs that are named, or those that run.
func (e *Engine) running(names []string) ([]*instance.Instance, error) {
	if len(names) == 0 {
		list, err := e.vms.List()
		var running []*instance.Instance
		for _, i := range list {
			if i.Runs() {
				running = append(running, i)
			}
		}
		return running, err
	}
	var list []*instance.Instance
	var failed []error
	for _, name := range names {
		i, err := e.instance(name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		list = append(list, i)
	}
	return list, errors.Join(failed...)
}

func (e *Engine) statsOf(ctx context.Context, i *instance.Instance) (Stats, error) {
	limited, cancel := context.WithTimeout(ctx, statsLimit)
	defer cancel()
	stream, err := e.stream(limited, i)
	if err != nil {
		return Stats{}, err
	}
	s := Stats{Name: i.Name}
	if s.Guest, err = machine.ReadStats(limited, stream); err != nil {
		return Stats{}, fmt.Errorf("asking the VM %q: %w", i.Name, err)
	}
	if m, err := i.Monitor(); err == nil {
		s.HostMemory, s.Monitor = residentMemory(m.VMM), residentMemory(m.PID)
	}
	return s, nil
}

// residentMemory returns a process's resident memory in bytes (proc(5), statm), or 0.
func residentMemory(pid int) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(fields[1], 10, 63)
	return pages * uint64(os.Getpagesize())
}
