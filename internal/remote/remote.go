// Package remote is the client of a daemon (package daemon). It has the engine's functions, with the same results and
// errors, carried out by the daemon. Paths are those of the same host: relative ones are made absolute here.
package remote

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
)

// Config says which daemon it is.
type Config struct {
	Socket string // path
	// Report is told of the steps of what takes long, as that of an engine.
	Report func(imagepull.Step)
}

// Client is a daemon's client. It is safe for concurrent use, but for Report.
type Client struct {
	config Config
	http   *http.Client
}

// New returns a Client. It connects when it first asks for something.
func New(config Config) *Client {
	c := &Client{config: config}
	c.http = &http.Client{
		Transport:     &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// dial connects to the daemon.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.config.Socket)
	if err != nil {
		err = fmt.Errorf("reaching the daemon: %w", err)
		return nil, fault.New(fault.Unreachable, err, "start it: banger daemon --host unix://"+c.config.Socket)
	}
	return conn, nil
}

// request is what the daemon is asked.
type request struct {
	method string
	path   []string // its elements after the version
	query  url.Values
	body   any // nil is none
}

// http puts a request into the form of HTTP.
func (r request) http(ctx context.Context) (*http.Request, error) {
	var body io.Reader = http.NoBody
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	target := "http://banger/" + api.Version
	for _, element := range r.path {
		target += "/" + escape(element)
	}
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	asked, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err == nil && r.body != nil {
		asked.Header.Set("Content-Type", api.JSON)
	}
	return asked, err
}

// escape makes one element of a path of what a user calls something, dots and slashes included.
func escape(element string) string {
	if strings.Trim(element, ".") == "" {
		return strings.ReplaceAll(element, ".", "%2E")
	}
	return url.PathEscape(element)
}

// send sends a request and returns the answer if it is no error.
func (c *Client) send(ctx context.Context, r request, accept string) (*http.Response, error) {
	asked, err := r.http(ctx)
	if err != nil {
		return nil, err
	}
	asked.Header.Set("Accept", accept)
	answer, err := c.http.Do(asked)
	if err != nil {
		return nil, lost(ctx, err)
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		defer func() { _ = answer.Body.Close() }()
		return nil, refusal(answer)
	}
	return answer, nil
}

// lost returns why a request has no answer.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the rest says the address, which is made up
	}
	if fault.KindOf(err) == fault.Unreachable {
		return err
	}
	return fault.New(fault.Unreachable, fmt.Errorf("asking the daemon: it hung up: %w", err), "start it again: banger daemon")
}

// maxRefusal bounds the body of an error, in bytes.
const maxRefusal = 1 << 20

// refusal reads an answer that is an error.
func refusal(answer *http.Response) error {
	var failure api.Failure
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if err == nil && json.Unmarshal(text, &failure) == nil && failure.Error != nil {
		return failure.Error.Received()
	}
	err = fmt.Errorf("asking the daemon: it answered %q", answer.Status)
	return fault.New(fault.Unsupported, err, "is it a banger daemon that listens there?")
}

// ask sends a request and decodes the answer into result; nil takes none.
func (c *Client) ask(ctx context.Context, r request, result any) error {
	answer, err := c.send(ctx, r, api.JSON)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(answer.Body).Decode(result); err != nil {
		return lost(ctx, err)
	}
	return nil
}

// follow is ask for what takes long: the steps are reported as they come.
func (c *Client) follow(ctx context.Context, r request, result any) error {
	answer, err := c.send(ctx, r, api.Events)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	e := events{from: bufio.NewReader(answer.Body), report: c.config.Report}
	if err := e.result(result); err != nil {
		return e.why(ctx, err)
	}
	return nil
}

// events reads the events of an answer.
type events struct {
	from    *bufio.Reader // nothing is taken that follows the last event
	report  func(imagepull.Step)
	created func(name string) // may be nil
	told    bool              // whether an error is the daemon's word
}

// result reads to the last event and decodes the result.
func (e *events) result(result any) error {
	for {
		var event api.Event
		line, err := e.from.ReadBytes('\n')
		if err != nil {
			return err
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return err
		}
		switch {
		case event.Error != nil:
			e.told = true
			return event.Error.Received()
		case event.Step != nil:
			e.report(event.Step.Received())
		case event.Created != "" && e.created != nil:
			e.created(event.Created)
		case event.Result != nil:
			return json.Unmarshal(event.Result, result)
		}
	}
}

// why returns the error that the daemon has told, or why it told none.
func (e *events) why(ctx context.Context, err error) error {
	if e.told && ctx.Err() == nil {
		return err
	}
	return lost(ctx, err)
}
