package daemon

import (
	"context"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/imagepull"
)

// lines sends JSON values, a line each, as they come.
type lines struct {
	to    io.Writer
	flush func()
}

func (l lines) send(value any) error {
	text, err := marshal(value)
	if err != nil {
		return err
	}
	if _, err := l.to.Write(text); err != nil {
		return err
	}
	l.flush()
	return nil
}

// report sends a step.
func (l lines) report(step imagepull.Step) { _ = l.send(api.Event{Step: api.StepOf(step)}) }

// finish sends the last event.
func (l lines) finish(result any, err error) error {
	if err != nil {
		return l.send(api.Event{Error: api.ErrorOf(err)})
	}
	text, err := marshal(result)
	if err != nil {
		return err
	}
	return l.send(api.Event{Result: text})
}

// lines begins an answer of lines with the first one. An error before that has an HTTP status of its own.
func (c *call) lines() lines {
	return lines{to: &lateAnswer{call: c, kind: api.Events}, flush: func() { _ = http.NewResponseController(c.w).Flush() }}
}

// lateAnswer is a body whose headers are sent with its first byte.
type lateAnswer struct {
	call *call
	kind string // Content-Type
}

// Write sends b.
func (l *lateAnswer) Write(b []byte) (int, error) {
	if !l.call.begun {
		l.call.begun = true
		l.call.w.Header().Set("Content-Type", l.kind)
		l.call.w.WriteHeader(http.StatusOK)
	}
	return l.call.w.Write(b)
}

// long answers with the result of work that reports steps. A client that accepts events gets them as they come.
func (c *call) long(work func(ctx context.Context, e *engine.Engine) (any, error)) error {
	if !c.accepts(api.Events) {
		result, err := work(c.ctx(), c.engine)
		if err != nil {
			return err
		}
		return c.answer(result)
	}
	out := c.lines()
	result, err := work(c.ctx(), c.engine.Reporting(out.report))
	if err != nil && !c.begun {
		return err
	}
	return out.finish(result, c.cause(err))
}

// cause returns why the daemon ends the call, if it does, and else err.
func (c *call) cause(err error) error {
	if why := context.Cause(c.ctx()); err != nil && errors.Is(why, errStopping) {
		return why
	}
	return err
}

// printed is an io.Writer of one of a command's outputs, which makes lines of api.Output of what comes.
type printed struct {
	stream string
	lines  lines
}

// Write sends a piece.
func (p printed) Write(piece []byte) (int, error) {
	line := api.Output{Stream: p.stream}
	if utf8.Valid(piece) {
		line.Text = string(piece)
	} else {
		line.Bytes = piece
	}
	if err := p.lines.send(line); err != nil {
		return 0, err
	}
	return len(piece), nil
}

// outputs returns what takes a command's two outputs.
func (l lines) outputs() (stdout, stderr io.Writer) {
	return printed{"stdout", l}, printed{"stderr", l}
}
