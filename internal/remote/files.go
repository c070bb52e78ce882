package remote

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
)

// ListFiles calls visit with the files of an image, as the engine's ListFiles does.
func (c *Client) ListFiles(
	ctx context.Context, query string, options engine.FileOptions, visit func(engine.File) error,
) error {
	query, err := absoluteDisk(query)
	if err != nil {
		return err
	}
	r := get("images", query, "files")
	r.query = url.Values{"path": {options.Path}}
	if options.Depth >= 0 {
		r.query.Set("depth", strconv.Itoa(options.Depth))
	}
	return readLines(ctx, c, r, func(line api.FileLine) error {
		if line.Error != nil {
			return line.Error.Received()
		}
		return visit(line.File.Received())
	})
}

// DiffImages calls visit with what differs in two images, as the engine's DiffImages does.
func (c *Client) DiffImages(
	ctx context.Context, from, to string, options engine.DiffOptions, visit func(engine.Change) error,
) error {
	from, err := absoluteDisk(from)
	if err != nil {
		return err
	}
	if to, err = absoluteDisk(to); err != nil {
		return err
	}
	r := get("images", from, "diff")
	r.query = url.Values{"to": {to}, "ignore": options.Ignore, "all": {strconv.FormatBool(options.All)}}
	return readLines(ctx, c, r, func(line api.ChangeLine) error {
		if line.Error != nil {
			return line.Error.Received()
		}
		return visit(line.Change.Received())
	})
}

// readLines calls visit with each line of an answer.
func readLines[T any](ctx context.Context, c *Client, r request, visit func(T) error) error {
	answer, err := c.send(ctx, r, api.Events)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	for decoder := json.NewDecoder(answer.Body); ; {
		var line T
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return lost(ctx, err)
		}
		if err := visit(line); err != nil {
			return err
		}
	}
}

// CatFile writes the content of a file of an image.
func (c *Client) CatFile(ctx context.Context, query, path string, to io.Writer) error {
	query, err := absoluteDisk(query)
	if err != nil {
		return err
	}
	r := get("images", query, "content")
	r.query = url.Values{"path": {path}}
	answer, err := c.send(ctx, r, api.Bytes)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	return receiveBytes(ctx, answer, to)
}

// receiveBytes copies an answer that is a stream of bytes, and returns the error that is behind them, if there is one.
func receiveBytes(ctx context.Context, answer *http.Response, to io.Writer) error {
	received := &receiver{Reader: answer.Body}
	if _, err := io.Copy(to, received); err != nil {
		if received.err != nil {
			return lost(ctx, received.err)
		}
		return err
	}
	return told(answer.Trailer.Get(api.ErrorTrailer))
}

// absoluteDisk returns a query of an image that means the same to the daemon.
func absoluteDisk(query string) (string, error) {
	if !engine.IsDiskFile(query) {
		return query, nil
	}
	return absolute(query)
}
