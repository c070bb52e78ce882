package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// maxEnvironment bounds the variables that a client sets, in bytes. The kernel takes 2 MiB at most (execve(2)).
const maxEnvironment = 1 << 20

// Exit codes of a session whose command did not get to give one.
const (
	codeNoUser = 1
	codeLost   = 255 // as ssh itself says that the connection failed
)

// session is one session channel: at most one command (RFC 4254, section 6).
type session struct {
	connection *connection
	channel    ssh.Channel
	command    exec.Command
	size       int // bytes of command.Env
	agent      bool
	started    bool
	resize     chan exec.Size
	signals    chan syscall.Signal
	output     *output
}

// session serves a session channel to its end. A client that closes the channel ends what runs.
func (c *connection) session(offered ssh.NewChannel) {
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	s := &session{
		connection: c, channel: channel,
		command: exec.Command{User: c.user, Login: true, Stdin: true, Env: append(slices.Clone(c.env), sshEnvironment()...)},
	}
	s.makeEvents()
	s.output = &output{to: channel, signals: s.signals}
	s.serve(requests)
}

// makeEvents makes what carries sizes and signals to the command. It takes them before the command runs as well.
func (s *session) makeEvents() {
	s.resize, s.signals = make(chan exec.Size, 1), make(chan syscall.Signal, 16)
}

// sshEnvironment is what OpenSSH's server sets for a client whose address it does not know. Shells and other programs tell
// by these variables that they run by SSH (sshd, session.c and packet.c).
func sshEnvironment() []string {
	return []string{"SSH_CLIENT=UNKNOWN 65535 65535", "SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535"}
}

// serve answers the channel's requests until the client closes it. It never waits for the guest, as the other channels'
// messages come after those of this one.
func (s *session) serve(requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(s.connection.ctx)
	defer cancel()
	var running sync.WaitGroup
	for r := range requests {
		wasStarted := s.started
		ok := s.handle(r)
		_ = r.Reply(ok, nil)
		if s.started && !wasStarted {
			running.Go(func() { s.run(ctx) })
		}
	}
	cancel()
	running.Wait()
	_ = s.channel.Close()
}

// handle carries out a request, or prepares it.
func (s *session) handle(r *ssh.Request) bool {
	switch r.Type {
	case "window-change":
		return s.changeWindow(r.Payload)
	case "signal":
		return s.signal(r.Payload)
	case "eow@openssh.com":
		s.output.end()
		return true
	case "break", "keepalive@openssh.com":
		return true
	}
	if s.started {
		return false
	}
	return s.prepare(r)
}

// prepare carries out a request that is for a command to come.
func (s *session) prepare(r *ssh.Request) bool {
	switch r.Type {
	case "pty-req":
		return s.terminal(r.Payload)
	case "env":
		return s.setVariable(r.Payload)
	case "auth-agent-req@openssh.com":
		s.agent = true
		return true
	case "shell":
		s.started = true
		return true
	case "exec":
		return s.exec(r.Payload)
	case "subsystem":
		return s.subsystem(r.Payload)
	}
	return false
}

func (s *session) terminal(payload []byte) bool {
	var asked ptyRequest
	if ssh.Unmarshal(payload, &asked) != nil || strings.Contains(asked.Term, "\x00") {
		return false
	}
	s.command.TTY = sizeOf(asked.Columns, asked.Rows)
	s.command.Env = append(s.command.Env, "TERM="+asked.Term)
	return true
}

func (s *session) setVariable(payload []byte) bool {
	var asked envRequest
	if ssh.Unmarshal(payload, &asked) != nil || !asked.valid() {
		return false
	}
	if s.size += len(payload); s.size > maxEnvironment {
		return false
	}
	s.command.Env = append(s.command.Env, asked.Name+"="+asked.Value)
	return true
}

func (s *session) exec(payload []byte) bool {
	var asked execRequest
	if ssh.Unmarshal(payload, &asked) != nil {
		return false
	}
	s.command.Argv = []string{asked.Command}
	s.started = true
	return true
}

