package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
)

const (
	// redialPause is how long to wait after a dial that failed at once, as it does while QEMU ends.
	redialPause = 100 * time.Millisecond
	// probeInterval is how long the agent may be silent before it is asked for a word, probeLimit how long it may take
	// to say one. A session that is given up takes running commands with it, so that a guest which is only slow must
	// not look dead; a wakeup that a guest's kernel has lost keeps it silent for ever.
	probeInterval = 10 * time.Second
	probeLimit    = 30 * time.Second
)

// keeper keeps a session with the agent, and begins another one when the session is over: the agent was restarted, or
// does not answer any more. QEMU's socket has one client at a time, and the keeper is the one who dials.
type keeper struct {
	dial   func(context.Context) (*channel.Session, error)
	paused func() bool // the guest cannot answer, and that is in order

	probeInterval, probeLimit time.Duration

	mu      sync.Mutex
	session *channel.Session // nil while there is none
	changed chan struct{}    // closed when session changes
	ended   bool
}

// newKeeper returns a keeper of session, which run takes over.
func newKeeper(session *channel.Session, dial func(context.Context) (*channel.Session, error), paused func() bool) *keeper {
	return &keeper{
		dial: dial, paused: paused, probeInterval: probeInterval, probeLimit: probeLimit,
		session: session, changed: make(chan struct{}),
	}
}

// run keeps the session until ctx ends, and then closes it.
func (k *keeper) run(ctx context.Context) {
	for session := k.session; ctx.Err() == nil; session = k.redial(ctx) {
		if session != nil {
			k.watch(ctx, session)
			k.set(nil)
			_ = session.Close() // before the next one: QEMU would not answer a second client
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.session != nil {
		_ = k.session.Close()
	}
	close(k.changed)
}

// redial begins a session, which takes as long as the agent is away. It returns nil if that failed.
func (k *keeper) redial(ctx context.Context) *channel.Session {
	session, err := k.dial(ctx)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
		return nil
	}
	k.set(session)
	return session
}

func (k *keeper) set(session *channel.Session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.session = session
	close(k.changed)
	k.changed = make(chan struct{})
}

// get returns the session, or nil and what is closed when there may be one.
func (k *keeper) get() (session *channel.Session, changed <-chan struct{}, ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.session, k.changed, k.ended
}

// watch returns when the session is over.
func (k *keeper) watch(ctx context.Context, session *channel.Session) {
	for heard := session.Received(); ; {
		select {
		case <-ctx.Done():
			return
		case <-session.Done():
			return
		case <-time.After(k.probeInterval):
		}
		if now := session.Received(); now == heard && !k.answers(ctx, session) && !k.paused() {
			return
		}
		heard = session.Received()
	}
}

// answers asks the agent for a word. Anything else that it sends will do: a long transfer may be in the way of the
// answer. A session that ends has an answer too.
func (k *keeper) answers(ctx context.Context, session *channel.Session) bool {
	limited, cancel := context.WithTimeout(ctx, k.probeLimit)
	defer cancel()
	heard := session.Received()
	answered := make(chan struct{})
	go func() { // apart, because a write to a pipe that is stuck waits longer than any context
		defer close(answered)
		if stream, err := session.Open(limited); err == nil {
			_, _ = exec.Hello(limited, stream)
		}
	}()
	select {
	case <-answered:
	case <-session.Done():
		return true
	case <-limited.Done():
	}
	return ctx.Err() != nil || session.Received() != heard
}

// open opens a stream, and waits for a session if there is none.
func (k *keeper) open(ctx context.Context) (net.Conn, error) {
	for {
		session, changed, ended := k.get()
		if ended {
			return nil, fmt.Errorf("opening a stream to the guest: %w", errEnded)
		}
		if session != nil {
			stream, err := session.Open(ctx)
			if err == nil || ctx.Err() != nil || !endsNow(session) {
				return stream, err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the guest's agent: %w", context.Cause(ctx))
		}
	}
}

// powerOff returns when the guest has agreed to power off, or has ended. An agent that goes away without an answer is
// asked again when it is back: whether the one before had understood does not matter to a guest that shuts down.
func (k *keeper) powerOff(ctx context.Context) error {
	for {
		stream, err := k.open(ctx)
		if errors.Is(err, errEnded) {
			return nil
		}
		if err != nil {
			return err
		}
		if err = exec.Poweroff(ctx, stream); !errors.Is(err, frame.ErrDisconnected) || ctx.Err() != nil {
			return err
		}
		select { // an agent that hangs up on everybody is not asked without end at full speed
		case <-ctx.Done():
		case <-time.After(redialPause):
		}
	}
}

// endsNow reports whether the session has ended, or does so now: its writes fail a little before.
func endsNow(session *channel.Session) bool {
	select {
	case <-session.Done():
		return true
	case <-time.After(redialPause):
		return false
	}
}

// Open opens a stream to the guest's agent, which the caller closes. While the agent is away, it waits for it until
// ctx ends; the agent comes back by itself after most that can happen to it. The error of a machine that has ended
// says so.
func (m *Machine) Open(ctx context.Context) (net.Conn, error) { return m.keeper.open(ctx) }

// isStopped reports whether a process is stopped by a signal (proc(5), stat, state T), so that a guest cannot run.
func isStopped(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name in parentheses is QEMU's
	return strings.HasPrefix(rest, "T") || strings.HasPrefix(rest, "t")
}

// keep starts the keeper of session. It ends, and session with it, when the machine does.
func (m *Machine) keep(session *channel.Session, magic [channel.MagicSize]byte) {
	dial := func(ctx context.Context) (*channel.Session, error) { return m.dial(ctx, magic) }
	m.keeper = newKeeper(session, dial, func() bool { return isStopped(m.process.PID()) })
	ctx, cancel := context.WithCancelCause(context.Background())
	m.kept = make(chan struct{})
	go func() {
		defer close(m.kept)
		m.keeper.run(ctx)
	}()
	go func() {
		<-m.process.Done()
		cancel(errEnded)
	}()
}
