package exec

import (
	"errors"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// lateOutput is how long after the end of a command the output of the processes that it left behind is still sent. They
// may hold the pipes open, and write to them, for ever.
const lateOutput = time.Second

// terminalBuffer is more than a pseudo-terminal holds: 8 KiB (drivers/tty/pty.c, tty_buffer_set_limit, which may be
// exceeded by a buffer) and the 4 KiB of its line discipline (N_TTY_BUF_SIZE).
const terminalBuffer = 64 << 10

// process is a running command of the guest, the leader of a session and process group of its own.
type process struct {
	cmd     *osexec.Cmd
	tty     *os.File // the master of its terminal, or nil
	stdin   *os.File // what its input is written to; nil without input
	outputs []output
	input   *queue

	ended chan struct{}

	mu     sync.Mutex
	reaped bool // the process id may belong to another process
}

// output is one of the command's streams.
type output struct {
	file *os.File
	kind frame.Kind
}

// plan is a command that is ready to be started.
type plan struct {
	who  identity
	dir  string
	env  []string
	file string
	argv []string
}

// plan finds out what cmd means in this guest. What it leaves empty is taken from the image's config.
func (g *Guest) plan(cmd Command) (plan, *frame.Refusal) {
	who, err := lookUpUser(g.Etc, first(cmd.User, g.Config.User))
	if err != nil {
		return plan{}, frame.Refuse(frame.BadUser, "%v", err)
	}
	if cmd.Login {
		return g.login(cmd, who)
	}
	argv := cmd.Argv
	if len(argv) == 0 {
		argv = append(append(argv, g.Config.Entrypoint...), g.Config.Cmd...)
	}
	if len(argv) == 0 {
		return plan{}, frame.Refuse(frame.NotFound, "no command given, and the image has neither Entrypoint nor Cmd")
	}
	dir, refused := directory(first(cmd.Dir, g.Config.WorkingDir, "/"))
	if refused != nil {
		return plan{}, refused
	}
	p := plan{who: who, dir: dir, env: environment(g.Config.Env, cmd.Env, homeOf(who), cmd.TTY != nil)}
	return p.of(argv)
}

// of completes p for a program and its arguments.
func (p plan) of(argv []string) (plan, *frame.Refusal) {
	file, refused := lookUpProgram(argv[0], variable(p.env, "PATH"), p.dir)
	if refused != nil {
		return plan{}, refused
	}
	p.file, p.argv = file, argv
	return p, nil
}

// homeOf returns the home of who.
func homeOf(who identity) string { return first(who.home, "/") }

// child returns the process to start, the leader of a session of its own.
func (p plan) child() *osexec.Cmd {
	child := &osexec.Cmd{Path: p.file, Args: p.argv, Env: p.env}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(p.who)}
	return child
}

// start starts cmd.
func (g *Guest) start(cmd Command) (*process, *frame.Refusal) {
	p, refused := g.plan(cmd)
	if refused != nil {
		return nil, refused
	}
	return launch(p.child(), cmd, p.dir, p.who)
}

// startDetached starts cmd without streams, and returns its process id. Nobody waits for it but the agent, which reaps
// it.
func (g *Guest) startDetached(cmd Command) (int, *frame.Refusal) {
	p, refused := g.plan(cmd)
	if refused != nil {
		return 0, refused
	}
	child := p.child() // os/exec gives it /dev/null three times
	if refused := startIn(p.dir, child); refused != nil {
		return 0, refused
	}
	go func() { _ = child.Wait() }()
	return child.Process.Pid, nil
}

// first returns the first of values that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// directory makes the working directory if it is missing, as docker does.
func directory(dir string) (string, *frame.Refusal) {
	dir = filepath.Join("/", dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", frame.Refuse(frame.BadDirectory, "making the working directory %q: %v", dir, err)
	}
	return dir, nil
}

// credential is nil when the agent is no superuser and is asked for nothing but its own user: the kernel would refuse
// even that.
func credential(who identity) *syscall.Credential {
	if uid := os.Getuid(); uid != 0 && int(who.uid) == uid && int(who.gid) == os.Getgid() {
		return nil
	}
	return &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
}

// launch connects child's streams and starts it in dir.
func launch(child *osexec.Cmd, cmd Command, dir string, who identity) (*process, *frame.Refusal) {
	p := &process{cmd: child, input: newQueue(), ended: make(chan struct{})}
	connect := p.connectPipes
	if cmd.TTY != nil {
		connect = p.connectTerminal
	}
	theirs, err := connect(cmd)
	defer func() { closeAll(theirs) }()
	if err != nil {
		p.close()
		return nil, frame.Refuse(frame.Failed, "connecting %q: %v", child.Path, err)
	}
	for _, f := range theirs {
		// So that the command may open /dev/stdout, whoever it runs as. The group stays: a terminal's is the one that may
		// write messages to it. It fails only where it does not matter.
		_ = f.Chown(int(who.uid), -1)
	}
	if err := startIn(dir, child); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// startIn starts child in dir. Go's own Cmd.Dir is entered as the child's user; docker's runtime enters the directory
// as root before, so that a user may work in one that it could not enter. A child inherits the directory of the thread
// that forks it, and a thread can have one of its own (unshare(2), CLONE_FS). The thread ends with its goroutine.
func startIn(dir string, child *osexec.Cmd) *frame.Refusal {
	result := make(chan *frame.Refusal)
	go func() {
		runtime.LockOSThread()
		result <- forkIn(dir, child)
	}()
	return <-result
}

// forkIn is startIn on the thread that is its own to spoil.
func forkIn(dir string, child *osexec.Cmd) *frame.Refusal {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return frame.Refuse(frame.Failed, "starting %q: %v", child.Path, err)
	}
	if err := unix.Chdir(dir); err != nil {
		return frame.Refuse(frame.BadDirectory, "entering the working directory %q: %v", dir, err)
	}
	// Go keeps a process's first thread when its goroutine ends. It must not keep a mount busy.
	defer func() { _ = unix.Chdir("/") }()
	if err := child.Start(); err != nil {
		return refusal(child.Path, err)
	}
	return nil
}

