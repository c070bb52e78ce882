package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

// newVMMonitor is what banger starts itself as, to stand behind a VM.
func newVMMonitor(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "monitor DIRECTORY", Hidden: true, Args: exactly("a DIRECTORY"),
		Short:   "Stand behind a VM; banger starts this itself",
		Example: "  banger vm run -d debian:bookworm",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.monitor(cmd.Context()) },
	}
}

// monitorSocket is the descriptor of the connection to whoever started the monitor.
const monitorSocket = 3

func (a *app) monitor(ctx context.Context) error {
	syscall.Umask(0o077)
	file := os.NewFile(monitorSocket, "starter")
	first, err := net.FileConn(file)
	if err != nil {
		return usage(fmt.Errorf("standing behind a VM: %w", err), "banger starts this itself: use vm run or vm start")
	}
	_ = file.Close() // first is a copy that no program of ours inherits
	return engine.Monitor(ctx, first, a.getenv("PATH"), a.stderr, rand.Reader, time.Now)
}
