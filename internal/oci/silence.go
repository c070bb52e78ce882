package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// patient is an http.RoundTripper whose answers' bodies end with an error when nothing arrives for too long. It is
// for all that is read: also by the library that logs in, and of whom a redirect leads to.
type patient struct {
	base  http.RoundTripper
	limit time.Duration
}

// RoundTrip sends a request. It ends when the body of its answer is closed.
func (p *patient) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	response, err := p.base.RoundTrip(request.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Body = &patientBody{ReadCloser: response.Body, ctx: ctx, cancel: cancel, limit: p.limit}
	return response, nil
}

// silence is the error of a registry that has sent nothing for too long.
type silence struct{ limit time.Duration }

func (s silence) Error() string { return fmt.Sprintf("it has sent nothing for %s", s.limit) }

// patientBody is an answer's body whose request ends when nothing arrives for too long.
type patientBody struct {
	io.ReadCloser
	ctx    context.Context // of the request
	cancel context.CancelCauseFunc
	limit  time.Duration
}

// Read reads what has arrived.
func (b *patientBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.limit, func() { b.cancel(silence{b.limit}) })
	defer timer.Stop()
	n, err := b.ReadCloser.Read(p)
	var silent silence
	if err != nil && !errors.Is(err, io.EOF) && errors.As(context.Cause(b.ctx), &silent) {
		err = silent
	}
	return n, err
}

// Close ends the request.
func (b *patientBody) Close() error {
	b.cancel(nil)
	return b.ReadCloser.Close()
}
