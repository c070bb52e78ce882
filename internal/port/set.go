package port

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

const (
	// maxConnections bounds the connections of one TCP port; more wait until one ends.
	maxConnections = 1024
	// dialLimit is how long the guest may take to connect to its service.
	dialLimit = 40 * time.Second
	// idleLimit is how long a flow of datagrams lasts without one.
	idleLimit = 60 * time.Second
	// stopLimit is how long connections may take to end when their port is closed.
	stopLimit = time.Second
	// reportInterval is the least time between two reports, which clients could cause without end.
	reportInterval = time.Second
)

// Config is what a Set works with.
type Config struct {
	// Open opens a stream to the guest's agent.
	Open func(context.Context) (net.Conn, error)
	// Holder says what a process is that holds a port, such as `the VM "web"`; "" when it does not know. It may be nil.
	Holder func(pid int) string
	// Report is told why a connection came to nothing, once a second at most. It may be nil.
	Report func(error)
}

// Set is the published ports of one VM. It is safe for concurrent use.
type Set struct {
	config Config
	idle   time.Duration

	mu     sync.Mutex
	open   []publication
	closed bool

	reporting sync.Mutex
	reported  time.Time // when the last report was
}

// publication is one published port.
type publication struct {
	Published
	port listener
}

// listener is what listens on the host.
type listener interface {
	// stop stops listening at once, ends every connection, and returns when nothing of it is left.
	stop()
}

// New returns an empty Set.
func New(c Config) *Set { return &Set{config: c, idle: idleLimit} }

// report passes a failure on, unless another one has just been.
func (s *Set) report(err error) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	if now := time.Now(); s.config.Report != nil && now.Sub(s.reported) >= reportInterval {
		s.reported = now
		s.config.Report(err)
	}
}

// Add publishes all of specs, or none of them. A port that is in use is a Conflict with *InUse in its chain.
func (s *Set) Add(specs ...Spec) ([]Published, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("publishing ports: %w", net.ErrClosed)
	}
	if len(s.open)+len(specs) > maxPorts {
		return nil, fault.New(fault.Usage, fmt.Errorf("publishing %d ports: a VM has at most %d", len(specs), maxPorts), "")
	}
	before := len(s.open)
	for _, spec := range specs {
		p, err := s.publish(spec)
		if err != nil {
			stopAll(s.open[before:])
			s.open = slices.Clip(s.open[:before])
			return nil, fmt.Errorf("publishing port %d/%s: %w", spec.Guest, spec.Protocol, err)
		}
		s.open = append(s.open, p)
	}
	return published(s.open[before:]), nil
}

// publish opens one port.
func (s *Set) publish(spec Spec) (publication, error) {
	listen := s.listenTCP
	if spec.Protocol == UDP {
		listen = s.listenUDP
	}
	p, err := listen(spec)
	if err != nil {
		return publication{}, s.explain(spec, err)
	}
	return p, nil
}

// Remove stops publishing what specs select, and resets its connections. A specification that selects nothing is NotFound,
// and then nothing is removed.
func (s *Set) Remove(specs ...Spec) ([]Published, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, spec := range specs {
		if !slices.ContainsFunc(s.open, func(p publication) bool { return spec.selects(p.Published) }) {
			return nil, fault.New(fault.NotFound, fmt.Errorf("port %s is not published", spec), s.names())
		}
	}
	var kept, removed []publication
	for _, p := range s.open {
		if slices.ContainsFunc(specs, func(spec Spec) bool { return spec.selects(p.Published) }) {
			removed = append(removed, p)
		} else {
			kept = append(kept, p)
		}
	}
	s.open = kept
	stopAll(removed)
	return published(removed), nil
}

// names lists what is published, for a hint.
func (s *Set) names() string {
	if len(s.open) == 0 {
		return "no port is published"
	}
	var names []string
	for _, p := range s.open {
		names = append(names, p.String())
	}
	return "published are " + strings.Join(names, ", ")
}

// List returns what is published, in the order in which it was added.
func (s *Set) List() []Published {
	s.mu.Lock()
	defer s.mu.Unlock()
	return published(s.open)
}

// Close removes everything; nothing can be added afterwards.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	stopAll(s.open)
	s.open = nil
}

// stopAll stops ports. What is being written to a guest that takes nothing is not waited for longer than stopLimit: it ends with
// the session, and nobody gets it.
func stopAll(ports []publication) {
	var stopping sync.WaitGroup
	for _, p := range ports {
		stopping.Go(p.port.stop)
	}
	stopped := make(chan struct{})
	go func() {
		stopping.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(stopLimit):
	}
}

func published(ports []publication) []Published {
	list := make([]Published, 0, len(ports))
	for _, p := range ports {
		list = append(list, p.Published)
	}
	return list
}

// network returns Go's name of a protocol on one version of IP, so that 0.0.0.0 and [::] are two addresses.
func network(protocol Protocol, ip netip.Addr) string {
	if ip.Is4() {
		return string(protocol) + "4"
	}
	return string(protocol) + "6"
}