// connectTerminal gives the child a terminal of its own. It returns the files that only the child keeps.
func (p *process) connectTerminal(cmd Command) ([]*os.File, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return nil, err
	}
	p.tty, p.stdin = master, master
	p.outputs = []output{{master, frame.Stdout}}
	p.resize(*cmd.TTY)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr.Setctty = true // Ctty 0: the child's standard input
	if !cmd.Stdin {
		p.stdin = nil
	}
	return []*os.File{slave}, nil
}

// connectPipes gives the child pipes. It returns the files that only the child keeps.
func (p *process) connectPipes(cmd Command) (theirs []*os.File, err error) {
	for _, target := range []struct {
		kind frame.Kind
		file *io.Writer
	}{{frame.Stdout, &p.cmd.Stdout}, {frame.Stderr, &p.cmd.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, w)
		p.outputs = append(p.outputs, output{r, target.kind})
		*target.file = w
	}
	if !cmd.Stdin {
		return theirs, nil // os/exec opens /dev/null
	}
	r, w, err := os.Pipe()
	if err != nil {
		return theirs, err
	}
	p.stdin, p.cmd.Stdin = w, r
	return append(theirs, r), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// close closes the agent's ends.
func (p *process) close() {
	for _, o := range p.outputs {
		_ = o.file.Close()
	}
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
}

// endOfTransmission is what a terminal takes for the end of the input (VEOF of termios(3), Ctrl-D).
const endOfTransmission = 4

// feed writes the queue to the command's input and reports to consumed what it has taken. Input that the command does
// not want is thrown away, as a closed pipe does.
func (p *process) feed(consumed func(int)) {
	if p.stdin == nil {
		return
	}
	for b := p.input.take(); len(b) > 0; b = p.input.take() {
		_, _ = p.stdin.Write(b)
		p.input.drop(len(b))
		consumed(len(b))
	}
	if p.tty != nil {
		_, _ = p.tty.Write([]byte{endOfTransmission})
		return
	}
	_ = p.stdin.Close()
}

// resize sets the size of the terminal, if there is one.
func (p *process) resize(size Size) {
	if p.tty != nil {
		_ = setSize(p.tty, size)
	}
}

// signal sends a signal to the command's process group, unless it has ended.
func (p *process) signal(number byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped && number > 0 {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.Signal(number))
	}
}

// abandon kills the command, whose host is gone, and throws its input away. Closing stream ends the writes that wait
// for the host to read.
func (p *process) abandon(stream io.Closer) {
	p.input.end()
	p.signal(byte(syscall.SIGHUP))
	_ = stream.Close()
	select {
	case <-p.ended:
	case <-time.After(graceful):
		p.signal(byte(syscall.SIGKILL))
	}
}

// finish sends the output until it is complete, and returns how the command ended.
func (p *process) finish(frames *frame.Writer) End {
	var sending sync.WaitGroup
	for _, o := range p.outputs {
		sending.Go(func() { p.send(o, frames) })
	}
	p.wait()
	sending.Wait()
	p.input.end()
	p.close()
	return status(p.cmd.ProcessState)
}

// wait waits for the end of the command. The process is reaped only when nobody can signal it any more.
func (p *process) wait() {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
	_ = p.cmd.Wait()
	close(p.ended)
	for _, o := range p.outputs {
		_ = o.file.SetReadDeadline(time.Now().Add(lateOutput))
	}
}

// send copies one output to the host: to its end, or until the time for late output is over.
func (p *process) send(o output, frames *frame.Writer) {
	buffer := make([]byte, frame.ChunkSize)
	to := frames.Stream(o.kind)
	for {
		n, err := o.file.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			sendRest(o.file, to, buffer)
			return
		}
		if err != nil {
			return // the end of a pipe, or EIO of a terminal whose last user is gone
		}
	}
}

// sendRest copies what file still holds, and no more than it can hold: however slow the host was, what the command
// itself wrote is part of that, and however much others go on writing, it ends.
func sendRest(file *os.File, to io.Writer, buffer []byte) {
	for left := capacity(file); left > 0; {
		n, err := readNow(file, buffer[:min(left, len(buffer))])
		if n <= 0 || err != nil {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
		left -= n
	}
}

// capacity is the largest number of bytes that can wait in file, a pipe or the master of a terminal.
func capacity(file *os.File) int {
	size := terminalBuffer
	_ = control(file, func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		if err == nil {
			size = n
		}
		return err
	})
	return size
}

// readNow reads what is there, without regard to deadlines. The file is non-blocking.
func readNow(file *os.File, b []byte) (n int, err error) {
	err = control(file, func(fd int) (err error) {
		for {
			if n, err = unix.Read(fd, b); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
	return n, err
}

// status tells how a process ended.
func status(state *os.ProcessState) End {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return End{Code: -1, Signal: ws.Signal()}
	}
	return End{Code: state.ExitCode()}
}
