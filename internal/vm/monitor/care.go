package monitor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/banger-vm/banger/internal/guest/machine"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

const (
	// careInterval is how often the monitor looks after its VM. A host that slept is noticed after as much.
	careInterval = 10 * time.Second
	// careLimit is how long the agent may take to answer before it counts as silent.
	careLimit = 10 * time.Second
	// logLimit is how large a log becomes, in bytes, before it is cut. Twice as much is kept.
	logLimit = 16 << 20
	// seedSize is how many random bytes a guest gets at its start.
	seedSize = 256
)

// care looks after the VM until ctx ends: its randomness, its clock, its logs.
func (m *monitor) care(ctx context.Context) {
	m.seed(ctx)
	tick := time.NewTicker(careInterval)
	defer tick.Stop()
	for {
		m.setClock(ctx)
		if err := m.keepSocket(); err != nil {
			m.say("%v", err)
		}
		m.limitLogs(logLimit)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepSocket makes the control socket anew if it is gone: a user's runtime directory is removed when the user logs out
// (pam_systemd(8)), and made anew at the next login.
func (m *monitor) keepSocket() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := os.Stat(m.control.Addr().String()); !errors.Is(err, fs.ErrNotExist) || m.status.Phase == Stopping {
		return nil
	}
	control, err := m.listen()
	if errors.Is(err, fs.ErrPermission) {
		return nil // until the next login
	}
	if err != nil {
		return err
	}
	m.clients.Go(func() { m.serve(control) })
	m.control.(*net.UnixListener).SetUnlinkOnClose(false) // the path is the new one's
	_ = m.control.Close()
	m.control = control
	return nil
}

// seed gives the guest randomness that no other guest has.
func (m *monitor) seed(ctx context.Context) {
	random := make([]byte, seedSize)
	_, err := io.ReadFull(m.Random, random)
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, careLimit)
		defer cancel()
		stream, openErr := m.machine.Open(limited)
		if err = openErr; err == nil {
			err = machine.Seed(limited, stream, random)
		}
	}
	if err != nil && ctx.Err() == nil {
		m.say("%v", err)
	}
}

// setClock sets the guest's clock, and notes whether the agent answers.
func (m *monitor) setClock(ctx context.Context) {
	asked := m.Now()
	limited, cancel := context.WithTimeout(ctx, careLimit)
	defer cancel()
	behind, stepped, err := machine.SetClock(limited, m.machine.Open)
	if ctx.Err() != nil {
		return
	}
	if stepped {
		m.say("the guest's clock was behind by %v, and was set", behind)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.status.Silent = nil
	case m.status.Silent == nil:
		m.status.Silent = &asked
		m.say("%v", err)
	}
}

// limitLogs cuts the logs that grow with what the guest does.
func (m *monitor) limitLogs(limit int64) {
	for _, name := range []string{instance.ConsoleLog, qemu.Log, instance.MonitorLog} {
		if err := limitLog(m.instance.Path(name), limit); err != nil {
			m.say("limiting the log %s: %v", name, err)
		}
	}
}

// limitLog cuts a log when it is too large; its older half is kept beside it. Whoever writes it appends to the file, so
// that what comes next is at the file's new end. What comes between the copy and the cut is lost.
func limitLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() < limit {
		return nil
	}
	if err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(path+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Truncate(path, 0))
}
