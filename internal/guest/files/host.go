package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// CopyIn copies src of the host to dest of the guest at the other end of stream, which it closes. Paths have the
// meaning that docker cp gives them; those of the guest are relative to its root directory.
//
// An error names the path and the side, or is a *frame.Refusal of the guest; ReasonOf classifies both. When ctx ends
// its cause is returned. Whatever happens, no file is left half-made under its name.
func CopyIn(ctx context.Context, stream net.Conn, src, dest string, o Options) (Result, error) {
	defer func() { _ = stream.Close() }()
	from, err := findSource(src, o.Follow, onHost)
	if err != nil {
		return Result{}, err
	}
	absolute, err := absolutePath(src)
	if err != nil {
		return Result{}, err
	}
	args := receiveArgs{Path: []byte(dest), Archive: o.Archive, cargo: cargoOf(absolute, from.directory)}
	args.Into = o.Into
	return deliver(ctx, stream, args, o, func(to sink) error { return newWalker(to, o.Archive, onHost).walk(from.path) })
}

// TarIn extracts a tar, which may be gzipped, into the directory dest of the guest at the other end of stream, with the
// owners, modes and times that the tar has. It closes stream. A read of r that is under way when the guest refuses or
// ctx ends is not waited for. Errors are those of CopyIn.
func TarIn(ctx context.Context, stream net.Conn, r io.Reader, dest string, o Options) (Result, error) {
	defer func() { _ = stream.Close() }()
	args := receiveArgs{Path: []byte(dest), Archive: true, cargo: cargo{Directory: true, Contents: true, Into: true}}
	return deliver(ctx, stream, args, o, func(to sink) error { return newTarReader(to).read(r) })
}

// CopyOut copies src of the guest at the other end of stream to dest of the host. It closes stream. Nothing that the
// guest sends is written anywhere but below dest. Errors are those of CopyIn.
func CopyOut(ctx context.Context, stream net.Conn, src, dest string, o Options) (Result, error) {
	defer hangUpWith(ctx, stream)()
	c, err := request(ctx, stream, src, o)
	if err != nil {
		return Result{}, err
	}
	d, err := openPlace(dest, c, hostPolicy(o.Archive), onHost)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	count := &counter{to: d, progress: o.Progress}
	if err := newInbox(stream).pump(count); err != nil {
		return Result{}, frame.Cause(ctx, received(err))
	}
	return count.result(d.notes.all()), nil
}

// TarOut writes src of the guest at the other end of stream to w, as a tar with all that the guest's files have. It
// closes stream. Errors are those of CopyIn, and those of w.
func TarOut(ctx context.Context, stream net.Conn, src string, w io.Writer, o Options) (Result, error) {
	defer hangUpWith(ctx, stream)()
	o.Archive = true
	c, err := request(ctx, stream, src, o)
	if err != nil {
		return Result{}, err
	}
	prefix := string(c.Base)
	if c.Contents {
		prefix = top
	}
	t := newTarWriter(ctx, w, prefix)
	count := &counter{to: t, progress: o.Progress}
	if err := newInbox(stream).pump(count); err != nil {
		return Result{}, frame.Cause(ctx, received(err))
	}
	return count.result(t.notes), nil
}

// Between copies src of one guest to dest of another. It closes both streams. Errors are those of CopyIn.
func Between(ctx context.Context, from net.Conn, src string, to net.Conn, dest string, o Options) (Result, error) {
	defer func() { _ = to.Close() }()
	defer hangUpWith(ctx, from)()
	c, err := request(ctx, from, src, o)
	if err != nil {
		return Result{}, err
	}
	args := receiveArgs{Path: []byte(dest), Archive: o.Archive, cargo: c}
	return deliver(ctx, to, args, o, func(out sink) error { return received(newInbox(from).pump(out)) })
}

// hangUpWith closes stream when ctx ends or when the function that it returns is called.
func hangUpWith(ctx context.Context, stream net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { frame.HangUp(stream) })
	return func() {
		stop()
		frame.HangUp(stream)
	}
}

// absolutePath is filepath.Abs, which keeps an end that means a directory's contents.
func absolutePath(name string) (string, error) {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("reading %q %s: %w", name, onHost, err)
	}
	if filepath.Base(name) == "." {
		absolute += "/."
	}
	return absolute, nil
}

// request asks the guest to send src.
func request(ctx context.Context, stream net.Conn, src string, o Options) (cargo, error) {
	var reply sendReply
	args := sendArgs{Path: []byte(src), Follow: o.Follow, Archive: o.Archive}
	if err := frame.Ask(ctx, stream, doSend, args, &reply); err != nil {
		return cargo{}, received(err)
	}
	c := cargoOf(guestPath([]byte(src)), reply.Directory)
	c.Into = o.Into
	return c, nil
}

// deliver has the guest receive what fill gives. The guest may refuse at any time.
func deliver(ctx context.Context, stream net.Conn, args receiveArgs, o Options, fill func(sink) error) (Result, error) {
	defer hangUpWith(ctx, stream)()
	var ready struct{}
	if err := frame.Ask(ctx, stream, doReceive, args, &ready); err != nil {
		return Result{}, received(err)
	}
	out := newOutbox(stream)
	count := &counter{to: out, progress: o.Progress}
	sent, answered := make(chan error, 1), make(chan answer, 1)
	go func() { sent <- fill(count) }()
	go func() { answered <- readAnswer(stream) }()
	var a answer
	select {
	case a = <-answered:
		if a.err != nil {
			return Result{}, frame.Cause(ctx, a.err)
		}
		if err := <-sent; err != nil {
			return Result{}, frame.Cause(ctx, err)
		}
	case err := <-sent:
		if err != nil && !out.broken {
			return Result{}, frame.Cause(ctx, err)
		}
		// Where the stream broke, the guest may have said why.
		if a = <-answered; a.err != nil {
			return Result{}, frame.Cause(ctx, a.err)
		}
		if err != nil {
			return Result{}, frame.Cause(ctx, err)
		}
	}
	return count.result(a.notes), nil
}

// answer is the guest's last word on what it received.
type answer struct {
	notes []string
	err   error
}

func readAnswer(stream io.Reader) answer {
	var r Result
	if err := frame.ReadReply(stream, &r); err != nil {
		return answer{err: received(err)}
	}
	return answer{notes: r.Notes}
}

// received makes a refusal of the guest fit for a terminal.
func received(err error) error {
	var refused *frame.Refusal
	if errors.As(err, &refused) {
		return &frame.Refusal{Reason: refused.Reason, Message: printable(refused.Message)}
	}
	return err
}

// maxNote is how long a text of the guest may be, in bytes.
const maxNote = 8 << 10

// printable replaces what could steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text[:min(len(text), maxNote)])
}

// counter is a sink that counts what passes through.
type counter struct {
	to       sink
	progress func(int64)
	done     Result
}

func (c *counter) entry(e *Entry) error {
	c.done.Entries++
	return c.to.entry(e)
}

func (c *counter) data(off int64, p []byte) error {
	if err := c.to.data(off, p); err != nil {
		return err
	}
	c.done.Bytes += int64(len(p))
	if c.progress != nil {
		c.progress(c.done.Bytes)
	}
	return nil
}

func (c *counter) end(notes []string) error { return c.to.end(notes) }

// result returns what was done, with the notes of both sides.
func (c *counter) result(list []string) Result {
	for _, note := range list[:min(len(list), 2*maxNotes)] {
		c.done.Notes = append(c.done.Notes, printable(note))
	}
	return c.done
}
