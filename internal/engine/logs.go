package engine

import (
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/banger-vm/banger/internal/vm"
)

const (
	// keptLogs is how many consoles of failed boots stay below logs/.
	keptLogs = 10
	keptLog  = ".console.log" // ends their names
)

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
	kept := e.home.Path("logs", boot.Name+keptLog)
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
	entries, _ := os.ReadDir(dir)
	var logs []string
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), keptLog) {
			logs = append(logs, filepath.Join(dir, entry.Name()))
		}
	}
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
