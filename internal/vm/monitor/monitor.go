package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/output"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

const (
	// poweroffLimit is how long a guest may take to shut down after its command has ended by itself.
	poweroffLimit = 90 * time.Second
	// commandLimit is how long the VM's command may take to end when the VM is to stop; half of the whole limit at most.
	commandLimit = 10 * time.Second
	// lockLimit is how long the monitor waits for its own lock.
	lockLimit = 2 * time.Second
	// crashLimit is how long the machine may take to end after its agent is gone, if that was because of its end.
	crashLimit = 5 * time.Second
	// startedLimit is how long it may take until the agent's word that the command runs is here, once somebody wants it to stop.
	startedLimit = time.Second
	// farewellLimit is how long the last answers may take.
	farewellLimit = time.Second
)

var (
	errAbandoned = errors.New("whoever asked for the VM is gone")
	errKilled    = errors.New("the VM was killed")
	errRuns      = errors.New("it runs already")
	errStopped   = errors.New("the VM was stopped before its command ran")
)

// ControlSocket is the name of the monitor's socket in the VM's runtime directory.
const ControlSocket = "control.sock"

// Surroundings are what a monitor needs of its process.
type Surroundings struct {
	Runner *system.CommandRunner
	Log    io.Writer // what people read who want to know what happened
	Random io.Reader
	Now    func() time.Time
}

// Serve is the life of a monitor: from the request on the connection that started it to the end of its machine, when
// nothing of it is left but the files of an instance that stays. The end of ctx stops the VM in good order.
func Serve(ctx context.Context, first net.Conn, s Surroundings) error {
	defer func() { _ = first.Close() }()
	from := &lines{conn: first}
	var r request
	if err := from.read(&r); err != nil {
		return fmt.Errorf("reading what to start: %w", err)
	}
	if r.Do != doStart || r.Version != version || r.Start == nil {
		return refuse(first, fault.New(fault.Unsupported, errors.New("the monitor is of another version of banger"), ""))
	}
	m, err := newMonitor(*r.Start, s)
	if err != nil {
		return refuse(first, err)
	}
	return m.live(ctx, first)
}

func refuse(conn net.Conn, err error) error {
	_ = writeLine(conn, answer{Error: failureOf(err)})
	return err
}

// monitor stands behind one run of a VM.
type monitor struct {
	Surroundings
	start    Start
	instance *instance.Instance
	lock     *lock.Lock
	control  net.Listener
	log      *output.Writer
	ports    *port.Set
	clients  sync.WaitGroup // connections, and who accepts them

	booted chan struct{} // closed when the machine has booted, or never will
	done   chan struct{} // closed when state is final
	cut    context.CancelCauseFunc

	stopOnce sync.Once
	stopping chan struct{} // closed when somebody has asked for the machine to stop
	stopIn   time.Duration // how long it may take then: what the first who asked allows

	portChange sync.Mutex // held while ports and configuration change together

	mu       sync.Mutex
	status   Status
	machine  *qemu.Machine   // nil until it has booted
	workload *workload       // nil until it is asked for
	reason   instance.Reason // the first one that somebody gives
	exited   bool            // the command has ended, with the exit code of state
	state    instance.State
}

func newMonitor(start Start, s Surroundings) (*monitor, error) {
	i, err := instance.Open(start.Dir)
	if err != nil {
		return nil, err
	}
	// Who only looks whether the VM runs holds the lock for a moment.
	ctx, cancel := context.WithTimeoutCause(context.Background(), lockLimit, errRuns)
	defer cancel()
	held, err := i.Lock(ctx)
	if err != nil {
		return nil, fault.New(fault.Conflict, fmt.Errorf("starting the VM %q: %w", i.Name, err), "")
	}
	return &monitor{
		Surroundings: s, start: start, instance: i, lock: held,
		booted: make(chan struct{}), done: make(chan struct{}), stopping: make(chan struct{}),
		status: Status{Phase: Starting, Started: s.Now(), PID: os.Getpid()},
		state:  instance.State{Started: s.Now()},
	}, nil
}

// live runs the machine to its end. Whatever fails, it cleans up.
func (m *monitor) live(ctx context.Context, first net.Conn) error {
	defer m.lock.Release()
	life, cut := context.WithCancelCause(context.Background())
	defer cut(nil)
	m.cut = cut
	err := m.open()
	if err == nil {
		control := m.control
		m.clients.Go(func() { m.serve(control) })
		go m.obeySignals(ctx)
		err = m.run(life, first)
	} else {
		m.setReason(instance.Failed)
	}
	m.finish(err)
	if err != nil {
		_ = refuse(first, err)
	}
	return err
}

