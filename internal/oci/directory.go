package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// directory is what skopeo's transport dir: writes (containers/image, directory/directory_transport.go): version,
// manifest.json, <hex>.manifest.json for the entries of an index, and <hex> for each blob.
type directory struct {
	dir string
}

// directoryVersion begins the file version.
const directoryVersion = "Directory Transport Version: 1."

// resolveDirectory returns the image in a directory.
func resolveDirectory(ctx context.Context, rest string, opts Options) (*Image, error) {
	at, err := locate(directoryPrefix, rest)
	if err != nil {
		return nil, err
	}
	if err := checkDirectory(at.path); err != nil {
		return nil, err
	}
	image, err := readImage(ctx, directory{at.path}, opts.Platform)
	if err != nil {
		return nil, err
	}
	image.Reference, image.Name = at.full, fileName(at.path)+":latest"
	return image, nil
}

func checkDirectory(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.NotFound, fmt.Errorf("opening the directory: %w", err), "")
	}
	if err != nil {
		return fmt.Errorf("opening the directory: %w", err)
	}
	const hint = "dir: takes what `skopeo copy … dir:DIR` writes; for an OCI layout use oci:DIR, for a file docker-archive:FILE"
	if !info.IsDir() {
		return fault.New(fault.Unsupported, fmt.Errorf("opening the directory: %q is none", dir), hint)
	}
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil || !strings.HasPrefix(string(version), directoryVersion) {
		err := fmt.Errorf("opening the directory: %q is none of skopeo's: it has no file version that begins with %q",
			dir, directoryVersion)
		return fault.New(fault.Unsupported, err, hint)
	}
	return nil
}

// Close has nothing to release.
func (d directory) Close() error { return nil }

func (d directory) root(context.Context) (document, error) {
	file, err := d.open(manifestName)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = file.Close() }()
	raw, err := readSmall(file)
	if err != nil {
		return document{}, fmt.Errorf("reading the manifest: %w", err)
	}
	return parseDocument(raw, digest.FromBytes(raw))
}

func (d directory) manifest(_ context.Context, of ocispec.Descriptor) (io.ReadCloser, error) {
	return d.open(directoryName(of.Digest) + ".manifest.json")
}

func (d directory) blob(_ context.Context, of ocispec.Descriptor) (io.ReadCloser, error) {
	return d.open(directoryName(of.Digest))
}

// directoryName is how a blob's file begins. The digest's form has been checked.
func directoryName(d digest.Digest) string {
	if d.Algorithm() == digest.Canonical {
		return d.Encoded()
	}
	return d.Algorithm().String() + "-" + d.Encoded()
}

func (d directory) open(name string) (io.ReadCloser, error) {
	file, err := os.Open(filepath.Join(d.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("opening a file of the directory: %w", err), "the directory is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("opening a file of the directory: %w", err)
	}
	return file, nil
}
