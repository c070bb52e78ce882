package monitor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// publish publishes the ports that the VM was made with.
func (m *monitor) publish() error {
	m.ports = port.New(port.Config{
		Open: m.openStream, Holder: m.holder,
		Report: func(err error) { m.say("%v", err) },
	})
	specs, err := parsePorts(m.instance.Ports)
	if err == nil {
		_, err = m.ports.Add(specs...)
	}
	if err != nil {
		return fmt.Errorf("publishing the ports of the VM %q: %w", m.instance.Name, err)
	}
	return nil
}

func parsePorts(texts []string) ([]port.Spec, error) {
	var specs []port.Spec
	for _, text := range texts {
		parsed, err := port.Parse(text)
		if err != nil {
			return nil, err
		}
		specs = append(specs, parsed...)
	}
	return specs, nil
}

// openStream opens a stream to the agent, and waits for the machine to boot: its ports are open already.
func (m *monitor) openStream(ctx context.Context) (net.Conn, error) {
	select {
	case <-m.booted:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	machine, err := m.running()
	if err != nil {
		return nil, err
	}
	return machine.Open(ctx)
}

// holder names the VM whose monitor has this process id.
func (m *monitor) holder(pid int) string {
	list, _ := instance.NewStore(filepath.Dir(m.instance.Dir)).List()
	for _, i := range list {
		if other, err := i.Monitor(); err == nil && other.PID == pid && i.Runs() {
			return fmt.Sprintf("the VM %q", i.Name)
		}
	}
	return ""
}

// changePorts publishes some ports and some no longer, and has the VM's configuration say so. It returns those that were
// added or removed.
func (m *monitor) changePorts(conn net.Conn, r request) error {
	if _, err := m.running(); err != nil {
		return err
	}
	add, err := parsePorts(r.Add)
	if err != nil {
		return err
	}
	remove, err := parsePorts(r.Remove)
	if err != nil {
		return err
	}
	m.portChange.Lock()
	defer m.portChange.Unlock()
	changed, err := m.ports.Add(add...)
	if err == nil && len(remove) > 0 {
		changed, err = m.ports.Remove(remove...)
	}
	if err != nil {
		return err
	}
	config := m.instance.Config
	for _, spec := range add {
		config.Ports = append(slices.Clone(config.Ports), spec.String())
	}
	if len(remove) > 0 {
		config.Ports = without(config.Ports, changed)
	}
	if err := m.instance.SetConfig(config); err != nil {
		if len(add) > 0 {
			_, _ = m.ports.Remove(specsOf(changed)...)
		}
		return err
	}
	return writeLine(conn, answer{Ports: changed})
}

// specsOf returns the specifications that select just the ports that are published.
func specsOf(published []port.Published) []port.Spec {
	var specs []port.Spec
	for _, p := range published {
		specs = append(specs, port.Spec{IP: p.Address.Addr(), Host: p.Address.Port(), Guest: p.Guest, Protocol: p.Protocol})
	}
	return specs
}

// without takes out of the configuration what is published no longer: for each port the specification that fits best.
func without(texts []string, removed []port.Published) []string {
	specs, _ := parsePorts(texts)
	for _, gone := range removed {
		best := 0
		for _, s := range specs {
			best = max(best, fit(s, gone))
		}
		if best > 0 {
			at := slices.IndexFunc(specs, func(s port.Spec) bool { return fit(s, gone) == best })
			specs = slices.Delete(specs, at, at+1)
		}
	}
	var left []string
	for _, spec := range specs {
		left = append(left, spec.String())
	}
	return left
}

// fit says how well a specification fits a port that was published by one; 0 is not at all. Two may fit that have another
// address, or of which one leaves the host's port open.
func fit(s port.Spec, p port.Published) int {
	if s.Guest != p.Guest || s.Protocol != p.Protocol || s.Host != 0 && s.Host != p.Address.Port() {
		return 0
	}
	ip := s.IP
	if !ip.IsValid() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	fits := 1
	if ip == p.Address.Addr() {
		fits += 2
	}
	if s.Host != 0 {
		fits++
	}
	return fits
}