// open makes what others find the monitor by.
func (m *monitor) open() error {
	if err := os.RemoveAll(m.start.Spec.RuntimeDir); err != nil { // of a monitor that was killed
		return fmt.Errorf("making the runtime directory: %w", err)
	}
	control, err := m.listen()
	if err != nil {
		return err
	}
	m.control = control
	if err := m.publish(); err != nil {
		return err
	}
	if m.log, err = output.NewWriter(m.instance.Path(instance.OutputLog), output.Limit, m.Now); err != nil {
		return err
	}
	console := m.instance.Path(instance.ConsoleLog)
	_ = os.Rename(console, console+".1")
	return errors.Join(m.instance.SetState(m.state),
		m.instance.SetMonitor(instance.Monitor{PID: os.Getpid(), Control: control.Addr().String()}))
}

// listen makes the control socket, which nobody else can reach.
func (m *monitor) listen() (net.Listener, error) {
	dir := m.start.Spec.RuntimeDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the runtime directory: %w", err)
	}
	socket := filepath.Join(dir, ControlSocket)
	control, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		_ = control.Close()
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	return control, nil
}

// run boots the machine, runs its command, and returns when the machine has ended. An error is one of the start.
func (m *monitor) run(life context.Context, first net.Conn) error {
	if err := m.boot(life, first); err != nil {
		m.setReason(instance.Failed)
		m.endMachine(0)
		return err
	}
	caring, stop := context.WithCancel(life)
	go m.care(caring)
	limit, err := m.work(first)
	stop()
	m.endMachine(limit)
	return err
}

// boot starts the machine. As long as it takes, the client's end is the end of the machine.
func (m *monitor) boot(life context.Context, first net.Conn) error {
	defer close(m.booted)
	defer m.watchClient(first)()
	machine, err := qemu.Start(life, m.Runner, m.start.Spec, m.Random)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.machine, m.status.VMM = machine, machine.PID()
	m.mu.Unlock()
	_ = m.instance.SetMonitor(instance.Monitor{PID: os.Getpid(), VMM: machine.PID(), Control: m.control.Addr().String()})
	if m.instance.Systemd {
		m.waitForSystemd(life)
	}
	if life.Err() != nil {
		return fmt.Errorf("booting the VM %q: %w", m.instance.Name, context.Cause(life))
	}
	m.setPhase(Running)
	return nil
}

// watchClient ends the machine when the client hangs up before the function that it returns is called.
func (m *monitor) watchClient(first net.Conn) (stop func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// The client sends nothing before it is told that the machine has booted.
		if hungUp(first) {
			m.setReason(instance.Killed)
			m.cut(errAbandoned)
		}
	}()
	return func() {
		_ = first.SetReadDeadline(time.Unix(1, 0))
		<-ended
		_ = first.SetReadDeadline(time.Time{})
	}
}

// hungUp waits until the other end closes conn, and takes nothing from it. It is false when bytes come, or the read
// deadline.
func hungUp(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	n := -1
	err = raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK)
		return !errors.Is(err, unix.EAGAIN)
	})
	return err == nil && n <= 0
}

// waitForSystemd waits until everything is started, for as long as a boot may take, or until somebody wants the machine to
// stop, which it can do already. The VM is used in any case: a unit that never starts is the image's business, and somebody
// may want to look at it.
func (m *monitor) waitForSystemd(life context.Context) {
	patient, enough := m.untilStop(life)
	defer enough()
	stream, err := m.machine.Open(patient)
	if err != nil {
		return
	}
	_ = exec.WaitBoot(patient, stream, m.instance.BootTimeout)
}

