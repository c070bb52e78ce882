package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

func newImage(a *app) *cobra.Command {
	return group("image", "Pull, list, inspect, export and remove images",
		newImagePull(a), newImageList(a), newImageInspect(a), newImageExport(a), newImageRemove(a), newImageSettle(a))
}

func newImagePull(a *app) *cobra.Command {
	var options engine.PullOptions
	var size string
	cmd := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Pull a container image and turn it into a bootable disk",
		Long: `Pull a container image and turn it into a bootable ext4 disk.

REFERENCE is an image of a registry, as docker and podman write it, or oci:DIR[:TAG] for an OCI layout, or
docker-archive:FILE for what docker save writes. The same image with the same options is made only once.`,
		Example: `  banger image pull debian:bookworm
  banger image pull ghcr.io/owner/image@sha256:9ecc…
  banger image pull docker-archive:alpine.tar.gz --name alpine
  banger image pull oci:layout:v1 --name mine --size 4GiB`,
		Args: exactly("a REFERENCE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if options.Size, err = parseSize("--size", size); err != nil {
				return err
			}
			return a.imagePull(cmd.Context(), args[0], options)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Name, "name", "", "name of the image here (default: the reference's)")
	flags.StringVar(&size, "size", "", "size of the disk, such as 4GiB (default: the content and room to work)")
	flags.StringVar(&options.Platform, "platform", "linux/amd64", "os/architecture to choose from a multi-platform image")
	flags.StringVar(&options.Builder, "builder", "native", "what writes the file system: native, or mkfs (needs e2fsprogs)")
	flags.BoolVar(&options.NoGuest, "no-guest", false, "leave the image as it is, without banger's agent, which only linux/amd64 images get")
	return cmd
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

func (a *app) imagePull(ctx context.Context, reference string, options engine.PullOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	pulled, err := e.PullImage(ctx, reference, options)
	if err != nil {
		return err
	}
	state := "up to date"
	if pulled.Fresh {
		state = units.BytesSize(float64(pulled.Image.Size)) + " disk"
	}
	a.progress.clear()
	_, err = fmt.Fprintf(a.stdout, "%s  %s  %s\n", pulled.Name, shortID(pulled.Image.ID), state)
	return err
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

func newImageRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE…", Aliases: []string{"remove"}, Short: "Remove images",
		Long: `Remove images, and the layers that no other image is made of.

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
