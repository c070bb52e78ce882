package engine

import (
	"context"

	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// AddPorts publishes ports of a VM that runs, as package port writes them: all of them or, on an error, none. The VM
// keeps them when it is started again.
func (e *Engine) AddPorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	_, client, err := e.runningClient(ctx, name, "publishing ports of")
	if err != nil {
		return nil, err
	}
	return client.AddPorts(ctx, specs)
}

// RemovePorts stops publishing ports of a VM that runs, and returns those that were.
func (e *Engine) RemovePorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	_, client, err := e.runningClient(ctx, name, "closing ports of")
	if err != nil {
		return nil, err
	}
	return client.RemovePorts(ctx, specs)
}

// Ports returns what a VM publishes. One that does not run publishes nothing.
func (e *Engine) Ports(ctx context.Context, name string) ([]port.Published, error) {
	vm, err := e.FindVM(ctx, name)
	if err != nil || vm.Status == nil {
		return nil, err
	}
	return vm.Status.Ports, nil
}

// runningClient returns a VM that runs, and the client of its monitor.
func (e *Engine) runningClient(ctx context.Context, name, doing string) (*instance.Instance, monitor.Client, error) {
	i, err := e.instance(name)
	if err != nil {
		return nil, monitor.Client{}, err
	}
	if !i.Runs() {
		return nil, monitor.Client{}, notRunning(doing, name, e.look(ctx, i).State)
	}
	return i, e.client(i), nil
}
