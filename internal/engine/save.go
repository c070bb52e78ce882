package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/store"
)

// The formats of an archive of images.
const (
	SaveDocker = "docker-archive" // what docker save writes, and docker load reads
	SaveOCI    = "oci-archive"    // an OCI image layout in a tar
)

// SaveImages writes the images that the queries mean into one archive, with their configurations byte for byte and their
// layers from the layer store. A layer that the store no longer has is fetched from where the image came from, before
// anything is written. An image keeps the names that it was asked for by.
func (e *Engine) SaveImages(ctx context.Context, queries []string, format string, to io.Writer) error {
	if format != SaveDocker && format != SaveOCI {
		err := fmt.Errorf("--format %q is not known", format)
		return fault.New(fault.Usage, err, "pass "+SaveDocker+" or "+SaveOCI)
	}
	var closers closers
	defer closers.close()
	images, err := e.outgoing(ctx, queries, &closers)
	if err != nil {
		return err
	}
	return oci.WriteArchive(ctx, to, format == SaveDocker, images)
}

// closers are files that are open.
type closers []io.Closer

func (c closers) close() {
	for _, file := range c {
		_ = file.Close()
	}
}

// outgoing opens the images that the queries mean, each once.
func (e *Engine) outgoing(ctx context.Context, queries []string, open *closers) ([]oci.Outgoing, error) {
	var images []oci.Outgoing
	place := map[string]int{} // of an image among them, by its id
	for _, query := range queries {
		image, name, err := e.imageAndName(query)
		if err != nil {
			return nil, err
		}
		at, known := place[image.ID]
		if !known {
			out, err := e.openImage(ctx, image, open)
			if err != nil {
				return nil, fmt.Errorf("saving %q: %w", query, err)
			}
			at = len(images)
			place[image.ID], images = at, append(images, out)
		}
		if name != "" && !slices.Contains(images[at].Names, name) {
			images[at].Names = append(images[at].Names, name)
		}
	}
	return images, nil
}

// openImage opens the layers of an image.
func (e *Engine) openImage(ctx context.Context, image store.Image, open *closers) (oci.Outgoing, error) {
	config, err := e.images.Config(image)
	if err != nil {
		return oci.Outgoing{}, err
	}
	if err := e.fetchLayers(ctx, image); err != nil {
		return oci.Outgoing{}, err
	}
	out := oci.Outgoing{Config: config}
	for _, l := range image.Layers {
		contents, err := e.layers.Contents(l.DiffID)
		if err != nil {
			return oci.Outgoing{}, err
		}
		*open = append(*open, contents)
		out.Layers = append(out.Layers, oci.OutgoingLayer{DiffID: l.DiffID, Size: contents.Size, CopyTo: contents.CopyTo})
	}
	return out, nil
}

// fetchLayers fetches the layers of an image that the store lacks, as the step Fetch.
func (e *Engine) fetchLayers(ctx context.Context, image store.Image) error {
	missing, err := e.missingLayers(image)
	if len(missing) == 0 || err != nil {
		return err
	}
	return e.steps().Run("Fetch", func() (string, error) {
		if err := e.fetch(ctx, image, missing); err != nil {
			err = fmt.Errorf("%d of its layers are no longer in the layer store, and have to be fetched again: %w", len(missing), err)
			return "", noSpace(err)
		}
		return fmt.Sprintf("%d layers that the store did not have", len(missing)), nil
	})
}

// missingLayers returns the diff_ids of the layers that the store lacks.
func (e *Engine) missingLayers(image store.Image) (map[string]bool, error) {
	missing := map[string]bool{}
	for _, l := range image.Layers {
		contents, err := e.layers.Contents(l.DiffID)
		if errors.Is(err, fs.ErrNotExist) {
			missing[l.DiffID] = true
			continue
		}
		if err != nil {
			return nil, err
		}
		_ = contents.Close()
	}
	return missing, nil
}

// fetch brings layers of an image into the store.
func (e *Engine) fetch(ctx context.Context, image store.Image, missing map[string]bool) (err error) {
	again := "remove the image and pull it again"
	if oci.ReadsStdin(image.Reference) {
		err := errors.New("the image came from the standard input")
		return fault.New(fault.NotFound, err, again)
	}
	temp, err := e.home.NewStage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Close()) }()
	platform, err := oci.ParsePlatform(image.Platform)
	if err != nil {
		return err
	}
	source, err := oci.Resolve(ctx, oci.Pinned(image.Reference, image.Digest), oci.Options{
		Platform: platform, TempDir: temp.Dir, Access: RegistryOptions{}.access(e.reportRegistry), Unpacking: e.unpacking(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	if source.Digest != image.Digest {
		err := fmt.Errorf("%s is another image by now", image.Reference)
		return fault.New(fault.NotFound, err, again)
	}
	for _, blob := range source.Blobs {
		if !missing[blob.DiffID] {
			continue
		}
		l, err := e.layers.Ensure(ctx, layer.Blob(blob))
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	return nil
}

// WriteFile has write make the file at path, which appears whole or not at all, and replaces a file that is there.
func WriteFile(path string, write func(io.Writer) error) error {
	if err := checkTarget("saving", path); err != nil {
		return err
	}
	file, publish, err := unfinished(path)
	if err != nil {
		return fmt.Errorf("saving to %q: %w", path, err)
	}
	noted := &notedWriter{File: file}
	err = write(noted)
	if err == nil {
		err = file.Sync()
	}
	if err = publish(err); err == nil {
		return nil
	}
	err = fmt.Errorf("saving to %q: %w", path, err)
	if errors.Is(noted.err, syscall.ENOSPC) || errors.Is(noted.err, syscall.EDQUOT) {
		return fault.New(fault.NoSpace, err, "free some space there, or name a file on another disk")
	}
	return err
}

// notedWriter remembers that writing failed.
type notedWriter struct {
	*os.File
	err error
}

// Write writes b.
func (w *notedWriter) Write(b []byte) (int, error) {
	n, err := w.File.Write(b)
	if err != nil {
		w.err = err
	}
	return n, err
}
