package agent

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// termLimit is how long processes have to end by themselves at a shutdown, killLimit how long the kernel may take
	// to end the rest.
	termLimit = 5 * time.Second
	killLimit = 2 * time.Second

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
	for _, err := range unmountAll() {
		out.say("%v", err)
	}
	powerOff()
}

// prepare mounts what programs expect. The kernel delivers Ctrl-Alt-Del as SIGINT instead of restarting at once.
func prepare(out console) {
	early := mountAll("/", earlyMounts())
	adopted := adoptConsole("/dev/console")
	for _, err := range []error{early, adopted, mountAll("/", initMounts()), linkDevices("/dev")} {
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

// endProcesses asks every process to end, and kills those that do not.
func (s *supervisor) endProcesses() {
	_ = syscall.Kill(-1, syscall.SIGTERM)
	// A shell in the foreground ignores SIGTERM and ends at a hangup.
	_ = syscall.Kill(-1, syscall.SIGHUP)
	_ = syscall.Kill(-1, syscall.SIGCONT)
	if s.waitForAll(termLimit) {
		return
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	s.waitForAll(killLimit)
}

// waitForAll waits until no process is left: every one is a child of process 1 or becomes one.
func (s *supervisor) waitForAll(limit time.Duration) bool {
	end := time.After(limit)
	for {
		select {
		case pid := <-s.ended:
			if pid == noChildren {
				return true
			}
		case <-end:
			return false
		}
	}
}

// unmountAll writes everything to the disks: it unmounts what it can, the last mounted first, and makes the root
// read-only.
func unmountAll() []error {
	unix.Sync()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return []error{fmt.Errorf("listing the mounts: %w", err)}
	}
	var failed []error
	for _, target := range unmountOrder(string(text)) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			failed = append(failed, fmt.Errorf("unmounting %q: %w", target, err))
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		failed = append(failed, fmt.Errorf("making the root read-only: %w", err))
	}
	return failed
}

// unmountOrder returns the places in a text like /proc/self/mounts, the last mounted first, without the root and the
// kernel's own file systems, which have nothing to write.
func unmountOrder(mounts string) []string {
	var targets []string
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		target := unescape(fields[1])
		first, _, _ := strings.Cut(strings.TrimPrefix(target, "/"), "/")
		if target != "/" && first != "proc" && first != "sys" && first != "dev" {
			targets = append(targets, target)
		}
	}
	slices.Reverse(targets)
	return targets
}

// unescape undoes the octal escapes that the kernel writes for blanks, newlines and backslashes (fs/proc_namespace.c,
// mangle).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}
