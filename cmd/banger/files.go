package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

// fileFlags are the flags of `image ls-files`.
type fileFlags struct {
	engine.FileOptions
	long, zero, json bool
}

func newImageFiles(a *app) *cobra.Command {
	var flags fileFlags
	cmd := &cobra.Command{
		Use: "ls-files IMAGE [PATH]", Short: "List the files in an image",
		Long: `List the files in an image, a path on each line: all that is below PATH, or below the root. They are read from the
image's ext4 file system, which is neither mounted nor booted. The order is that of the names' bytes, a directory before
what is in it.

PATH is taken from the image's root; symlinks in it are followed inside the image, and the paths listed are those without
symlinks. --depth 1 lists one directory, --depth 0 PATH itself, also if that is a symlink.

-l shows what ls -l does: type and permissions, hard links, numeric owner and group, size or device numbers, time in UTC,
and the target of a symlink. A + behind the permissions is an access control list. --json has all of it, with extended
attributes, capabilities and nanoseconds; files with the same inode are hard links of each other.

On a terminal, names with characters that it would not show are quoted; otherwise they are written as they are. -z ends
them with a NUL instead of a line break.

IMAGE may also be the file of an ext4 file system, such as image export makes, if it is written with a slash: ./disk.ext4.`,
		Example: `  banger image ls-files debian:bookworm /etc/apt
  banger image ls-files -l --depth 1 debian:bookworm /usr
  banger image ls-files --json debian:bookworm | jq -r '.files[] | select(.capabilities) | .path'
  banger image ls-files ./disk.ext4 /etc`,
		Args: between(1, "an IMAGE", "a PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("depth") && flags.Depth < 0 {
				return usage(fmt.Errorf("--depth %d is not a number of levels", flags.Depth), "leave it out to list all levels")
			}
			if len(args) > 1 {
				flags.Path = args[1]
			}
			return a.imageFiles(cmd.Context(), args[0], flags)
		},
	}
	cmd.Flags().BoolVarP(&flags.long, "long", "l", false, "show type, permissions, owner, size, time and target")
	cmd.Flags().IntVar(&flags.Depth, "depth", -1, "levels below PATH to list (default: all)")
	cmd.Flags().BoolVarP(&flags.zero, "null", "z", false, "end each name with a NUL, and quote none")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
}

// between demands the first of the named arguments, and takes the others.
func between(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if n := len(args); n >= least && n <= len(names) {
			return exactly(names[:n]...)(cmd, args)
		}
		return exactly(names[:least]...)(cmd, args)
	}
}

func (a *app) imageFiles(ctx context.Context, image string, f fileFlags) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	out := a.newFileList(f.zero)
	if f.json {
		list := jsonList{out: out.Writer, name: "files"}
		err := e.ListFiles(ctx, image, f.FileOptions, func(file engine.File) error { return list.add(file) })
		return out.finish(list.end(err))
	}
	err = e.ListFiles(ctx, image, f.FileOptions, func(file engine.File) error {
		if !f.long {
			return out.line(out.name(file.Path))
		}
		return out.line(longLine(file, out.name))
	})
	return out.finish(err)
}

func newImageCat(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH…", Short: "Print files of an image",
		Long: `Print files of an image, byte by byte, one after the other. They are read from the image's ext4 file system, which is
neither mounted nor booted. Symlinks are followed inside the image. One path that cannot be printed does not stop the rest.

IMAGE may also be the file of an ext4 file system, if it is written with a slash: ./disk.ext4.`,
		Example: "  banger image cat debian:bookworm /etc/os-release\n  banger image cat debian:bookworm /usr/bin/perl >perl",
		Args:    atLeast("an IMAGE", "a PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageCat(cmd.Context(), args[0], args[1:])
		},
	}
}

func (a *app) imageCat(ctx context.Context, image string, paths []string) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	var failed []error
	for _, path := range paths {
		if err := e.CatFile(ctx, image, path, a.stdout); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return joined(failed)
}
