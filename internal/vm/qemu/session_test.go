package qemu

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/channel"
	guestexec "github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
)

var testMagic = [channel.MagicSize]byte([]byte("0123456789abcdef"))

// pretender is a VMM's socket with an agent behind it. It serves one client at a time, as QEMU does.
type pretender struct {
	listener net.Listener
	handler  func(net.Conn)
	mute     atomic.Bool // what it writes is lost
	// limit is how long it may take to answer a probe, which come often; with 0 none do.
	limit time.Duration

	mu     sync.Mutex
	client net.Conn
	dials  int
}

// pretend starts an agent that answers a hello.
func pretend(t *testing.T) *pretender {
	t.Helper()
	guest := guestexec.Guest{Info: guestexec.Info{Agent: "pretender"}}
	p := pretendWith(t, func(_ *pretender, stream net.Conn) { guest.Handlers().Serve(stream) })
	p.limit = 10 * time.Second
	return p
}

// pretendWith starts an agent that serves streams with handler.
func pretendWith(t *testing.T, handler func(*pretender, net.Conn)) *pretender {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(privateDir(t), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	p := &pretender{listener: listener}
	p.handler = func(stream net.Conn) { handler(p, stream) }
	go p.serve()
	return p
}

func (p *pretender) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.client = conn
		p.dials++
		p.mu.Unlock()
		_ = channel.Serve(mutable{conn, &p.mute}, testMagic, p.handler)
	}
}

// mutable is a connection that swallows what is written while it is mute.
type mutable struct {
	net.Conn
	mute *atomic.Bool
}

func (m mutable) Write(b []byte) (int, error) {
	if m.mute.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// crash ends the agent, which comes back for the next client.
func (p *pretender) crash() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.client.Close()
}

func (p *pretender) dial(ctx context.Context) (*channel.Session, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	return channel.Dial(ctx, conn, testMagic)
}

// keep starts a keeper of sessions with p that the test's end stops.
func (p *pretender) keep(t *testing.T, paused bool) (k *keeper, stop func()) {
	t.Helper()
	session, err := p.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k = newKeeper(session, p.dial, func() bool { return paused })
	if p.limit > 0 {
		k.probeInterval, k.probeLimit = 50*time.Millisecond, p.limit
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		k.run(ctx)
		close(ended)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return k, stop
}

func greet(t *testing.T, k *keeper) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := k.open(ctx)
	if err != nil {
		return err
	}
	_, err = guestexec.Hello(ctx, stream)
	return err
}

// TestKeeperRedials: after each end of the agent, streams are opened again, by any number of callers and one dial.
func TestKeeperRedials(t *testing.T) {
	p := pretend(t)
	k, _ := p.keep(t, false)
	const crashes = 5
	for range crashes {
		if err := greet(t, k); err != nil {
			t.Fatalf("greeting: %v", err)
		}
		_, changed, _ := k.get()
		p.crash()
		<-changed // a stream of the session that is about to end could still be opened
		var greeting sync.WaitGroup
		for range 20 {
			greeting.Go(func() {
				if err := greet(t, k); err != nil {
					t.Errorf("greeting after the agent's end: %v", err)
				}
			})
		}
		greeting.Wait()
	}
	if p.dials != 1+crashes {
		t.Errorf("there were %d dials for %d ends of the agent, want one for each and the first", p.dials, crashes)
	}
}

// TestKeeperProbes: an agent of which nothing is heard for too long is dialled again, unless the guest cannot run.
func TestKeeperProbes(t *testing.T) {
	for _, paused := range []bool{false, true} {
		p := pretend(t)
		p.limit = 500 * time.Millisecond
		k, _ := p.keep(t, paused)
		_, changed, _ := k.get()
		p.mute.Store(true)
		select {
		case <-changed:
			if paused {
				t.Error("the session with a guest that cannot run was given up")
			}
		case <-time.After(4 * (k.probeInterval + k.probeLimit)):
			if !paused {
				t.Error("the session with a silent agent was not given up")
			}
		}
		p.mute.Store(false)
		if err := greet(t, k); err != nil {
			t.Errorf("greeting an agent that speaks again (it was paused: %v): %v", paused, err)
		}
	}
}

// TestKeeperLeavesIdleAlone: an agent that answers keeps its session for as long as it likes.
func TestKeeperLeavesIdleAlone(t *testing.T) {
	p := pretend(t)
	k, _ := p.keep(t, false)
	time.Sleep(20 * k.probeInterval)
	if p.mu.Lock(); p.dials != 1 {
		t.Errorf("an agent that answers was dialled %d times, want 1", p.dials)
	}
	p.mu.Unlock()
}

