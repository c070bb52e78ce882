package engine

import (
	"context"
	"errors"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/port"
)

// VMPort is a published port and its VM.
type VMPort struct {
	VM string `json:"vm"`
	port.Published
}

var errNoPorts = errors.New("ports cannot be published yet")

// AddPorts publishes ports of a running VM, as package port writes them, and returns what is open. It publishes all of
// them, or none.
func (e *Engine) AddPorts(_ context.Context, vm string, specs []string) ([]port.Published, error) {
	return e.changePorts(vm, specs)
}

// RemovePorts stops publishing the ports that specs select, and returns them. Their connections end.
func (e *Engine) RemovePorts(_ context.Context, vm string, specs []string) ([]port.Published, error) {
	return e.changePorts(vm, specs)
}

func (e *Engine) changePorts(vm string, specs []string) ([]port.Published, error) {
	for _, spec := range specs {
		if _, err := port.Parse(spec); err != nil {
			return nil, err
		}
	}
	if _, err := e.instance(vm); err != nil {
		return nil, err
	}
	return nil, fault.New(fault.Unsupported, errNoPorts, "")
}

// Ports returns the published ports of a VM, or those of all VMs when vm is empty.
func (e *Engine) Ports(_ context.Context, vm string) ([]VMPort, error) {
	if vm == "" {
		return []VMPort{}, nil
	}
	_, err := e.instance(vm)
	return []VMPort{}, err
}
