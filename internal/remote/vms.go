package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/port"
)

// CreateVM makes a VM and does not start it.
func (c *Client) CreateVM(ctx context.Context, options engine.VMOptions) (vm engine.VM, err error) {
	if options.Image, err = oci.Absolute(options.Image); err != nil {
		return vm, err
	}
	err = c.follow(ctx, post(options, "vms"), &vm)
	return vm, err
}

// FindVM returns the VM of that name.
func (c *Client) FindVM(ctx context.Context, name string) (vm engine.VM, err error) {
	err = c.ask(ctx, get("vms", name), &vm)
	return vm, err
}

// ListVMs returns all VMs by name, and an error for those that cannot be read.
func (c *Client) ListVMs(ctx context.Context) ([]engine.VM, error) {
	var answer api.VMs
	if err := c.ask(ctx, get("vms"), &answer); err != nil {
		return nil, err
	}
	return answer.VMs, answer.Error.Received()
}

// StartVM starts a VM that does not run.
func (c *Client) StartVM(ctx context.Context, name string) error {
	return c.follow(ctx, post(nil, "vms", name, "start"), &engine.VM{})
}

// StopVM stops a VM in good order, and kills it if that takes longer than limit.
func (c *Client) StopVM(ctx context.Context, name string, limit time.Duration) error {
	return c.ask(ctx, post(api.Stop{Limit: limit}, "vms", name, "stop"), nil)
}

// RestartVM stops a VM, if it runs, and starts it.
func (c *Client) RestartVM(ctx context.Context, name string, limit time.Duration) error {
	return c.follow(ctx, post(api.Stop{Limit: limit}, "vms", name, "restart"), &engine.VM{})
}

// KillVM ends a VM at once.
func (c *Client) KillVM(ctx context.Context, name string) error {
	return c.ask(ctx, post(nil, "vms", name, "kill"), nil)
}

// SignalVM sends a signal to the VM's command.
func (c *Client) SignalVM(ctx context.Context, name string, signal syscall.Signal) error {
	return c.ask(ctx, post(api.Signal{Signal: strconv.Itoa(int(signal))}, "vms", name, "signal"), nil)
}

// WaitVM waits for the end of a VM and returns its exit code.
func (c *Client) WaitVM(ctx context.Context, name string) (int, error) {
	var answer api.Ended
	err := c.ask(ctx, post(nil, "vms", name, "wait"), &answer)
	return answer.ExitCode, err
}

// RemoveVM removes a VM with its disk, killed first if force says so.
func (c *Client) RemoveVM(ctx context.Context, name string, force bool) error {
	r := request{method: http.MethodDelete, path: []string{"vms", name}}
	if force {
		r.query = url.Values{"force": {"true"}}
	}
	return c.ask(ctx, r, nil)
}

// PruneVMs removes all VMs that do not run, and returns their names.
func (c *Client) PruneVMs(ctx context.Context) ([]string, error) {
	var answer api.Pruned
	if err := c.ask(ctx, post(nil, "prune"), &answer); err != nil {
		return nil, err
	}
	return answer.Removed, answer.Error.Received()
}

// Stats returns the figures of the VMs that are named, or of all that run.
func (c *Client) Stats(ctx context.Context, names []string) ([]engine.Stats, error) {
	var answer api.Stats
	r := get("stats")
	r.query = url.Values{"vm": names}
	if err := c.ask(ctx, r, &answer); err != nil {
		return nil, err
	}
	return answer.VMs, answer.Error.Received()
}

// Ports returns what a VM publishes, or all VMs when name is empty.
func (c *Client) Ports(ctx context.Context, name string) ([]engine.VMPort, error) {
	r := get("ports")
	if name != "" {
		r.query = url.Values{"vm": {name}}
	}
	var answer api.Ports
	err := c.ask(ctx, r, &answer)
	return answer.Ports, err
}

// AddPorts publishes ports of a VM that runs.
func (c *Client) AddPorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	return c.changePorts(ctx, post(api.Publish{Ports: specs}, "vms", name, "ports"))
}

// RemovePorts stops publishing ports of a VM that runs, and returns those that were.
func (c *Client) RemovePorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	r := request{method: http.MethodDelete, path: []string{"vms", name, "ports"}, query: url.Values{"port": specs}}
	return c.changePorts(ctx, r)
}

func (c *Client) changePorts(ctx context.Context, r request) ([]port.Published, error) {
	var answer api.Changed
	err := c.ask(ctx, r, &answer)
	return answer.Ports, err
}

// Logs writes what a VM's command, or its console, has printed.
func (c *Client) Logs(ctx context.Context, name string, options engine.LogOptions, stdout, stderr io.Writer) error {
	r := get("vms", name, "logs")
	r.query = url.Values{"console": {strconv.FormatBool(options.Console)}, "follow": {strconv.FormatBool(options.Follow)}}
	if options.Tail >= 0 {
		r.query.Set("tail", strconv.Itoa(options.Tail))
	}
	if !options.Since.IsZero() {
		r.query.Set("since", options.Since.Format(time.RFC3339Nano))
	}
	answer, err := c.send(ctx, r, api.Events)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	return printed(ctx, answer.Body, stdout, stderr)
}

// printed writes the lines of an answer to the outputs that they are of.
func printed(ctx context.Context, from io.Reader, stdout, stderr io.Writer) error {
	for decoder := json.NewDecoder(from); ; {
		var line api.Output
		err := decoder.Decode(&line)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return lost(ctx, err)
		case line.Error != nil:
			return line.Error.Received()
		}
		to := stdout
		if line.Stream == "stderr" {
			to = stderr
		}
		if _, err := to.Write(append([]byte(line.Text), line.Bytes...)); err != nil {
			return err
		}
	}
}
