package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
)

const (
	// maxBody bounds a request's body, in bytes. A command line and environment may have 2 MiB (execve(2)), and JSON makes
	// more of some characters.
	maxBody = 8 << 20
	// bodyLimit is how long a client may take to send a body.
	bodyLimit = 30 * time.Second
)

// call is one request and its answer.
type call struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	engine *engine.Engine
	begun  bool // whether some of the answer is on its way
}

// ctx ends when the client hangs up or the daemon stops.
func (c *call) ctx() context.Context { return c.r.Context() }

// status is an error whose HTTP status does not follow from its kind.
type status struct {
	error
	code int
}

func (s status) Unwrap() error { return s.error }

// answer sends value as the whole answer.
func (c *call) answer(value any) error {
	c.begun = true
	return c.send(http.StatusOK, value)
}

// done answers without a body, if there is no error.
func (c *call) done(err error) error {
	if err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *call) send(code int, value any) error {
	text, err := marshal(value)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", api.JSON)
	c.w.WriteHeader(code)
	_, err = c.w.Write(text)
	return err
}

// marshal returns the JSON of value as one line. An image's configuration in it stays as it was pulled.
func marshal(value any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return line.Bytes(), err
}

// fail sends an error, if nothing has been sent.
func (c *call) fail(err error) {
	if c.begun {
		return
	}
	if cause := context.Cause(c.ctx()); errors.Is(cause, errStopping) {
		err = cause
	}
	code := api.StatusOf(err)
	var chosen status
	if errors.As(err, &chosen) {
		code = chosen.code
	}
	_ = c.send(code, api.Failure{Error: api.ErrorOf(err)})
}

// refuseRoute answers a request that no route is for, with the status that the mux gives.
func (s *Server) refuseRoute(w http.ResponseWriter, r *http.Request) {
	c := &call{server: s, w: w, r: r}
	spy := &statusSpy{header: w.Header()}
	s.mux.ServeHTTP(spy, r)
	w.Header().Del("X-Content-Type-Options")
	err := fmt.Errorf("the daemon has no route %s %s", r.Method, r.URL.Path)
	kind, hint := fault.Unsupported, "the daemon may be of another version of banger; docs/openapi.yaml lists the routes"
	if spy.code == http.StatusMethodNotAllowed {
		err = fmt.Errorf("the daemon has no %s for %s, but %s", r.Method, r.URL.Path, w.Header().Get("Allow"))
	}
	c.fail(status{error: fault.New(kind, err, hint), code: spy.code})
}

// statusSpy takes an answer's status and headers, and drops the rest.
type statusSpy struct {
	header http.Header
	code   int
}

// Header returns the headers.
func (s *statusSpy) Header() http.Header { return s.header }

// WriteHeader notes the status.
func (s *statusSpy) WriteHeader(code int) { s.code = code }

// Write drops the body.
func (s *statusSpy) Write(b []byte) (int, error) { return len(b), nil }

// decode reads the body into value, which has the defaults. A field that is not known is an error: it would be ignored.
func (c *call) decode(value any) error {
	// The server looks for the client's end on the same connection, where a deadline must not stay.
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Now().Add(bodyLimit))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	decoder := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(value)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = orElse(more, errors.New("something follows the JSON value"))
		}
	}
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		err = fmt.Errorf("reading the request: its body has more than %d bytes", large.Limit)
		return status{error: fault.New(fault.Usage, err, ""), code: http.StatusRequestEntityTooLarge}
	case errors.Is(err, io.EOF):
		err = errors.New("it has no body")
	}
	return fault.New(fault.Usage, fmt.Errorf("reading the request: %w", err), "docs/openapi.yaml describes the request")
}

// decodeOptional is decode for a body that may be left out.
func (c *call) decodeOptional(value any) error {
	if c.r.ContentLength == 0 {
		return nil
	}
	return c.decode(value)
}

func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// flag reads a parameter of the URL that is a yes or no.
func (c *call) flag(name string) (bool, error) {
	switch value := c.r.URL.Query().Get(name); value {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, badParameter(name, value, "pass true or false")
	}
}

func badParameter(name, value, hint string) error {
	return fault.New(fault.Usage, fmt.Errorf("reading the parameter %s: %q is not understood", name, value), hint)
}

// accepts reports whether the client asks for answers of a type.
func (c *call) accepts(kind string) bool {
	for _, accepted := range c.r.Header.Values("Accept") {
		if strings.Contains(accepted, kind) {
			return true
		}
	}
	return false
}