// untilStop returns a context that also ends when somebody wants the machine to stop.
func (m *monitor) untilStop(life context.Context) (context.Context, context.CancelFunc) {
	ctx, enough := context.WithCancelCause(life)
	go func() {
		select {
		case <-m.stopping:
			enough(errStopped)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { enough(nil) }
}

// work tells the client that the machine has booted, and runs the VM's command if it has one, until that or the machine
// has ended or somebody wants it to stop. It returns how long the machine may take to shut down.
func (m *monitor) work(first net.Conn) (time.Duration, error) {
	if err := writeLine(first, answer{Booted: true}); err != nil {
		m.setReason(instance.Killed)
		return 0, nil // the client has just hung up
	}
	if m.instance.Workload == nil {
		_ = writeLine(first, answer{OK: true})
		_ = first.Close()
		return m.wait(nil), nil
	}
	w, err := m.startCommand(first)
	if err != nil {
		m.setReason(instance.Failed)
		m.refuseAttached(first, err)
		return m.stopLimit(), err
	}
	return m.wait(w), nil
}

// stopLimit is how long the machine may take to shut down: what somebody who wants it to stop allows, if there is one.
func (m *monitor) stopLimit() time.Duration {
	select {
	case <-m.stopping:
		return m.stopIn
	default:
		return poweroffLimit
	}
}

// refuseAttached tells a client that waits for the frames of the command why there are none.
func (m *monitor) refuseAttached(first net.Conn, err error) {
	if m.start.Attached {
		_ = frame.NewWriter(first).WriteJSON(frame.Error, frame.Refuse(CrashedVM, "%v", err))
		_ = first.Close()
	}
}

// startCommand starts the VM's command, with the client attached to it or, once it runs, released.
func (m *monitor) startCommand(first net.Conn) (*workload, error) {
	select {
	case <-m.stopping:
		return nil, errStopped
	default:
	}
	patient, enough := m.untilStop(context.Background())
	stream, err := m.machine.Open(patient)
	enough()
	if err != nil {
		return nil, fmt.Errorf("reaching the guest agent: %w", err)
	}
	w := newWorkload(stream, m.log)
	// Before anybody can send the command something: the request comes first on the stream.
	if err := exec.Begin(w.agent, m.command()); err != nil {
		_ = stream.Close()
		return nil, err
	}
	if m.start.Attached {
		w.attach(first, m.instance.Workload)
	}
	m.mu.Lock()
	m.workload = w
	m.mu.Unlock()
	go w.run()
	if m.start.Attached {
		return w, nil
	}
	if err := m.awaitStart(w); err != nil {
		return w, err
	}
	_ = writeLine(first, answer{OK: true})
	return w, first.Close()
}

// awaitStart waits until the command runs. A request to stop ends the wait, if the command does not run by then, as it mostly
// does before the agent's word of it is here.
func (m *monitor) awaitStart(w *workload) error {
	select {
	case <-w.started:
	case <-w.done:
	case <-m.stopping:
		select {
		case <-w.started:
		case <-w.done:
		case <-time.After(min(startedLimit, m.stopIn/2)):
			return errStopped
		}
	}
	err := w.failure()
	if errors.Is(err, frame.ErrDisconnected) {
		err = m.whyLost(err)
	}
	return err
}

// whyLost says why the agent went away before the command ran, and notes how the machine ended, if that is why.
func (m *monitor) whyLost(err error) error {
	reason := instance.Crashed
	waitFor(m.machine.Done(), crashLimit)
	select {
	case <-m.machine.Done():
		if why := m.machine.Wait(); why != nil {
			err = why
		} else {
			reason = instance.PowerOff
		}
	default:
	}
	m.setReason(reason)
	return fmt.Errorf("starting the VM's command: %w", err)
}

// wait waits for the end of the command or of the machine, or for somebody who wants it to stop. w may be nil.
func (m *monitor) wait(w *workload) (limit time.Duration) {
	var ended <-chan struct{}
	if w != nil {
		ended = w.done
	}
	select {
	case <-ended:
		m.commandEnded(w)
		limit = poweroffLimit
	case <-m.machine.Done():
	case <-m.stopping:
		limit = m.stopCommand(w, m.stopIn)
	}
	if m.instance.Remove && w != nil {
		return 0 // the command has ended, and nobody will see the disk again
	}
	return limit
}

// stopCommand asks the command to end and gives it time. It returns what is left of limit.
func (m *monitor) stopCommand(w *workload, limit time.Duration) time.Duration {
	m.setPhase(Stopping)
	if w == nil {
		return limit
	}
	asked := time.Now()
	go func() { _ = w.signal(m.instance.Workload.StopSignal) }() // a guest that hangs may never take it
	select {
	case <-w.done:
		m.commandEnded(w)
	case <-m.machine.Done():
	case <-time.After(min(commandLimit, limit/2)):
	}
	return max(limit-time.Since(asked), time.Second)
}

// command is what the agent is asked to run.
func (m *monitor) command() exec.Command {
	w, c := m.instance.Workload, m.instance.Config
	command := exec.Command{Argv: w.Argv, Login: w.Login, Env: c.Env, Dir: c.Dir, User: c.User, Stdin: w.Stdin && m.start.Attached}
	if w.TTY {
		command.TTY = &exec.Size{Rows: 24, Columns: 80}
		if m.start.Terminal != nil {
			command.TTY = m.start.Terminal
		}
	}
	return command
}

// commandEnded notes how the command ended. One that was cut off says nothing: the end of the machine will.
func (m *monitor) commandEnded(w *workload) {
	if w.err != nil {
		// Either the machine ends as well, or the agent is gone, and the command with it.
		select {
		case <-m.machine.Done():
		case <-time.After(crashLimit):
			m.setReason(instance.Crashed)
		}
		return
	}
	m.mu.Lock()
	m.exited, m.state.ExitCode = true, w.code
	m.mu.Unlock()
	m.setReason(instance.Exited)
}

func (m *monitor) setReason(r instance.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reason == "" {
		m.reason = r
	}
}

func (m *monitor) setPhase(p Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Phase = p
}

// endMachine shuts the machine down, if it runs: in good order within limit, or at once where that is 0.
func (m *monitor) endMachine(limit time.Duration) {
	m.setPhase(Stopping)
	if m.machine == nil {
		return
	}
	select {
	case <-m.machine.Done():
	default:
		if limit > 0 {
			m.shutDown(limit)
		}
		m.machine.Kill()
	}
	<-m.machine.Done()
}

// shutDown shuts the machine down within limit. One that has to be killed for that is said so.
func (m *monitor) shutDown(limit time.Duration) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("it took longer than %v", limit.Round(time.Second)))
	defer cancel()
	if err := m.machine.Shutdown(ctx); err != nil {
		m.mu.Lock()
		m.state.Error = err.Error()
		if m.reason == instance.Stopped {
			m.reason = instance.Killed
		}
		m.mu.Unlock()
		m.say("%v", err)
	}
}