// subsystem knows sftp alone. It runs without a shell, so that what a shell prints when it starts cannot get between.
func (s *session) subsystem(payload []byte) bool {
	var asked subsystemRequest
	if ssh.Unmarshal(payload, &asked) != nil || asked.Name != "sftp" || len(s.connection.sftp) == 0 {
		return false
	}
	s.command.Argv = s.connection.sftp
	s.command.TTY = nil
	s.started = true
	return true
}

func (s *session) changeWindow(payload []byte) bool {
	var asked windowChange
	if ssh.Unmarshal(payload, &asked) != nil {
		return false
	}
	select {
	case <-s.resize: // a size that nobody has seen is of no interest
	default:
	}
	s.resize <- *sizeOf(asked.Columns, asked.Rows)
	return true
}

func (s *session) signal(payload []byte) bool {
	var asked signalRequest
	if ssh.Unmarshal(payload, &asked) != nil {
		return false
	}
	number := signalNumber(asked.Name)
	if number == 0 {
		return false
	}
	select {
	case s.signals <- number:
		return true
	default: // the guest is that far behind
		return false
	}
}

// run runs the command and tells the client how it ended.
func (s *session) run(ctx context.Context) {
	defer func() { _ = s.channel.Close() }()
	if s.agent {
		s.offerAgent(ctx)
	}
	stream, err := s.connection.open(ctx)
	if err != nil {
		s.report(ctx, exec.End{Code: -1}, err)
		return
	}
	end, err := exec.RunToEnd(ctx, stream, s.command, s.channel, s.output, s.channel.Stderr(), s.resize, s.signals)
	s.report(ctx, end, err)
}

// offerAgent tells the command where it finds the client's authentication agent. A session without one is better than none.
func (s *session) offerAgent(ctx context.Context) {
	socket, err := s.connection.agentSocket(ctx)
	if err != nil {
		s.say("the authentication agent is not forwarded: " + words(err))
		return
	}
	s.command.Env = append(s.command.Env, "SSH_AUTH_SOCK="+socket)
}

// say writes a line of banger's own to the session's standard error.
func (s *session) say(text string) {
	_, _ = fmt.Fprintf(s.channel.Stderr(), "banger: %s\r\n", text)
}

// report tells the client how the command ended, or why there was none.
func (s *session) report(ctx context.Context, end exec.End, err error) {
	var refused *frame.Refusal
	code := uint32(end.Code)
	switch {
	case ctx.Err() != nil:
		return // the client is gone
	case errors.As(err, &refused):
		s.say(words(refused))
		if refused.Reason == frame.BadUser {
			code = codeNoUser
		}
	case err != nil:
		s.say(words(err))
		code = codeLost
	}
	s.reportEnd(end.Signal, code, err == nil)
	_ = s.channel.CloseWrite()
}

// reportEnd comes before the end of the output: a client that has both closes the channel at once, and what is sent then is
// lost.
func (s *session) reportEnd(signal syscall.Signal, code uint32, ran bool) {
	if signal == 0 || !ran {
		_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(exitStatus{code}))
		return
	}
	text := fmt.Sprintf("ended by signal %d (%v)", int(signal), signal)
	_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(exitSignal{Signal: signalName(signal), Message: text}))
}

// unwanted is how many bytes a command may write after it was told by SIGPIPE that nobody reads them.
const unwanted = 1 << 20

// output is a command's standard output on its way to the client. A client that wants no more of it says so
// (eow@openssh.com; PROTOCOL of OpenSSH's sources, section 2.1), and a command that writes then gets SIGPIPE.
type output struct {
	to      io.Writer
	signals chan<- syscall.Signal

	mu    sync.Mutex
	ended bool
	after int // bytes that were written after the end
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}

// Write writes to the client as long as it reads.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	ended, first := o.ended, o.after == 0
	if ended {
		o.after += len(b)
	}
	after := o.after
	o.mu.Unlock()
	switch {
	case !ended:
		return o.to.Write(b)
	case after > unwanted:
		return 0, syscall.EPIPE
	case first:
		select {
		case o.signals <- syscall.SIGPIPE:
		default:
		}
	}
	return len(b), nil
}
