package monitor

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

// signalStopLimit is how long the VM may take to stop when the monitor is asked to end by a signal: the host shuts down.
const signalStopLimit = 30 * time.Second

// obeySignals stops the VM when ctx ends.
func (m *monitor) obeySignals(ctx context.Context) {
	select {
	case <-ctx.Done():
		m.askStop(signalStopLimit)
	case <-m.done:
	}
}

// serve answers requests until the control socket is closed.
func (m *monitor) serve(control net.Listener) {
	for {
		conn, err := control.Accept()
		if err != nil {
			return
		}
		m.clients.Go(func() { m.answer(conn) })
	}
}

// requestLimit is how long a client may take to say what it wants.
const requestLimit = 10 * time.Second

// answer carries out the request of one connection.
func (m *monitor) answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var r request
	_ = conn.SetReadDeadline(time.Now().Add(requestLimit))
	if err := (&lines{conn: conn}).read(&r); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if err := m.carryOut(conn, r); err != nil {
		_ = writeLine(conn, answer{Error: failureOf(err)})
	}
}

func (m *monitor) carryOut(conn net.Conn, r request) error {
	switch r.Do {
	case doStatus:
		m.mu.Lock()
		status := m.status
		m.mu.Unlock()
		status.Ports = m.ports.List()
		return writeLine(conn, answer{Status: &status})
	case doStream:
		return m.stream(conn)
	case doPorts:
		return m.changePorts(conn, r)
	case doSignal:
		return m.signal(conn, r.Signal)
	case doStop:
		m.askStop(r.Limit)
	case doKill:
		m.kill()
	case doWait:
	default:
		err := fmt.Errorf("the monitor of this VM does not know the request %q", r.Do)
		return fault.New(fault.Unsupported, err, "restart the VM: it was started by another version of banger")
	}
	return m.tellEnd(conn)
}

// tellEnd answers with the final state when it is known.
func (m *monitor) tellEnd(conn net.Conn) error {
	<-m.done
	return writeLine(conn, answer{State: &m.state})
}

// stream connects the client with the agent.
func (m *monitor) stream(conn net.Conn) error {
	machine, err := m.running()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	agent, err := machine.Open(ctx)
	if err != nil {
		err = fmt.Errorf("reaching the guest agent of the VM %q: %w", m.instance.Name, err)
		return fault.New(fault.Failure, err, "`banger vm logs --console` shows what the guest's kernel says")
	}
	if err := writeLine(conn, answer{OK: true}); err != nil {
		_ = agent.Close()
		return nil
	}
	join(conn, agent)
	return nil
}

// join copies both ways until one side closes: closing is how a stream ends, for both. An agent that takes no more may have
// said why, which still reaches the client.
func join(client, agent net.Conn) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = io.Copy(client, agent)
	}()
	asked := make(chan error, 1)
	go func() {
		_, err := io.Copy(agent, client)
		asked <- err
	}()
	select {
	case <-said:
	case err := <-asked:
		if err != nil {
			waitFor(said, lastWordsLimit)
		}
	}
	_ = client.Close()
	frame.HangUp(agent)
	<-said
}

// lastWordsLimit is how long an agent that takes no more may go on to say why.
const lastWordsLimit = 5 * time.Second

func waitFor(ended <-chan struct{}, limit time.Duration) {
	select {
	case <-ended:
	case <-time.After(limit):
	}
}

func (m *monitor) signal(conn net.Conn, number int) error {
	m.mu.Lock()
	w := m.workload
	m.mu.Unlock()
	if w == nil {
		err := fmt.Errorf("sending a signal to the VM %q: no command runs", m.instance.Name)
		return fault.New(fault.Usage, err, "leave the signal out to cut its power")
	}
	if err := w.signal(number); err != nil {
		return err
	}
	return writeLine(conn, answer{OK: true})
}

// running returns the machine once it has booted.
func (m *monitor) running() (*qemu.Machine, error) {
	<-m.booted
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.machine == nil || m.status.Phase == Stopping {
		err := fmt.Errorf("reaching the guest agent of the VM %q: the VM is stopping", m.instance.Name)
		return nil, fault.New(fault.NotRunning, err, "start it again: banger vm start "+m.instance.Name)
	}
	return m.machine, nil
}

// askStop has the machine stopped in good order, which takes until it has booted; one that has not within limit is
// killed. Once it stops, asking again does nothing.
func (m *monitor) askStop(limit time.Duration) {
	m.setReason(instance.Stopped)
	first := false
	m.stopOnce.Do(func() {
		m.stopIn, first = limit, true
		close(m.stopping)
	})
	if !first {
		return
	}
	select {
	case <-m.booted:
		return // whatever the limit, which may be none
	default:
	}
	go func() {
		select {
		case <-m.booted:
		case <-time.After(limit):
			m.kill()
		}
	}()
}

// kill ends the machine at once, whether it has booted or not.
func (m *monitor) kill() {
	m.mu.Lock()
	m.reason = instance.Killed
	machine := m.machine
	m.mu.Unlock()
	if machine != nil {
		machine.Kill()
	}
	m.cut(errKilled)
}
