package files

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// The requests.
const (
	doSend    = "files-send"    // the guest sends a tree
	doReceive = "files-receive" // the guest receives one
)

// sendArgs are the arguments of doSend. Paths are of any bytes, which a JSON string cannot have.
type sendArgs struct {
	Path    []byte `json:"path"`
	Follow  bool   `json:"follow,omitempty"`
	Archive bool   `json:"archive,omitempty"`
}

// sendReply is the answer to doSend, before the tree.
type sendReply struct {
	Directory bool `json:"directory"`
}

// receiveArgs are the arguments of doReceive.
type receiveArgs struct {
	Path    []byte `json:"path"`
	Archive bool   `json:"archive,omitempty"`
	cargo
}

// patience is how long the agent waits for the host to hang up after a refusal.
const patience = 30 * time.Second

// Handlers returns what answers this package's requests.
func Handlers() frame.Router { return frame.Router{doSend: send, doReceive: receive} }

// guestPath is a path as the user gave it, relative to the root directory, with or without a slash. Messages have it as well.
func guestPath(name []byte) string { return "/" + strings.TrimLeft(string(name), "/") }

// send is the handler of doSend.
func send(stream net.Conn, text []byte) *frame.Refusal {
	var args sendArgs
	if refused := frame.Decode(text, &args); refused != nil {
		return refused
	}
	from, err := findSource(guestPath(args.Path), args.Follow, inVM)
	if err != nil {
		return refusal(err)
	}
	frame.Answer(stream, sendReply{Directory: from.directory})
	go func() {
		// The host sends nothing more. When it hangs up, a write that waits for it has to end.
		_, _ = io.Copy(io.Discard, stream)
		_ = stream.Close()
	}()
	out := newOutbox(stream)
	defer out.close()
	err = newWalker(out, args.Archive, inVM).walk(from.path)
	if err == nil || out.flush() != nil {
		return nil
	}
	return refusal(err)
}

// receive is the handler of doReceive. It answers twice: when it is ready, and when all is written.
func receive(stream net.Conn, text []byte) *frame.Refusal {
	var args receiveArgs
	if refused := frame.Decode(text, &args); refused != nil {
		return refused
	}
	d, err := openPlace(guestPath(args.Path), args.cargo, guestPolicy(args.Archive), inVM)
	if err != nil {
		return refusal(err)
	}
	frame.Answer(stream, struct{}{})
	err = newInbox(stream).pump(d)
	d.close()
	switch {
	case err == nil:
		frame.Answer(stream, done{d.notes.all()})
	case !errors.Is(err, frame.ErrDisconnected):
		refuse(stream, refusal(err))
	}
	return nil
}

// refuse sends a refusal to a host that may be in the middle of sending, and reads on until the host has seen it.
func refuse(stream net.Conn, refused *frame.Refusal) {
	_ = frame.NewWriter(stream).WriteJSON(frame.Error, refused)
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.Copy(io.Discard, stream)
}

// openPlace finds the place for a copy and opens it for writing.
func openPlace(dest string, c cargo, grant policy, where string) (*disk, error) {
	p, err := resolve(dest, c)
	if err != nil {
		return nil, fmt.Errorf("writing %q %s: %w", dest, where, err)
	}
	d, err := newDisk(p, grant, where)
	if err != nil {
		return nil, fmt.Errorf("writing %q %s: %w", dest, where, err)
	}
	return d, nil
}

// refusal turns an error of the agent into what it tells the host.
func refusal(err error) *frame.Refusal { return frame.Refuse(ReasonOf(err), "%v", err) }

// ReasonOf classifies an error of a copy, whichever side it comes from.
func ReasonOf(err error) frame.Reason {
	var refused *frame.Refusal
	switch {
	case errors.As(err, &refused):
		return refused.Reason
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return frame.NoSpace
	case errors.Is(err, unix.ENOENT), errors.Is(err, errNoDirectory):
		return frame.NotFound
	case isConflict(err):
		return frame.Conflict
	}
	return frame.Failed
}
