package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
)

// SaveImages writes an archive of the images.
func (c *Client) SaveImages(ctx context.Context, queries []string, format string, to io.Writer) error {
	query := url.Values{"image": queries, "format": {format}}
	answer, err := c.send(ctx, request{method: http.MethodGet, path: []string{"save"}, query: query}, api.Tar)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	return receiveBytes(ctx, answer, to)
}

// told returns the error that a trailer has.
func told(trailer string) error {
	if trailer == "" {
		return nil
	}
	var sent api.Error
	if err := json.Unmarshal([]byte(trailer), &sent); err != nil {
		return fault.New(fault.Unreachable, fmt.Errorf("reading the daemon's error %q: %w", trailer, err), "")
	}
	return sent.Received()
}

// receiver remembers that it was the reading that failed.
type receiver struct {
	io.Reader
	err error
}

// Read reads from the daemon.
func (r *receiver) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// pullInput is PullImage for a reference to the standard input, which is sent to the daemon.
func (c *Client) pullInput(ctx context.Context, reference string, options engine.PullOptions) (pulled engine.Pulled, err error) {
	s, err := c.upgrade(ctx, post(api.Pull{Reference: reference, PullOptions: options}, "images"), api.UpgradePull)
	if err != nil {
		return engine.Pulled{}, err
	}
	defer func() { _ = s.Close() }()
	stop := context.AfterFunc(ctx, s.giveUp)
	defer stop()
	unread := make(chan error, 1)
	go func() {
		if err := s.sendChunks(options.Input); err != nil {
			unread <- err
			s.giveUp() // an end without the last chunk is no end of the input
		}
	}()
	e := events{from: s.in, report: c.config.Report}
	if err := e.result(&pulled); err != nil {
		return engine.Pulled{}, inputError(unread, e.why(ctx, err))
	}
	return pulled, nil
}

// inputError returns why the input could not be read, if that was what failed, and else err.
func inputError(unread chan error, err error) error {
	select {
	case failed := <-unread:
		return fmt.Errorf("reading the standard input: %w", failed)
	default:
		return err
	}
}

// sendChunks sends all that r has, in chunks. An error is one of reading r: one of the connection shows elsewhere.
func (s stream) sendChunks(r io.Reader) error {
	source := &receiver{Reader: r}
	out := bufio.NewWriterSize(s.Conn, 1<<20)
	chunked := httputil.NewChunkedWriter(out)
	_, err := io.CopyBuffer(struct{ io.Writer }{chunked}, source, make([]byte, 1<<20))
	if source.err != nil {
		return source.err
	}
	if err == nil && chunked.Close() == nil {
		_ = out.Flush()
	}
	return nil
}
