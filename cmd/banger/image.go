package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

func newImage(a *app) *cobra.Command {
	return group("image", "Pull, list, inspect, read, compare, export, save, remove and prune images",
		newImagePull(a), newImageList(a), newImageInspect(a), newImageFiles(a), newImageCat(a), newImageDiff(a),
		newImageExport(a), newImageSave(a), newImageRemove(a), newImagePrune(a), newImageSettle(a))
}

func newImagePull(a *app) *cobra.Command {
	var flags pull
	cmd := &cobra.Command{
		Use:   "pull REFERENCE…",
		Short: "Pull container images and turn them into bootable disks",
		Long: `Pull container images and turn them into bootable ext4 disks.

REFERENCE is an image of a registry, as docker and podman write it, or one of

  docker-daemon:NAME          an image of docker, or of podman's service
  docker-archive:FILE[:REF]   what docker save and podman save write
  oci-archive:FILE[:TAG]      an OCI layout in a tar
  oci:DIR[:TAG]               an OCI layout
  dir:DIR                     a directory of skopeo's
  tar:FILE                    a root file system, which becomes an image of one layer

FILE may be compressed with gzip, zstd or bzip2, and may be - for the standard input. The same image with the same options
is made only once. Of several images, one that cannot be pulled does not stop the rest; the exit code is that of the first
failure.

On a terminal, a bar shows how far each layer is. With -q, only the digest of each image is printed.`,
		Example: `  banger image pull debian:bookworm
  banger image pull alpine debian:bookworm --progress plain
  banger image pull ghcr.io/owner/image@sha256:9ecc…
  banger image pull docker-archive:alpine.tar.gz --name alpine
  banger image pull oci:layout:v1 --name mine --size 4GiB
  docker save mine | banger image pull docker-archive:-
  mmdebstrap bookworm | banger image pull tar:- --name bookworm`,
		Args: atLeast("a REFERENCE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if flags.Size, err = parseSize("--size", flags.size); err != nil {
				return err
			}
			if !isTerminal(a.stdin) {
				flags.Input = a.stdin
			}
			return a.imagePull(cmd.Context(), args, flags)
		},
	}
	set := cmd.Flags()
	set.StringVar(&flags.Name, "name", "", "name of the image here (default: the reference's)")
	set.StringVar(&flags.size, "size", "", "size of the disk, such as 4GiB (default: the content and room to work)")
	set.StringVar(&flags.Platform, "platform", "linux/amd64", "os/architecture to choose from a multi-platform image")
	set.StringVar(&flags.Builder, "builder", "native", "what writes the file system: native, or mkfs (needs e2fsprogs)")
	set.BoolVar(&flags.NoGuest, "no-guest", false, "leave the image as it is, without banger's agent, which only linux/amd64 images get")
	set.BoolVarP(&flags.quiet, "quiet", "q", false, "print nothing but the digest")
	set.BoolVar(&flags.json, "json", false, "print JSON")
	registryFlags(cmd, &flags.RegistryOptions)
	return cmd
}

// pull are the flags of `image pull`.
type pull struct {
	engine.PullOptions
	size        string
	quiet, json bool
}

func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	size, err := units.RAMInBytes(text)
	if err != nil || size <= 0 {
		return 0, usage(fmt.Errorf("%s %q is not a size", flag, text), "write it like 512MiB or 4GiB")
	}
	return size, nil
}

func (a *app) imagePull(ctx context.Context, references []string, flags pull) error {
	if flags.Name != "" && len(references) > 1 {
		return usage(fmt.Errorf("--name %q is one name for %d images", flags.Name, len(references)), "pull them one at a time")
	}
	a.progress.quiet = a.progress.quiet || flags.quiet
	e, err := a.engine()
	if err != nil {
		return err
	}
	pulled := []engine.Pulled{}
	failed := a.each(references, func(reference string) (string, error) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if len(references) > 1 {
			a.progress.begin(reference)
		}
		p, err := e.PullImage(ctx, reference, flags.PullOptions)
		a.progress.clear()
		if err == nil {
			pulled = append(pulled, p)
		}
		return flags.describe(p), err
	})
	if flags.json {
		failed = errors.Join(a.printJSON(struct {
			Schema int             `json:"schema"`
			Pulled []engine.Pulled `json:"pulled"`
		}{1, pulled}), failed)
	}
	return failed
}

// describe is what is printed of an image that was pulled; "" with JSON, which has all of them.
func (f pull) describe(p engine.Pulled) string {
	switch {
	case f.json:
		return ""
	case f.quiet:
		return p.Image.Digest
	}
	state := "up to date"
	if p.Fresh {
		state = units.BytesSize(float64(p.Image.Size)) + " disk"
	}
	return fmt.Sprintf("%s  %s  %s", p.Name, shortID(p.Image.ID), state)
}

func shortID(id string) string { return id[:min(12, len(id))] }

func newImageList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images", Args: exactly(),
		Example: "  banger image ls\n  banger image ls --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.imageList(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newShortImages(a *app) *cobra.Command {
	cmd := newImageList(a)
	cmd.Use, cmd.Aliases = "images", nil
	return cmd
}

