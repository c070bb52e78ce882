package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// layout is an OCI image layout (OCI image-spec, image-layout.md).
type layout struct {
	dir string
	tag string // "" if the reference has none
}

// openLayout checks that dir is a layout.
func openLayout(dir, tag string) (*layout, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, fmt.Errorf("opening the layout: %w", err), "")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the layout: %w", err)
	}
	const hint = "oci: takes a directory as `skopeo copy … oci:DIR` makes it; for a file use docker-archive:"
	if !info.IsDir() {
		return nil, fault.New(fault.Unsupported, fmt.Errorf("opening the layout: %q is no directory", dir), hint)
	}
	marker := filepath.Join(dir, ocispec.ImageLayoutFile)
	raw, err := os.ReadFile(marker)
	if errors.Is(err, fs.ErrNotExist) {
		err := fmt.Errorf("opening the layout: %q is no OCI image layout: it has no file %s", dir, ocispec.ImageLayoutFile)
		return nil, fault.New(fault.Unsupported, err, hint)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the layout: %w", err)
	}
	var version ocispec.ImageLayout
	if err := json.Unmarshal(raw, &version); err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading %q: %w", marker, err), "")
	}
	if !strings.HasPrefix(version.Version, "1.") {
		err := fmt.Errorf("reading %q: the layout has the version %q, not 1", marker, version.Version)
		return nil, fault.New(fault.Unsupported, err, "")
	}
	return &layout{dir: dir, tag: tag}, nil
}

func (l *layout) Close() error { return nil }

// root reads the layout's index and returns what the tag stands for.
func (l *layout) root(ctx context.Context) (document, error) {
	path := filepath.Join(l.dir, ocispec.ImageIndexFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return document{}, fault.New(fault.Corrupt, fmt.Errorf("reading the layout: %w", err), "")
	}
	var index document
	if err := json.Unmarshal(raw, &index); err != nil {
		return document{}, fault.New(fault.Corrupt, fmt.Errorf("reading %q: %w", path, err), "")
	}
	chosen, err := l.choose(index.Manifests)
	if err != nil {
		return document{}, err
	}
	if chosen == nil {
		return index, nil
	}
	return readDocument(ctx, l, *chosen)
}

// choose returns the entry with the tag. Without a tag, the only image is meant; nil says that the entries have no
// names and are one image's platforms.
func (l *layout) choose(entries []ocispec.Descriptor) (*ocispec.Descriptor, error) {
	var tags []string
	for i, d := range entries {
		tag := d.Annotations[ocispec.AnnotationRefName]
		if tag != "" {
			tags = append(tags, tag)
		}
		if l.tag != "" && tag == l.tag {
			return &entries[i], nil
		}
	}
	slices.Sort(tags)
	switch {
	case l.tag != "":
		err := fmt.Errorf("finding the tag %q: the layout has %s", l.tag, list(tags, "no tags"))
		return nil, fault.New(fault.NotFound, err, "")
	case len(entries) == 0:
		return nil, fault.New(fault.NotFound, errors.New("reading the layout: it has no images"), "")
	case len(entries) == 1:
		l.tag = entries[0].Annotations[ocispec.AnnotationRefName] // which names the image
		return &entries[0], nil
	case len(tags) > 0:
		err := fmt.Errorf("choosing the image: the layout has several: %s", list(tags, ""))
		return nil, fault.New(fault.Usage, err, fmt.Sprintf("add a tag: oci:%s:%s", l.dir, tags[0]))
	}
	return nil, nil
}

func list(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

func (l *layout) manifest(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return l.blob(ctx, d)
}

// blob opens blobs/<algorithm>/<hex>. The caller has checked the digest's form.
func (l *layout) blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	file, err := os.Open(filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("opening a blob of the layout: %w", err), "the layout is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("opening a blob of the layout: %w", err)
	}
	return file, nil
}
