package engine

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// Monitor is the life of the process that stands behind a VM, see package monitor. It serves first, the connection that
// started it, and finds programs on path; log
// is for people.
func Monitor(ctx context.Context, first net.Conn, path string, log io.Writer, random io.Reader, now func() time.Time) error {
	return monitor.Serve(ctx, first, monitor.Surroundings{
		Runner: system.NewCommandRunner(path), Log: log, Random: random, Now: now,
	})
}
