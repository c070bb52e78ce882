package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/files"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// Location is one end of a copy: a path in a VM or, where VM is "", on the host.
type Location struct {
	VM   string
	Path string
}

// Copy is what to copy, and how. At least one end is a VM.
type Copy struct {
	From, To Location
	files.Options

	// Input and Output take the place of an end on the host, with a tar. They may be nil.
	Input  io.Reader
	Output io.Writer
}

// Streamer opens streams to the agents of VMs. An Engine does, and so does the client of one that is elsewhere.
type Streamer interface {
	Stream(ctx context.Context, vm string) (net.Conn, error)
}

// CopyFiles copies a file or a tree into a running VM of host, out of it, or from one to another. Paths have the meaning
// that docker cp gives them (package files). What could not be kept as it was is in the result's notes.
func CopyFiles(ctx context.Context, host Streamer, c Copy) (files.Result, error) {
	result, err := c.run(ctx, host)
	return result, copyFault(err)
}

func (c Copy) run(ctx context.Context, host Streamer) (files.Result, error) {
	if c.From.VM != "" && c.To.VM != "" {
		return c.between(ctx, host)
	}
	name := c.From.VM + c.To.VM
	stream, err := host.Stream(ctx, name)
	if err != nil {
		return files.Result{}, err
	}
	switch {
	case c.Input != nil:
		return files.TarIn(ctx, stream, c.Input, c.To.Path, c.Options)
	case c.Output != nil:
		return files.TarOut(ctx, stream, c.From.Path, c.Output, c.Options)
	case c.To.VM != "":
		return files.CopyIn(ctx, stream, c.From.Path, c.To.Path, c.Options)
	}
	return files.CopyOut(ctx, stream, c.From.Path, c.To.Path, c.Options)
}

func (c Copy) between(ctx context.Context, host Streamer) (files.Result, error) {
	if c.isIntoItself() {
		err := fmt.Errorf("copying %q to %q of the VM %q: a directory cannot be copied into itself", c.From.Path, c.To.Path, c.To.VM)
		return files.Result{}, fault.New(fault.Usage, err, "copy it to a directory beside it")
	}
	from, err := host.Stream(ctx, c.From.VM)
	if err != nil {
		return files.Result{}, err
	}
	to, err := host.Stream(ctx, c.To.VM)
	if err != nil {
		_ = from.Close()
		return files.Result{}, err
	}
	return files.Between(ctx, from, c.From.Path, to, c.To.Path, c.Options)
}

// isIntoItself reports whether the copy would find what it has written itself, and copy that as well.
func (c Copy) isIntoItself() bool {
	from, to := path.Join("/", c.From.Path), path.Join("/", c.To.Path)
	return c.From.VM == c.To.VM && (from == "/" || to == from || strings.HasPrefix(to, from+"/"))
}

// copyFault gives an error of a copy its kind.
func copyFault(err error) error {
	if err == nil || fault.KindOf(err) != fault.Failure {
		return err
	}
	switch files.ReasonOf(err) {
	case frame.NotFound:
		return fault.New(fault.NotFound, err, "")
	case frame.Conflict:
		return fault.New(fault.Conflict, err, "")
	case frame.NoSpace:
		return fault.New(fault.NoSpace, err, spaceHint(err))
	}
	return err
}

func spaceHint(err error) string {
	var refused *frame.Refusal
	if errors.As(err, &refused) {
		return "free some space in the VM; its disk's size is that of `banger vm run --disk`"
	}
	return "free some space on the host"
}
