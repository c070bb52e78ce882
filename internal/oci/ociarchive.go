package oci

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

const ociArchiveHint = "oci-archive: takes an OCI layout in a tar, as skopeo and podman write it, also compressed"

// resolveOCIArchive returns the image that FILE[:TAG] names, or the only one. The file has an OCI layout in it
// (containers-transports(5)).
func resolveOCIArchive(ctx context.Context, rest string, opts Options) (*Image, error) {
	at, err := locate(ociArchivePrefix, rest)
	if err != nil {
		return nil, err
	}
	a, err := openArchive(ctx, at.path, ociArchiveHint, opts)
	if err != nil {
		return nil, err
	}
	image, tag, err := a.ociImage(ctx, at, opts.Platform)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	image.Reference, image.Name = at.full, layoutName(at.path, tag)
	return image, nil
}

// ociImage returns the image with the tag of the reference, or the only one, and its tag.
func (a *archive) ociImage(ctx context.Context, at located, want Platform) (*Image, string, error) {
	if !a.has(ocispec.ImageLayoutFile) {
		err := fmt.Errorf("reading the archive: it has no file %q", ocispec.ImageLayoutFile)
		hint := ociArchiveHint
		if a.has(manifestName) {
			hint = "this may be an archive of `docker save`: use docker-archive:FILE"
		}
		return nil, "", fault.New(fault.Unsupported, err, hint)
	}
	l, err := newLayout(a, ociArchivePrefix+at.path, at.ref)
	if err != nil {
		return nil, "", err
	}
	image, err := readImage(ctx, l, want)
	return image, l.tag, err
}
