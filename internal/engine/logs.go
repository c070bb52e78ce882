package engine

import (
	"errors"
	"os"
	"path/filepath"
	"sort"

	"github.com/banger-vm/banger/internal/vm"
)

// keptLogs is how many consoles of failed boots stay below logs/.
const keptLogs = 10

// keepLog moves the console log of a boot that failed out of the VM's directory, which is about to go, and says so in
// the error. An error of another kind passes unchanged.
func (e *Engine) keepLog(err error) error {
	var boot *vm.BootError
	if !errors.As(err, &boot) || boot.Log == "" {
		return err
	}
	if info, statErr := os.Stat(boot.Log); statErr != nil || info.Size() == 0 {
		boot.Log = "" // nothing to keep
		return err
	}
	kept := e.home.Path("logs", boot.Name+".console.log")
	if os.MkdirAll(filepath.Dir(kept), 0o700) != nil || os.Rename(boot.Log, kept) != nil {
		boot.Log = ""
		return err
	}
	boot.Log = kept
	removeOldest(filepath.Dir(kept))
	return err
}

// removeOldest keeps the newest of the logs.
func removeOldest(dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.console.log"))
	sort.Slice(logs, func(i, j int) bool { return modified(logs[i]) > modified(logs[j]) })
	for _, log := range logs[min(len(logs), keptLogs):] {
		_ = os.Remove(log)
	}
}

func modified(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}
