package frame

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"
)

// Version is the version of the protocol that this package speaks. An agent refuses a host whose version is higher.
const Version = 1

// request is the payload of the first frame.
type request struct {
	Version int             `json:"version"`
	Do      string          `json:"do"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// Reason says why a request was refused. The zero Reason is invalid.
type Reason string

// The reasons.
const (
	NotFound      Reason = "not-found"      // there is no such program, file or port
	NotExecutable Reason = "not-executable" // there is a program, but it cannot be run
	BadUser       Reason = "user"           // the image has no such user or group
	BadDirectory  Reason = "directory"      // the working directory cannot be made or entered
	Refused       Reason = "refused"        // the agent does not understand the request
	Failed        Reason = "failed"         // the agent could not do it
	Conflict      Reason = "conflict"       // something else has the name
	NoSpace       Reason = "no-space"       // the guest's disk is full
)

// Refusal is a request that the agent did not carry out, in the agent's words.
type Refusal struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
}

// Error returns the agent's words.
func (r *Refusal) Error() string { return r.Message }

// Refuse makes a Refusal.
func Refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// ErrDisconnected is a stream that ended before the result came: the VM stopped or its agent was restarted.
var ErrDisconnected = errors.New("the connection to the guest was lost")

// Lost wraps the failure of a stream.
func Lost(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrDisconnected
	}
	return fmt.Errorf("%w: %w", ErrDisconnected, err)
}

// Cause returns why ctx ended, if it did: the failure err is then only its consequence.
func Cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Begin sends the request, with its arguments as JSON; nil has none.
func Begin(to *Writer, do string, args any) error {
	r := request{Version: Version, Do: do}
	if args != nil {
		text, err := json.Marshal(args)
		if err != nil {
			return err
		}
		r.Args = text
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("asking the guest for %q: what is asked has %d bytes, more than %d", do, len(payload), MaxPayload)
	}
	if err := to.Write(Request, payload); err != nil {
		return Lost(err)
	}
	return nil
}

// Ask sends a request and decodes the reply, or returns the *Refusal. What follows on the stream is the caller's, who
// also closes it. When ctx ends before the reply, Ask closes the stream and returns ctx's cause.
func Ask(ctx context.Context, stream net.Conn, do string, args, reply any) error {
	stop := context.AfterFunc(ctx, func() { HangUp(stream) })
	err := ask(stream, do, args, reply)
	// Where it cannot be stopped, ctx has ended, and has closed the stream or is about to. The caller may close it as well.
	if !stop() || err != nil {
		return Cause(ctx, err)
	}
	return nil
}

func ask(stream net.Conn, do string, args, reply any) error {
	if err := Begin(NewWriter(stream), do, args); err != nil {
		return err
	}
	return ReadReply(stream, reply)
}

// ReadReply decodes the reply that comes next, or returns the *Refusal.
func ReadReply(stream io.Reader, reply any) error {
	f, err := Read(stream)
	switch {
	case err != nil:
		return Lost(err)
	case f.Kind == Error:
		return DecodeRefusal(f.Payload)
	case f.Kind != Reply:
		return fmt.Errorf("the agent answered with a frame of type %d", f.Kind)
	}
	return json.Unmarshal(f.Payload, reply)
}

// Call is Ask for a request whose reply is all that the stream is for. It closes stream.
func Call(ctx context.Context, stream net.Conn, do string, args, reply any) error {
	defer func() { _ = stream.Close() }()
	return Ask(ctx, stream, do, args, reply)
}

// HangUp closes a stream and ends what reads from it: a stream that is closed could otherwise be read to its end.
func HangUp(stream net.Conn) {
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	_ = stream.Close()
}

// DecodeRefusal reads the payload of a frame of kind Error.
func DecodeRefusal(payload []byte) *Refusal {
	var r Refusal
	if err := json.Unmarshal(payload, &r); err != nil || r.Message == "" {
		return Refuse(Failed, "the guest's agent reported an error without a text")
	}
	r.Message = Printable(r.Message)
	return &r
}

// maxText is how much of a guest's text is shown, in bytes.
const maxText = 8 << 10

// Printable replaces what could steer the terminal on which a text of the guest is shown, and cuts it to 8 KiB.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text[:min(len(text), maxText)])
}

// Handler carries out a request whose frame has been read; args is its JSON, or nil. It replies with Answer, or returns
// a Refusal which is then sent. The stream is closed when it returns.
type Handler func(stream net.Conn, args []byte) *Refusal

// Answer sends the reply.
func Answer(stream net.Conn, reply any) { _ = NewWriter(stream).WriteJSON(Reply, reply) }

// Router has the handler of each request.
type Router map[string]Handler

// Serve answers the request of one stream and closes it.
func (r Router) Serve(stream net.Conn) {
	defer func() { _ = stream.Close() }()
	f, err := Read(stream)
	if err != nil {
		return
	}
	if refusal := r.handle(stream, f); refusal != nil {
		_ = NewWriter(stream).WriteJSON(Error, refusal)
	}
}

func (r Router) handle(stream net.Conn, f Frame) *Refusal {
	var asked request
	if f.Kind != Request || json.Unmarshal(f.Payload, &asked) != nil {
		return Refuse(Refused, "the stream does not begin with a request")
	}
	if asked.Version < 1 || asked.Version > Version {
		return Refuse(Refused, "the guest's agent speaks version %d of the protocol, the host asks for %d", Version, asked.Version)
	}
	handler, known := r[asked.Do]
	if !known {
		return Refuse(Refused, "the guest's agent does not know the request %q", asked.Do)
	}
	return handler(stream, asked.Args)
}

// Decode reads a request's arguments into args.
func Decode(text []byte, args any) *Refusal {
	if err := json.Unmarshal(text, args); err != nil {
		return Refuse(Refused, "the request's arguments are not understood: %v", err)
	}
	return nil
}
