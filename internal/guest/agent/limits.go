package agent

import (
	"errors"
	"fmt"
	"syscall"
)

// The limits of what runs in the guest: of open files as under systemd (system.conf of systemd, DefaultLimitNOFILE),
// 1024 for programs that use select(2), and as many as any needs for those that ask. The kernel's own limit of a user's
// processes shrinks with the memory, and docker sets none.
const (
	softFiles = 1024
	hardFiles = 524288

	limitProcesses = 6 // RLIMIT_NPROC of include/uapi/asm-generic/resource.h
)

// setLimits sets the limits that the agent and all commands inherit.
func setLimits() error {
	var failed []error
	for _, limit := range []struct {
		name     string
		resource int
		value    syscall.Rlimit
	}{
		{"open files", syscall.RLIMIT_NOFILE, syscall.Rlimit{Cur: softFiles, Max: hardFiles}},
		{"processes", limitProcesses, syscall.Rlimit{Cur: ^uint64(0), Max: ^uint64(0)}},
	} {
		if err := syscall.Setrlimit(limit.resource, &limit.value); err != nil {
			failed = append(failed, fmt.Errorf("setting the limit of %s: %w", limit.name, err))
		}
	}
	return errors.Join(failed...)
}
