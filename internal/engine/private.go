package engine

import (
	"fmt"
	"os"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
)

// CheckPrivate refuses, for sockets, a directory that another user owns or can enter: below a shared directory such as /tmp,
// somebody else may have made it first.
func CheckPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("checking the runtime directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && info.IsDir() && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	err = fmt.Errorf("checking the runtime directory %q: it is not a directory that only this user can enter", dir)
	return fault.New(fault.Failure, err, "remove it, or set XDG_RUNTIME_DIR to a directory of your own")
}
