package monitor

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/output"
)

// workload is the command whose end is the end of the VM, and the client that is attached to it, if there is one. What
// the command prints goes to the log and to the client; a client that does not read holds the command up, as a terminal
// does.
type workload struct {
	stream net.Conn
	agent  *frame.Writer
	log    *output.Writer

	started chan struct{} // closed when the command runs
	done    chan struct{}
	// What became of it, once done is closed.
	code    int
	refused *frame.Refusal
	err     error // the agent is gone

	mu     sync.Mutex
	client net.Conn // nil: nobody is attached
	begun  bool
}

func newWorkload(stream net.Conn, log *output.Writer) *workload {
	return &workload{
		stream: stream, agent: frame.NewWriter(stream), log: log,
		started: make(chan struct{}), done: make(chan struct{}), code: -1,
	}
}

// run handles the frames of a command that the agent has been asked for, to the last one.
func (w *workload) run() {
	defer close(w.done)
	defer func() { _ = w.stream.Close() }()
	frames := frame.NewReader(w.stream)
	for w.err == nil {
		f, err := frames.Next()
		if err != nil {
			w.err = frame.Lost(err)
			return
		}
		if w.handle(f) {
			return
		}
	}
}

// handle handles one frame of the agent, and reports whether it was the last.
func (w *workload) handle(f frame.Frame) (last bool) {
	switch f.Kind {
	case frame.Started:
		w.markStarted()
	case frame.Stdout:
		_ = w.log.Write(output.Stdout, f.Payload)
	case frame.Stderr:
		_ = w.log.Write(output.Stderr, f.Payload)
	case frame.Exit:
		var end exec.End
		end, w.err = exec.DecodeEnd(f.Payload)
		w.code = end.ExitCode()
		last = true
	case frame.Error:
		w.refused = frame.DecodeRefusal(f.Payload)
		w.code = exec.Code(w.refused)
		last = true
	}
	w.pass(f)
	return last
}

func (w *workload) markStarted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		w.begun = true
		close(w.started)
	}
}

// failure says why the command, which has started or is over, never ran. One that runs, or has run and ended, has none.
func (w *workload) failure() error {
	select {
	case <-w.started:
		return nil
	default:
	}
	if w.refused != nil {
		return &StartError{Message: w.refused.Message, Code: w.code}
	}
	return w.err
}

// attach connects a client to the command, of which it has asked for this.
func (w *workload) attach(client net.Conn, asked *instance.Workload) {
	w.client = client
	go func() {
		frames := frame.NewReader(client)
		for {
			f, err := frames.Next()
			if err != nil {
				w.detach(asked)
				return
			}
			switch f.Kind {
			case frame.Stdin, frame.StdinEOF, frame.Resize, frame.Signal:
				_ = w.agent.Write(f.Kind, f.Payload)
			}
		}
	}()
}

// detach goes on without the client. The command finds the end of its input, or the hangup of its terminal.
func (w *workload) detach(asked *instance.Workload) {
	w.mu.Lock()
	w.client = nil
	w.mu.Unlock()
	switch {
	case asked.Stdin && asked.TTY:
		_ = w.signal(int(syscall.SIGHUP))
	case asked.Stdin:
		_ = w.agent.Write(frame.StdinEOF, nil)
	}
}

// pass passes a frame on to the client.
func (w *workload) pass(f frame.Frame) {
	w.mu.Lock()
	client := w.client
	w.mu.Unlock()
	if client != nil && frame.NewWriter(client).Write(f.Kind, f.Payload) != nil {
		w.mu.Lock()
		w.client = nil
		w.mu.Unlock()
	}
}

// signal sends a signal to the command.
func (w *workload) signal(number int) error {
	select {
	case <-w.done:
		return errors.New("the VM's command has ended")
	default:
		return w.agent.Write(frame.Signal, []byte{byte(number)})
	}
}

// sayEnd tells a client how the VM ended, if that was before the command did, and stops waiting for it.
func (w *workload) sayEnd(state instance.State) {
	w.mu.Lock()
	client := w.client
	w.mu.Unlock()
	if client == nil {
		return
	}
	_ = client.SetWriteDeadline(time.Now().Add(farewellLimit))
	select {
	case <-w.done:
	case <-time.After(2 * farewellLimit): // the deadline frees a run that was writing
		return
	}
	if w.err == nil {
		return
	}
	frames := frame.NewWriter(client)
	if state.Error != "" {
		_ = frames.WriteJSON(frame.Error, frame.Refuse(CrashedVM, "%s", state.Error))
		return
	}
	_ = frames.WriteJSON(frame.Exit, map[string]int{"code": state.ExitCode})
}

// CrashedVM is the reason that an attached client is given when the VM ended under the command.
const CrashedVM frame.Reason = "crashed"
