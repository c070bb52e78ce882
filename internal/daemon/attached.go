package daemon

import (
	"context"
	"net"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
)

// join makes the client's connection one with stream until either ends.
func (c *call) join(protocol string, stream net.Conn) error {
	client, release, err := c.upgrade(protocol)
	if err != nil {
		_ = stream.Close()
		return err
	}
	defer release()
	join(client, stream)
	return nil
}

// runAttached tells the client how the VM comes up, and then joins it with the VM's command. Until that runs, the client's
// end is the end of the VM; from then on the command finds the end of its input, as without a daemon.
func (c *call) runAttached(options engine.BeginOptions) error {
	if err := c.mustAskFor(api.UpgradeRun); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	client, release, err := c.upgrade(api.UpgradeRun)
	if err != nil {
		return err
	}
	defer release()
	out := lines{to: client, flush: func() {}}
	options.Created = func(name string) { _ = out.send(api.Event{Created: name}) }
	stop := client.watch(cancel)
	begun, err := c.engine.Reporting(out.report).Begin(ctx, options)
	stop()
	if err != nil {
		return out.finish(nil, c.cause(err))
	}
	err = out.finish(api.Begun{VM: begun.VM, Attached: begun.Conn != nil}, nil)
	if begun.Conn == nil {
		return err
	}
	join(client, begun.Conn) // ends at once if the client has gone
	return nil
}
