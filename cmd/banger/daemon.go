package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/docs"
	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/daemon"
	"github.com/banger-vm/banger/internal/guest/embedded"
)

func newDaemon(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "daemon", Short: "Serve banger's API on a Unix socket", Args: exactly(),
		Long: `Serve banger's API, HTTP and JSON, on a Unix socket that only this user can reach: api.sock below
$XDG_RUNTIME_DIR/banger, or what --host says. docs/api.md describes it.

Nothing needs the daemon: it is for programs, and for those who want banger's work done by one process. VMs do not belong
to it: when it ends, they run on, and the daemon that is started next finds them.`,
		Example: `  banger daemon
  banger --host unix://$XDG_RUNTIME_DIR/banger/api.sock vm ls
  curl --unix-socket $XDG_RUNTIME_DIR/banger/api.sock http://banger/v1/vms`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.daemon(cmd.Context()) },
	}
}

func (a *app) daemon(ctx context.Context) error {
	socket, err := a.daemonSocket()
	if err != nil {
		return err
	}
	e, err := a.localEngine()
	if err != nil {
		return err
	}
	listener, err := daemon.Listen(ctx, socket)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(a.stderr, "banger: listening on unix://%s\n", socket)
	server := daemon.New(daemon.Config{
		Engine: e, OpenAPI: docs.OpenAPI(), Log: a.stderr,
		Versions: api.Versions{API: api.Version, Banger: ownVersion(), Agent: embedded.Version()},
	})
	return server.Serve(ctx, listener)
}

// daemonSocket is where the daemon listens.
func (a *app) daemonSocket() (string, error) {
	if host := a.daemonHost(); host != "" {
		return socketOf(host)
	}
	return filepath.Join(a.runtimeDir(), "api.sock"), nil
}
