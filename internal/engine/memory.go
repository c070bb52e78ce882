package engine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/fault"
)

// checkMemory refuses a VM of more memory than the host has to give, in bytes: the host's kernel would kill it, or
// something else. meminfo is the path of /proc/meminfo (proc(5)); a host that does not tell is not asked.
func checkMemory(meminfo string, wanted int64) error {
	text, err := os.ReadFile(meminfo)
	if err != nil {
		return nil
	}
	available, known := availableMemory(string(text))
	if !known || wanted <= available {
		return nil
	}
	err = fmt.Errorf("checking the memory: the VM asks for %s, and this host has %s available",
		units.BytesSize(float64(wanted)), units.BytesSize(float64(available)))
	return fault.New(fault.NoSpace, err, "pass a smaller --memory, or stop other VMs")
}

func availableMemory(meminfo string) (bytes int64, known bool) {
	for line := range strings.Lines(meminfo) {
		value, found := strings.CutPrefix(line, "MemAvailable:")
		if !found {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		return kib << 10, err == nil
	}
	return 0, false
}
