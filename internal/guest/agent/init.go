package agent

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// minBackoff and maxBackoff bound the wait before an agent that ended is started again.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// runInit is process 1 of an image without an init of its own. It does not return.
//
// The agent is started at once, and waits until everything is prepared: that a program starts takes an emulated processor
// as long as the preparations, which another one does meanwhile.
func runInit() {
	signals := takeSignals()
	out := console{os.Stderr}
	out.sayAll(mountAll("/", earlyMounts()), adoptConsole("/dev/console"), setName("/proc/self/comm"), setLimits())
	s := &supervisor{out: out, ended: make(chan int), backoff: minBackoff}
	prepared := s.startGated()
	prepare(out)
	prepared()
	go reap(s.ended)
	s.run(signals)
	s.endProcesses()
	out.sayAll(leaveDisks()...)
	powerOff()
}

// takeSignals returns those signals that ask for the shutdown, and takes all others, which mean nothing. Go would end the
// program at most of them, such as SIGHUP, and without process 1 the kernel panics.
func takeSignals() <-chan os.Signal {
	signal.Notify(make(chan os.Signal, 1)) // all
	shutdown := make(chan os.Signal, 4)
	signal.Notify(shutdown, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2)
	return shutdown
}

// setName gives process 1 this program's name, by which people look for it, where the initramfs's has another.
func setName(comm string) error { return os.WriteFile(comm, []byte(filepath.Base(agentPath)), 0o644) }

// prepare sets up what programs expect of a machine, and container engines most of all. The kernel delivers
// Ctrl-Alt-Del as SIGINT instead of restarting at once.
func prepare(out console) {
	out.sayAll(mountRun("/"), mountAll("/", initMounts()), shareMounts(), linkDevices("/dev"), prepareModules(), delegate(cgroupRoot))
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
}

// noChildren is what reap reports when process 1 has none.
const noChildren = 0

// reap waits for every child of process 1, which are the agent and all orphans, and reports their ids. It must be the
// only one that waits: nothing else in process 1 may use os/exec.
func reap(ended chan<- int) {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		switch {
		case err == nil:
			ended <- pid
		case errors.Is(err, syscall.ECHILD):
			ended <- noChildren
			time.Sleep(minBackoff)
		}
	}
}

// supervisor keeps the agent running.
type supervisor struct {
	out     console
	ended   chan int
	agent   int // process id; noChildren while it does not run
	started time.Time
	backoff time.Duration
}

// startAgent starts this program again, as the agent.
func (s *supervisor) startAgent() { s.start([]string{agentPath, "agent"}) }

// gated is the word on the agent's command line that has it wait at the gate, and gateFD the descriptor of that.
const (
	gated  = "gated"
	gateFD = 3
)

// startGated starts the agent, which does nothing that needs the file systems before open is called.
func (s *supervisor) startGated() (open func()) {
	gate, wait, err := os.Pipe()
	if err != nil {
		s.out.say("making the agent's gate: %v", err)
		return s.startAgent
	}
	s.start([]string{agentPath, "agent", gated}, gate)
	_ = gate.Close()
	return func() { _ = wait.Close() }
}

// gateOf returns what waits until the gate is open, if the agent's command line says that there is one.
func gateOf(args []string) (wait func()) {
	if args[len(args)-1] != gated {
		return func() {}
	}
	return func() {
		gate := os.NewFile(gateFD, "gate")
		_, _ = gate.Read(make([]byte, 1)) // its end is the sign
		_ = gate.Close()
	}
}

// start starts the agent, with files behind the standard ones.
func (s *supervisor) start(argv []string, files ...*os.File) {
	s.started = time.Now()
	process, err := os.StartProcess(self(), argv, &os.ProcAttr{
		Env:   os.Environ(),
		Files: append([]*os.File{os.Stdin, os.Stdout, os.Stderr}, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		s.out.say("starting the agent: %v", err)
		s.agent = noChildren
		return
	}
	s.agent = process.Pid
	_ = process.Release()
}

// self returns the path of this program: by its name in the image, where that is the same.
func self() string {
	const link = "/proc/self/exe"
	if sameFile(agentPath, link) {
		return agentPath
	}
	return link
}

// run starts the agent again whenever it has ended or could not be started, until a signal asks for the shutdown.
func (s *supervisor) run(signals <-chan os.Signal) {
	var restart <-chan time.Time
	for {
		if s.agent == noChildren && restart == nil {
			restart = time.After(s.pause())
		}
		select {
		case <-signals:
			return
		case pid := <-s.ended:
			if pid == s.agent {
				s.agent = noChildren
			}
		case <-restart:
			restart = nil
			s.startAgent()
		}
	}
}

// pause returns how long to wait before the agent is started again: longer each time, unless it ran for a while.
func (s *supervisor) pause() time.Duration {
	if time.Since(s.started) > maxBackoff {
		s.backoff = minBackoff
	}
	pause := s.backoff
	s.backoff = min(2*s.backoff, maxBackoff)
	return pause
}
