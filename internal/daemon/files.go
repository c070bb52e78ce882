package daemon

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/engine"
)

func listFiles(c *call) error {
	query := c.r.URL.Query()
	options := engine.FileOptions{Path: query.Get("path"), Depth: -1}
	if text := query.Get("depth"); text != "" {
		var err error
		if options.Depth, err = strconv.Atoi(text); err != nil || options.Depth < 0 {
			return badParameter("depth", text, "pass a number of levels")
		}
	}
	out := c.manyLines()
	err := c.engine.ListFiles(c.ctx(), c.target(), options, func(file engine.File) error {
		return out.send(api.FileLine{File: &file})
	})
	return c.endLines(out, err, func(err error) any { return api.FileLine{Error: api.ErrorOf(err)} })
}

func diffImages(c *call) error {
	query := c.r.URL.Query()
	options := engine.DiffOptions{Ignore: query["ignore"]}
	var err error
	if options.All, err = c.flag("all"); err != nil {
		return err
	}
	if !query.Has("to") {
		return badParameter("to", "", "pass the image to compare with")
	}
	out := c.manyLines()
	err = c.engine.DiffImages(c.ctx(), c.target(), query.Get("to"), options, func(change engine.Change) error {
		return out.send(api.ChangeLine{Change: &change})
	})
	return c.endLines(out, err, func(err error) any { return api.ChangeLine{Error: api.ErrorOf(err)} })
}

// manyLines begins an answer of lines that are not sent one by one: there are many of them, and none is waited for.
func (c *call) manyLines() lines {
	return lines{to: &lateAnswer{call: c, kind: api.Events}, flush: func() {}}
}

// endLines ends an answer of lines, with a line for an error once something has been sent.
func (c *call) endLines(out lines, err error, line func(error) any) error {
	if err == nil && !c.begun {
		_, err = out.to.Write(nil) // there is nothing to show
	}
	if err != nil && c.begun {
		return out.send(line(c.cause(err)))
	}
	return err
}

// catFile sends a file's bytes. An error behind the first of them is a trailer.
func catFile(c *call) error {
	body := &lateAnswer{call: c, kind: api.Bytes}
	err := c.engine.CatFile(c.ctx(), c.target(), c.r.URL.Query().Get("path"), body)
	if err == nil && !c.begun {
		_, err = body.Write(nil) // the file is empty
	}
	return c.endBytes(err)
}

// endBytes ends an answer that is a stream of bytes. What went wrong once it has begun is in the trailer.
func (c *call) endBytes(err error) error {
	if err == nil || !c.begun {
		return err
	}
	text, marshalling := json.Marshal(api.ErrorOf(c.cause(err))) // which leaves no line break in it
	c.w.Header().Set(http.TrailerPrefix+api.ErrorTrailer, string(text))
	return errors.Join(err, marshalling)
}