func (a *app) imageList(ctx context.Context, asJSON bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	images, broken := e.ListImages(ctx)
	if broken != nil && images == nil { // not even a part of it is known
		return broken
	}
	if asJSON {
		err = a.printJSON(struct {
			Schema int                 `json:"schema"`
			Images []engine.NamedImage `json:"images"`
		}{1, images})
	} else {
		err = a.printImages(images)
	}
	if err != nil {
		return err
	}
	return broken
}

func (a *app) printImages(images []engine.NamedImage) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tID\tCREATED\tCONTENT\tDISK\tINIT")
	for _, image := range images {
		names := image.Names
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		for _, name := range names {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", name, shortID(image.ID), age(image.Created),
				units.HumanSize(float64(image.Content)), units.BytesSize(float64(image.Size)), orDash(image.Init))
		}
	}
	return w.Flush()
}

func age(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newImageInspect(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "inspect IMAGE", Short: "Show what is known of an image", Args: exactly("an IMAGE"),
		Long: `Show what is known of an image.

The SHA-256 is that of the file which image export writes. It is found out when an image is inspected for the first time,
which takes a while for a large one.`,
		Example: "  banger image inspect debian:bookworm\n  banger image inspect debian:bookworm --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageInspect(cmd.Context(), args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) imageInspect(ctx context.Context, query string, asJSON bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	details, err := e.InspectImage(ctx, query)
	if err != nil {
		return err
	}
	a.progress.clear()
	if asJSON {
		return a.printJSON(details)
	}
	return a.printImage(details)
}

func (a *app) printImage(image engine.ImageDetails) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, name := range image.Names {
		_, _ = fmt.Fprintf(w, "Name:\t%s\n", name)
	}
	_, _ = fmt.Fprintf(w, "ID:\t%s\nReference:\t%s\nDigest:\t%s\nPlatform:\t%s\nCreated:\t%s\n",
		image.ID, image.Reference, image.Digest, image.Platform, image.Created.Format(time.RFC3339))
	_, _ = fmt.Fprintf(w, "Disk:\t%s\nSHA-256:\t%s\nSize:\t%s (%d bytes)\nContent:\t%s in %d files\nBuilder:\t%s\n",
		image.Disk, image.SHA256, units.BytesSize(float64(image.Size)), image.Size,
		units.HumanSize(float64(image.Content)), image.Inodes, image.Builder)
	_, _ = fmt.Fprintf(w, "File system:\tUUID %s, %s and %d inodes free\n", image.FileSystem.UUID,
		units.BytesSize(float64(image.FileSystem.FreeBytes)), image.FileSystem.FreeInodes)
	_, _ = fmt.Fprintf(w, "Guest agent:\t%s\nInit:\t%s\n", orDash(image.Guest), orDash(image.Init))
	for _, layer := range image.Layers {
		_, _ = fmt.Fprintf(w, "Layer:\t%s\n", layer.DiffID)
	}
	return w.Flush()
}

func newImageExport(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "export IMAGE FILE", Short: "Write an image's ext4 file system to a file",
		Long:    "Write an image's raw ext4 file system to a file, which is replaced if it is there. The file is sparse.",
		Args:    exactly("an IMAGE", "a FILE"),
		Example: "  banger image export debian:bookworm debian.ext4",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.ExportImage(cmd.Context(), args[0], args[1])
		},
	}
}

func newImageSave(a *app) *cobra.Command {
	var format, path string
	cmd := &cobra.Command{
		Use: "save IMAGE…", Short: "Write images to an archive, as docker save does",
		Long: `Write images to an archive that docker load, podman load and skopeo read, and banger image pull.

Layers, configuration and history are those of the image that was pulled, without what banger adds to its disk. The
archive has the names that are given here. Layers that have been pruned are fetched again. A FILE appears whole or not
at all.`,
		Args: atLeast("an IMAGE"),
		Example: `  banger image save debian:bookworm -o debian.tar
  banger image save --format oci-archive debian:bookworm alpine -o both.tar
  banger image save alpine | docker load`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.imageSave(cmd.Context(), args, format, path) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&path, "output", "o", "", "FILE to write (default: standard output)")
	flags.StringVar(&format, "format", engine.SaveDocker, "docker-archive or oci-archive")
	return cmd
}

func (a *app) imageSave(ctx context.Context, images []string, format, path string) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	save := func(to io.Writer) error {
		err := e.SaveImages(ctx, images, format, to)
		a.progress.clear()
		return err
	}
	switch {
	case path != "" && path != "-":
		return engine.WriteFile(path, save)
	case isTerminal(a.stdout):
		return usage(errors.New("an archive would spoil the terminal"), "name a file with -o, or send it to a program")
	}
	return save(a.stdout)
}

func newImageRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE…", Aliases: []string{"remove"}, Short: "Remove images",
		Long: `Remove images, and the layers that no other image is made of (unless BANGER_LAYER_LIMIT keeps them as a cache).

An image with several names only loses the one given. An image that a VM is made of stays.`,
		Args:    atLeast("an IMAGE"),
		Example: "  banger image rm debian:bookworm",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(args, func(name string) (string, error) { return e.RemoveImage(cmd.Context(), name) })
		},
	}
}
