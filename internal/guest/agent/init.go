package agent

import (
	"errors"
	"os"
	"os/signal"
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
func runInit() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2)
	out := console{os.Stderr}
	prepare(out)
	s := &supervisor{out: out, ended: make(chan int), backoff: minBackoff}
	s.startAgent()
	go reap(s.ended)
	s.run(signals)
	s.endProcesses()
	for _, err := range leaveDisks() {
		out.say("%v", err)
	}
	powerOff()
}

// prepare sets up what programs expect of a machine, and container engines most of all. The kernel delivers
// Ctrl-Alt-Del as SIGINT instead of restarting at once.
func prepare(out console) {
	early := mountAll("/", earlyMounts())
	adopted := adoptConsole("/dev/console")
	for _, err := range []error{
		early, adopted, mountRun("/"), mountAll("/", initMounts()), shareMounts(), linkDevices("/dev"),
		prepareModules(), delegate(cgroupRoot), setLimits(),
	} {
		if err != nil {
			out.say("%v", err)
		}
	}
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
	agent   int // process id
	started time.Time
	backoff time.Duration
}

// startAgent starts this program again, as the agent.
func (s *supervisor) startAgent() {
	s.started = time.Now()
	process, err := os.StartProcess(self(), []string{agentPath, "agent"}, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
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

// self returns the path of this program.
func self() string {
	const link = "/proc/self/exe"
	if path, err := os.Readlink(link); err == nil && exists(path) {
		return path
	}
	return link
}

// run starts the agent again whenever it ends, until a signal asks for the shutdown.
func (s *supervisor) run(signals <-chan os.Signal) {
	var restart <-chan time.Time
	for {
		select {
		case <-signals:
			return
		case pid := <-s.ended:
			if pid == s.agent && restart == nil {
				restart = time.After(s.pause())
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