// say notes what happened in the monitor's log.
func (m *monitor) say(format string, args ...any) {
	_, _ = fmt.Fprintf(m.Log, m.Now().UTC().Format(time.RFC3339)+" "+format+"\n", args...)
}

// finish writes down what became of the run, tells those who wait for it, and removes what was only of use meanwhile.
func (m *monitor) finish(startError error) {
	m.mu.Lock()
	m.decide(startError)
	final := m.state
	m.mu.Unlock()
	if m.ports != nil {
		m.ports.Close()
	}
	if m.log != nil {
		_ = m.log.Close()
	}
	if m.instance.Remove && final.Reason != instance.Failed { // whoever started it wants to see why it failed
		m.closeSockets() // before its name is free: another VM of that name has its sockets in the same place
		_ = m.instance.Discard()
	} else {
		_ = fsync.Path(m.instance.Path(qemu.Overlay))
		_ = m.instance.SetState(final)
		m.closeSockets()
	}
	m.lock.Release() // before anybody is told, who may start the VM again at once
	if m.workload != nil {
		m.workload.sayEnd(final)
	}
	close(m.done)
	m.sayFarewell()
}

// closeSockets removes what others find the monitor by. Who has been let in stays.
func (m *monitor) closeSockets() {
	m.mu.Lock()
	if m.control != nil {
		_ = m.control.Close() // removes the socket
	}
	m.mu.Unlock()
	_ = os.RemoveAll(m.start.Spec.RuntimeDir)
}

// decide fills the final state in.
func (m *monitor) decide(startError error) {
	now := m.Now()
	m.state.Ended, m.state.Reason = &now, m.reason
	var machine error
	if m.machine != nil {
		machine = m.machine.Wait()
	}
	switch {
	case m.reason == instance.Killed, m.reason == instance.Stopped && m.workload != nil && !m.exited, errors.Is(startError, errStopped):
		m.state.ExitCode = 128 + int(syscall.SIGKILL)
	case startError != nil:
		m.state.Error = startError.Error()
		m.state.ExitCode = failureOf(startError).exitCode()
	case machine != nil:
		m.state.Reason, m.state.Error, m.state.ExitCode = instance.Crashed, machine.Error(), max(m.state.ExitCode, 1)
	case m.reason == instance.Crashed:
		m.state.Error, m.state.ExitCode = "the guest's agent ended, and the VM's command with it", 1
	case m.reason == "":
		m.state.Reason = instance.PowerOff
	}
}

// sayFarewell waits for the answers that are on their way.
func (m *monitor) sayFarewell() {
	said := make(chan struct{})
	go func() {
		m.clients.Wait()
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(farewellLimit):
	}
}
