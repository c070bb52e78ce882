package engine

import (
	"context"

	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// AddPorts publishes ports of a VM that runs, as package port writes them: all of them or, on an error, none. The VM
// keeps them when it is started again.
func (e *Engine) AddPorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	client, err := e.runningClient(ctx, name, "publishing ports of")
	if err != nil {
		return nil, err
	}
	return client.AddPorts(ctx, specs)
}

// RemovePorts stops publishing ports of a VM that runs, and returns those that were.
func (e *Engine) RemovePorts(ctx context.Context, name string, specs []string) ([]port.Published, error) {
	client, err := e.runningClient(ctx, name, "closing ports of")
	if err != nil {
		return nil, err
	}
	return client.RemovePorts(ctx, specs)
}

// VMPort is a published port and its VM.
type VMPort struct {
	VM string `json:"vm"`
	port.Published
}

// Ports returns what a VM publishes, or all VMs when name is empty. One that does not run publishes nothing.
func (e *Engine) Ports(ctx context.Context, name string) ([]VMPort, error) {
	vms, err := e.named(ctx, name)
	ports := []VMPort{}
	for _, vm := range vms {
		if vm.Status == nil {
			continue
		}
		for _, p := range vm.Status.Ports {
			ports = append(ports, VMPort{vm.Name, p})
		}
	}
	return ports, err
}

// named returns the VM of that name, or all when it is empty.
func (e *Engine) named(ctx context.Context, name string) ([]VM, error) {
	if name == "" {
		return e.ListVMs(ctx)
	}
	vm, err := e.FindVM(ctx, name)
	return []VM{vm}, err
}

// runningClient returns the client of the monitor of a VM that runs.
func (e *Engine) runningClient(ctx context.Context, name, doing string) (monitor.Client, error) {
	i, err := e.instance(name)
	if err != nil {
		return monitor.Client{}, err
	}
	if !i.Runs() {
		return monitor.Client{}, notRunning(doing, name, e.look(ctx, i).State)
	}
	return e.client(i), nil
}
