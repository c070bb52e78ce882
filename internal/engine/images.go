package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/store"
)

// NamedImage is an image with the names that stand for it, sorted. An image may have none.
type NamedImage struct {
	store.Image
	Names []string `json:"names"`
}

// ListImages returns all images, the newest first. Images that cannot be read are reported in the error, beside the
// rest.
func (e *Engine) ListImages() ([]NamedImage, error) {
	images, broken := e.images.List()
	names, err := e.images.Names()
	if err != nil {
		return nil, err
	}
	list := make([]NamedImage, 0, len(images))
	for _, image := range images {
		list = append(list, withNames(image, names))
	}
	return list, broken
}

func withNames(image store.Image, names []store.Name) NamedImage {
	named := NamedImage{Image: image, Names: []string{}}
	for _, name := range names {
		if name.ID == image.ID {
			named.Names = append(named.Names, name.Name)
		}
	}
	return named
}

// FindImage returns the image that the user means by a name, a reference, or an id.
func (e *Engine) FindImage(query string) (NamedImage, error) {
	canonical, err := oci.DefaultName(query)
	if err != nil {
		canonical = ""
	}
	image, err := e.images.Find(query, canonical)
	if err != nil {
		return NamedImage{}, err
	}
	names, err := e.images.Names()
	if err != nil {
		return NamedImage{}, err
	}
	return withNames(image, names), nil
}

// RemoveImage removes what query means: a name alone when the image has others, else the image with it.
func (e *Engine) RemoveImage(ctx context.Context, query string) (removed string, err error) {
	image, err := e.FindImage(query)
	if err != nil {
		return "", err
	}
	name := matchingName(image.Names, query)
	if name != "" && len(image.Names) > 1 {
		return name, e.images.Untag(name)
	}
	return orDefault(name, image.ID[:12]), e.images.Remove(ctx, image.ID)
}

// matchingName returns the name that query stands for, or "" if it is an id.
func matchingName(names []string, query string) string {
	canonical, _ := oci.DefaultName(query)
	for _, name := range names {
		if name == query || name == canonical || filepath.Base(name) == query {
			return name
		}
	}
	return ""
}

// DiskOf returns the path of an image's ext4 file.
func (e *Engine) DiskOf(image store.Image) string { return e.images.Disk(image.ID) }

// ExportImage writes the image's ext4 file to path, sparse, replacing a file that is there. It appears whole or not at
// all.
func (e *Engine) ExportImage(ctx context.Context, query, path string) error {
	image, err := e.FindImage(query)
	if err != nil {
		return err
	}
	held, err := e.images.LockImage(ctx, image.ID)
	if err != nil {
		return err
	}
	defer held.Release()
	return noSpace(exportFile(ctx, e.images.Disk(image.ID), path))
}

func exportFile(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(filepath.Dir(to), ".banger-export-*")
	if err != nil {
		return fmt.Errorf("exporting to %q: %w", to, err)
	}
	defer func() { _ = os.Remove(out.Name()) }()
	err = copySparse(ctx, in, out)
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("exporting to %q: %w", to, err)
	}
	if err := os.Rename(out.Name(), to); err != nil {
		return fmt.Errorf("exporting to %q: %w", to, err)
	}
	return nil
}

// copyChunk is how much is copied between two looks at the context.
const copyChunk = 16 << 20

// copySparse copies a file of the same length with the same holes. Where the file system can share blocks, it does.
func copySparse(ctx context.Context, in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); ; {
		start, err := unix.Seek(int(in.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, in, out, start, end); err != nil {
			return err
		}
		offset = end
	}
}

func copyRange(ctx context.Context, in, out *os.File, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(copyChunk, end-start)
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, n)); err != nil {
			return err
		}
		start += n
	}
	return nil
}
