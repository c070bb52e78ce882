package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/guest/files"
)

// tarPath is the path that stands for a tar on standard input or output.
const tarPath = "-"

func newVMCopy(a *app) *cobra.Command {
	var options files.Options
	var quiet bool
	cmd := &cobra.Command{
		Use:                   "cp [FLAGS] VM:SRC… DEST|-\n  banger vm cp [FLAGS] SRC…|- VM:DEST",
		DisableFlagsInUseLine: true,

		Short: "Copy files and trees between the host and a VM, or two VMs",
		Long: `Copy files and trees between the host and a running VM, or between two VMs.

Paths mean what they mean to docker cp: a directory goes into a DEST that exists and becomes a DEST that does not, and
SRC/. is what is in a directory. Paths in a VM begin at its root directory. A path of the host with a colon is written
./a:b. With - for DEST a tar is written to standard output, and with - for SRC one, which may be gzipped, is extracted
from standard input.

Modes, times, symlinks, hard links, holes and users' extended attributes are kept. In a VM files become root's, on the
host yours, and lose setuid and setgid with their owner. Where the receiver is root, as it is in a VM, -a keeps owners,
setuid, setgid, devices and all extended attributes, and gives directories that exist the attributes of the copied ones.
A tar is always as with -a. Nothing that a VM sends is written outside of DEST.`,
		Example: `  banger vm cp notes.txt dev:/root/
  banger vm cp dev:/var/log/. ./logs
  tar cz . | banger vm cp - dev:/srv`,
		Args: atLeastTwo,
		RunE: func(cmd *cobra.Command, args []string) error { return a.vmCopy(cmd.Context(), args, options, quiet) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&options.Archive, "archive", "a", false, "keep owners and all that only root can set")
	flags.BoolVarP(&options.Follow, "follow-link", "L", false, "copy what SRC points to when it is a symlink")
	flags.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func atLeastTwo(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return nil
	}
	return exactly("a SRC", "a DEST")(cmd, args)
}

// vmCopy copies each source. The first one that fails ends it.
func (a *app) vmCopy(ctx context.Context, args []string, options files.Options, quiet bool) error {
	copies, err := a.copies(args, options)
	if err != nil {
		return err
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	shown := a.newCopyProgress(quiet)
	for _, c := range copies {
		c.Progress = shown.report
		result, err := engine.CopyFiles(ctx, e, c)
		if err != nil {
			a.progress.clear()
			return err
		}
		shown.done(c, result)
	}
	return nil
}

// copies checks the command line and turns it into what the engine copies.
func (a *app) copies(args []string, options files.Options) ([]engine.Copy, error) {
	sources, dest := args[:len(args)-1], args[len(args)-1]
	options.Into = len(sources) > 1
	to, err := parseLocation(dest)
	if err != nil {
		return nil, err
	}
	var copies []engine.Copy
	for _, source := range sources {
		from, err := parseLocation(source)
		if err != nil {
			return nil, err
		}
		c := engine.Copy{From: from, To: to, Options: options}
		if err := a.tarEnds(&c); err != nil {
			return nil, err
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// tarEnds connects a tar to standard input or output, and checks that a VM is at the other end.
func (a *app) tarEnds(c *engine.Copy) error {
	tarIn, tarOut := c.From == engine.Location{Path: tarPath}, c.To == engine.Location{Path: tarPath}
	switch {
	case c.From.VM == "" && c.To.VM == "":
		return usage(errors.New("neither SRC nor DEST is in a VM"), "write VM:PATH for one of them, or use cp")
	case (tarIn || tarOut) && c.Into:
		return usage(errors.New("a tar cannot be one of several"), "copy one SRC at a time")
	case tarIn:
		c.Input = a.stdin
	case tarOut && isTerminal(a.stdout):
		return usage(errors.New("a tar would spoil the terminal"), "send it to a file or a program, as in `… - | tar t`")
	case tarOut:
		c.Output = a.stdout
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// parseLocation tells VM:PATH from a path of the host, as docker does: a path with a colon begins with a slash or a dot.
func parseLocation(arg string) (engine.Location, error) {
	vm, path, found := strings.Cut(arg, ":")
	if !found || filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		if arg == "" {
			return engine.Location{}, usage(errors.New("a path is empty"), "write . for the working directory")
		}
		return engine.Location{Path: arg}, nil
	}
	if vm == "" || path == "" {
		err := fmt.Errorf("%q is not of the form VM:PATH", arg)
		return engine.Location{}, usage(err, "write VM:/ for the root directory, or ./"+arg+" for a file")
	}
	return engine.Location{VM: vm, Path: path}, nil
}

// copyProgress shows on a terminal how much has been copied.
type copyProgress struct {
	*progress
	last time.Time
}

func (a *app) newCopyProgress(quiet bool) *copyProgress {
	a.progress.quiet = a.progress.quiet || quiet || !a.progress.terminal
	return &copyProgress{progress: a.progress}
}

// report shows the bytes that have been copied so far, ten times in a second at most.
func (p *copyProgress) report(bytes int64) {
	if p.quiet || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.show("Copying… " + units.BytesSize(float64(bytes)))
	p.last = time.Now()
}

// done shows what has been copied, and always what could not be kept.
func (p *copyProgress) done(c engine.Copy, result files.Result) {
	p.clear()
	for _, note := range result.Notes {
		_, _ = fmt.Fprintf(p.out, "banger: note: %s\n", note)
	}
	if !p.quiet {
		size := units.BytesSize(float64(result.Bytes))
		_, _ = fmt.Fprintf(p.out, "Copied %s in %d files and directories to %s\n", size, result.Entries, location(c.To))
	}
}

func location(l engine.Location) string {
	if l.VM == "" {
		return l.Path
	}
	return l.VM + ":" + l.Path
}