// TestKeeperWaits: whoever opens a stream while the agent is away waits as long as the context allows, and no longer
// than the machine runs.
func TestKeeperWaits(t *testing.T) {
	p := pretend(t)
	k, stop := p.keep(t, false)
	_, changed, _ := k.get()
	_ = p.listener.Close()
	p.crash()
	<-changed
	reason := errors.New("no more patience")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, reason)
	defer cancel()
	if _, err := k.open(ctx); !errors.Is(err, reason) {
		t.Errorf("opening while the agent is away gave %v, want %v", err, reason)
	}
	result := make(chan error)
	go func() {
		_, err := k.open(context.Background())
		result <- err
	}()
	time.Sleep(50 * time.Millisecond)
	stop()
	select {
	case err := <-result:
		if !errors.Is(err, errEnded) {
			t.Errorf("opening when the machine ends gave %v, want %v", err, errEnded)
		}
	case <-time.After(30 * time.Second):
		t.Error("whoever waits for the agent waits on after the machine's end")
	}
}

// TestPowerOffAsksAgain: an agent that is restarted while it is asked to power off is asked again, as often as that
// happens, and a machine that ends over the question has powered off.
func TestPowerOffAsksAgain(t *testing.T) {
	for _, ends := range []bool{false, true} {
		var asked atomic.Int32
		end := make(chan struct{})
		guest := guestexec.Guest{Poweroff: func() error { return nil }}
		p := pretendWith(t, func(p *pretender, stream net.Conn) {
			switch n := asked.Add(1); {
			case n < 3:
				p.crash()
			case ends:
				close(end)
			default:
				guest.Handlers().Serve(stream)
			}
		})
		k, stop := p.keep(t, true)
		go func() { <-end; stop() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := k.powerOff(ctx); err != nil || asked.Load() != 3 {
			t.Errorf("ends=%v: asked %d times, got %v, want the third time to do", ends, asked.Load(), err)
		}
		if !ends {
			close(end)
		}
	}
}

// TestPowerOffGivesUp: a refusal is not asked for again, and time that is over is said to be.
func TestPowerOffGivesUp(t *testing.T) {
	reason := errors.New("no more patience")
	for _, c := range []struct {
		name   string
		limit  time.Duration
		handle func(*pretender, net.Conn)
		want   string
	}{
		{"refusal", 10 * time.Second, func(_ *pretender, stream net.Conn) {
			refuse := func(net.Conn, []byte) *frame.Refusal { return frame.Refuse(frame.Failed, "not now") }
			frame.Router{"poweroff": refuse}.Serve(stream)
		}, "not now"},
		{"an agent that hangs up on everybody", 300 * time.Millisecond, func(p *pretender, _ net.Conn) { p.crash() }, reason.Error()},
	} {
		k, _ := pretendWith(t, c.handle).keep(t, true)
		ctx, cancel := context.WithTimeoutCause(t.Context(), c.limit, reason)
		defer cancel()
		if err := k.powerOff(ctx); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestIsStopped(t *testing.T) {
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	if isStopped(child.Process.Pid) || isStopped(os.Getpid()) {
		t.Error("a running process is taken for a stopped one")
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the child to stop", func() bool { return isStopped(child.Process.Pid) })
}

// TestAgentRestart kills the agent of a guest: what ran on its streams is lost, and commands run again within seconds. So
// they do when the directory of the channel's socket is gone, as it is after a logout.
func TestAgentRestart(t *testing.T) {
	m := start(t, theKit(t).spec(t))
	for i := range 4 {
		if i == 2 {
			if err := os.RemoveAll(m.spec.RuntimeDir); err != nil {
				t.Fatal(err)
			}
		}
		stream, err := m.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		command := guestexec.Command{Argv: []string{"/bin/guesttool", "kill-parent"}}
		if code, err := guestexec.Run(t.Context(), stream, command, nil, nil, nil, nil, nil); err == nil {
			t.Fatalf("the command that killed the agent ended with %d", code)
		}
		begin := time.Now()
		if _, _, code := in(t, m, nil, "/bin/guesttool", "exit", "5"); code != 5 {
			t.Errorf("exit code %d after the agent's restart, want 5", code)
		}
		took := time.Since(begin)
		t.Logf("%v after the agent was killed, a command had run", took.Round(time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("it took %v to run a command after the agent was killed", took)
		}
	}
}
