package daemon

import (
	"context"
	"errors"
	"io"
	"net/http/httputil"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
)

// saveImages answers with an archive. What goes wrong once it has begun is in the trailer, and the archive lacks its end.
func saveImages(c *call) error {
	query := c.r.URL.Query()
	if len(query["image"]) == 0 {
		return badParameter("image", "", "name the images to save")
	}
	format := query.Get("format")
	if format == "" {
		format = engine.SaveDocker
	}
	return c.endBytes(c.engine.SaveImages(c.ctx(), query["image"], format, &lateAnswer{call: c, kind: api.Tar}))
}

// pullInput pulls an image whose archive is the client's standard input: the connection carries that, in chunks (RFC 9112,
// section 7.1), so that its end is told from the client's. Events go the other way.
func (c *call) pullInput(asked api.Pull) error {
	ctx, cancel := context.WithCancel(c.ctx()) // the client's end does not end it once the connection is upgraded
	defer cancel()
	client, release, err := c.upgrade(api.UpgradePull)
	if err != nil {
		return err
	}
	defer release()
	input := &chunks{from: httputil.NewChunkedReader(client.in), client: client, gone: cancel}
	asked.Input = input
	out := lines{to: client, flush: func() {}}
	pulled, err := c.engine.Reporting(out.report).PullImage(ctx, asked.Reference, asked.PullOptions)
	input.stop()
	err = out.finish(pulled, c.cause(err))
	linger(client.Conn)
	_, _ = io.Copy(io.Discard, client.Conn) // what is on its way, if the input was not wanted to its end
	return err
}

// chunks is a client's standard input. Once that has ended, the client is watched: its end is the end of the pull.
type chunks struct {
	from   io.Reader
	client *upgraded
	gone   func()
	watch  func()
}

// Read reads from the input.
func (c *chunks) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	if errors.Is(err, io.EOF) && c.watch == nil {
		c.watch = c.client.watch(c.gone)
	}
	return n, err
}

// stop ends the watch.
func (c *chunks) stop() {
	if c.watch != nil {
		c.watch()
	}
}
