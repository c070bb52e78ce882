package daemon

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/port"
)

// stopLimit is how long a VM may take to stop where the request does not say.
const stopLimit = 30 * time.Second

func listVMs(c *call) error {
	vms, broken := c.engine.ListVMs(c.ctx())
	return c.answer(api.VMs{VMs: vms, Error: api.ErrorOf(broken)})
}

func createVM(c *call) error {
	options := engine.DefaultVMOptions()
	if err := c.decode(&options); err != nil {
		return err
	}
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) { return e.CreateVM(ctx, options) })
}

func inspectVM(c *call) error {
	vm, err := c.engine.FindVM(c.ctx(), c.target())
	if err != nil {
		return err
	}
	return c.answer(vm)
}

func removeVM(c *call) error {
	force, err := c.flag("force")
	if err != nil {
		return err
	}
	return c.done(c.engine.RemoveVM(c.ctx(), c.target(), force))
}

func startVM(c *call) error {
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) {
		if err := e.StartVM(ctx, c.target()); err != nil {
			return nil, err
		}
		return e.FindVM(ctx, c.target())
	})
}

// stopLimit reads how long the VM may take to stop. Less than no time, which is for ever with docker, is refused rather than
// taken for a wish to cut its power.
func (c *call) stopLimit() (time.Duration, error) {
	asked := api.Stop{Limit: stopLimit}
	err := c.decodeOptional(&asked)
	if err == nil && asked.Limit < 0 {
		err = fault.New(fault.Usage, fmt.Errorf("reading the request: limit_ns %d is no time", asked.Limit), "pass nanoseconds")
	}
	return asked.Limit, err
}

func stopVM(c *call) error {
	limit, err := c.stopLimit()
	if err != nil {
		return err
	}
	return c.done(c.engine.StopVM(c.ctx(), c.target(), limit))
}

func restartVM(c *call) error {
	limit, err := c.stopLimit()
	if err != nil {
		return err
	}
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) {
		if err := e.RestartVM(ctx, c.target(), limit); err != nil {
			return nil, err
		}
		return e.FindVM(ctx, c.target())
	})
}

func killVM(c *call) error { return c.done(c.engine.KillVM(c.ctx(), c.target())) }

func signalVM(c *call) error {
	var asked api.Signal
	if err := c.decode(&asked); err != nil {
		return err
	}
	number, err := engine.ParseSignal(asked.Signal)
	if err != nil {
		return err
	}
	return c.done(c.engine.SignalVM(c.ctx(), c.target(), number))
}

func waitVM(c *call) error {
	code, err := c.engine.WaitVM(c.ctx(), c.target())
	if err != nil {
		return err
	}
	return c.answer(api.Ended{ExitCode: code})
}

func pruneVMs(c *call) error {
	removed, failed := c.engine.PruneVMs(c.ctx())
	return c.answer(api.Pruned{Removed: orEmpty(removed), Error: api.ErrorOf(failed)})
}

func statsOfVMs(c *call) error {
	stats, failed := c.engine.Stats(c.ctx(), c.r.URL.Query()["vm"])
	return c.answer(api.Stats{VMs: orEmpty(stats), Error: api.ErrorOf(failed)})
}

func listPorts(c *call) error {
	ports, err := c.engine.Ports(c.ctx(), c.r.URL.Query().Get("vm"))
	if err != nil {
		return err
	}
	return c.answer(api.Ports{Ports: ports})
}

func (c *call) changed(ports []port.Published, err error) error {
	if err != nil {
		return err
	}
	return c.answer(api.Changed{Ports: orEmpty(ports)})
}

func addPorts(c *call) error {
	var asked api.Publish
	if err := c.decode(&asked); err != nil {
		return err
	}
	return c.changed(c.engine.AddPorts(c.ctx(), c.target(), asked.Ports))
}

func removePorts(c *call) error {
	return c.changed(c.engine.RemovePorts(c.ctx(), c.target(), c.r.URL.Query()["port"]))
}

func logsOfVM(c *call) error {
	options, err := c.logOptions()
	if err != nil {
		return err
	}
	out := c.lines()
	stdout, stderr := out.outputs()
	err = c.engine.Logs(c.ctx(), c.target(), options, stdout, stderr)
	if err == nil && !c.begun {
		_, err = out.to.Write(nil) // there is nothing to show
	}
	if err != nil && c.begun {
		return out.send(api.Output{Error: api.ErrorOf(c.cause(err))})
	}
	return err
}

func (c *call) logOptions() (options engine.LogOptions, err error) {
	options.Tail = -1
	query := c.r.URL.Query()
	if text := query.Get("tail"); text != "" && text != "all" {
		if options.Tail, err = strconv.Atoi(text); err != nil || options.Tail < 0 {
			return options, badParameter("tail", text, "pass a number of lines, or all")
		}
	}
	if text := query.Get("since"); text != "" {
		if options.Since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return options, badParameter("since", text, "write it like 2026-01-02T15:04:05Z")
		}
	}
	if options.Console, err = c.flag("console"); err != nil {
		return options, err
	}
	options.Follow, err = c.flag("follow")
	return options, err
}

// execInVM runs a command: as frames, where the client asks for that, else without an input and with lines for an answer.
func execInVM(c *call) error {
	var command exec.Command
	if err := c.decode(&command); err != nil {
		return err
	}
	switch {
	case command.Detach:
		pid, err := c.engine.ExecDetached(c.ctx(), c.target(), command)
		if err != nil {
			return err
		}
		return c.answer(api.Process{PID: pid})
	case c.asksFor(api.UpgradeFrames):
		stream, err := c.engine.BeginExec(c.ctx(), c.target(), command)
		if err != nil {
			return err
		}
		return c.join(api.UpgradeFrames, stream)
	}
	return c.execLines(command)
}

func (c *call) execLines(command exec.Command) error {
	out := c.lines()
	options := engine.ExecOptions{Command: command}
	options.Streams.TTY = command.TTY
	options.Stdout, options.Stderr = out.outputs()
	options.Started = func() error { return nil }
	code, err := c.engine.Exec(c.ctx(), c.target(), options)
	switch {
	case err == nil:
		return out.send(api.Output{ExitCode: &code})
	case c.begun:
		return out.send(api.Output{Error: api.ErrorOf(c.cause(err))})
	}
	return err
}

func streamToVM(c *call) error {
	if err := c.mustAskFor(api.UpgradeStream); err != nil {
		return err
	}
	stream, err := c.engine.Stream(c.ctx(), c.target())
	if err != nil {
		return err
	}
	return c.join(api.UpgradeStream, stream)
}

// runVM makes a VM and boots it. A client that is to be with it needs a connection of its own; one that leaves the VM
// alone gets an ordinary answer.
func runVM(c *call) error {
	options := engine.BeginOptions{VMOptions: engine.DefaultVMOptions()}
	if err := c.decode(&options); err != nil {
		return err
	}
	if err := options.Check(); err != nil {
		return err
	}
	if !options.Detach {
		return c.runAttached(options)
	}
	return c.long(func(ctx context.Context, e *engine.Engine) (any, error) {
		options.Created = func(string) {}
		begun, err := e.Begin(ctx, options)
		if err != nil {
			return nil, err
		}
		return api.Begun{VM: begun.VM}, nil
	})
}
