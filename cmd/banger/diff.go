package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

// diffFlags are the flags of `image diff`.
type diffFlags struct {
	engine.DiffOptions
	verbose, zero, json, exitCode bool
}

func newImageDiff(a *app) *cobra.Command {
	var flags diffFlags
	cmd := &cobra.Command{
		Use: "diff A B", Short: "Show which files differ in two images",
		Long: `Show which files differ in two images, as docker diff does: A and the path for one that B has and A has not, D for one
that only A has, C for one that has changed. Below a directory that only one of them has, every path is shown. The two file
systems are read as they are; nothing is mounted.

A file has changed if its type, permissions, owner, content, target, device numbers, extended attributes, time, or hard links
have. -v says which, --json shows both states. --ignore leaves some of these out: --ignore mtime,links compares what was
built twice. Content is compared by its bytes.

What banger adds to images for its VMs is left out: its agent, the description of the image, the unit and the link that
start the agent. --all compares it too.

The exit code is 0 whether there are differences or not, unless --exit-code asks for 1 where there are some. A and B may also
be files of ext4 file systems, if they are written with a slash: ./disk.ext4.`,
		Example: `  banger image diff debian:bookworm-20250101 debian:bookworm
  banger image diff -v --ignore mtime app:v1 app:v2
  banger image diff --exit-code app:v1 ./disk.ext4 && echo the same`,
		Args: exactly("an image A", "an image B"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageDiff(cmd.Context(), args[0], args[1], flags)
		},
	}
	cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "show what has changed")
	cmd.Flags().StringSliceVar(&flags.Ignore, "ignore", nil,
		"what may differ: "+strings.Join(engine.IgnorableDiffs(), ", "))
	cmd.Flags().BoolVar(&flags.All, "all", false, "compare what banger has added as well")
	cmd.Flags().BoolVar(&flags.exitCode, "exit-code", false, "exit with 1 if there are differences")
	cmd.Flags().BoolVarP(&flags.zero, "null", "z", false, "end each line with a NUL, and quote no names")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
}

func (a *app) imageDiff(ctx context.Context, from, to string, f diffFlags) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	out := a.newFileList(f.zero)
	list, found := jsonList{out: out.Writer, name: "changes"}, false
	err = e.DiffImages(ctx, from, to, f.DiffOptions, func(c engine.Change) error {
		found = true
		switch {
		case f.json:
			return list.add(c)
		case f.verbose && c.Kind == engine.Changed:
			return out.line(c.Kind + " " + out.name(c.Path) + "\t" + strings.Join(changes(c, out.name), ", "))
		}
		return out.line(c.Kind + " " + out.name(c.Path))
	})
	if f.json {
		err = list.end(err)
	}
	if err = out.finish(err); err == nil && found && f.exitCode {
		return imagesDiffer{}
	}
	return err
}

// changes says what has changed.
func changes(c engine.Change, name func(string) string) []string {
	b, a := c.Before, c.After
	var all []string
	for _, what := range c.Changed {
		text := what
		switch what {
		case engine.DiffType:
			text = fmt.Sprintf("type %s to %s", b.Type, a.Type)
		case engine.DiffMode:
			text = fmt.Sprintf("mode %s to %s", b.Mode, a.Mode)
		case engine.DiffOwner:
			text = fmt.Sprintf("owner %d:%d to %d:%d", b.UID, b.GID, a.UID, a.GID)
		case engine.DiffSize:
			text = fmt.Sprintf("size %d to %d", b.Size, a.Size)
		case engine.DiffTarget:
			text = fmt.Sprintf("target %s to %s", name(b.Target), name(a.Target))
		case engine.DiffDevice:
			text = fmt.Sprintf("device %d:%d to %d:%d", b.Major, b.Minor, a.Major, a.Minor)
		case engine.DiffXattrs:
			text = "xattrs " + strings.Join(changedXattrs(b, a), " ")
		case engine.DiffMTime:
			text = fmt.Sprintf("mtime %s to %s", b.MTime.Format(time.RFC3339Nano), a.MTime.Format(time.RFC3339Nano))
		case engine.DiffLinks:
			text = fmt.Sprintf("links %d to %d", b.Links, a.Links)
		}
		all = append(all, text)
	}
	return all
}

// changedXattrs returns the names of the attributes that two files do not share.
func changedXattrs(before, after *engine.File) []string {
	values := map[string][2]string{}
	for i, file := range []*engine.File{before, after} {
		for _, x := range file.Xattrs {
			both := values[x.Name]
			both[i] = "=" + string(x.Value) // which an attribute that is not there has not
			values[x.Name] = both
		}
	}
	var names []string
	for name, both := range values {
		if both[0] != both[1] {
			names = append(names, quoteName(name))
		}
	}
	slices.Sort(names)
	return names
}
