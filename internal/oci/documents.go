package oci

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// documents is a registry whose manifests and configurations are kept in a directory, each in a file that is named after
// its digest, so that an image that is known already costs one request: what its tag stands for now. They are small, are
// checked when they are read, and are gone when they were not read for documentsKeptFor. What goes wrong with them is no
// error: the registry has them, too.
type documents struct {
	registrySource
	dir string
}

// registrySource is what a registry is.
type registrySource interface {
	source
	seekingSource
}

const documentsKeptFor = 90 * 24 * time.Hour

// keepDocuments returns the registry with its documents kept in dir, unless that is "".
func keepDocuments(r registrySource, dir string) source {
	if dir == "" {
		return r
	}
	return documents{r, dir}
}

func (d documents) manifest(ctx context.Context, what ocispec.Descriptor) (io.ReadCloser, error) {
	return d.open(ctx, what, d.registrySource.manifest)
}

func (d documents) blob(ctx context.Context, what ocispec.Descriptor) (io.ReadCloser, error) {
	if isConfig(what) {
		return d.open(ctx, what, d.registrySource.blob)
	}
	return d.registrySource.blob(ctx, what)
}

// isConfig reports whether a blob is the configuration of an image, by what its manifest says.
func isConfig(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageConfig || d.MediaType == dockerConfig
}

// open returns a document that is kept, or the registry's, which is then kept if it is what it should be.
func (d documents) open(
	ctx context.Context, what ocispec.Descriptor, from func(context.Context, ocispec.Descriptor) (io.ReadCloser, error),
) (io.ReadCloser, error) {
	if data := d.get(what.Digest); data != nil {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	body, err := from(ctx, what)
	if err != nil {
		return nil, err
	}
	data, err := readSmall(body)
	if err == nil && checkDigest(data, what.Digest) == nil {
		d.put(what.Digest, data)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), failing{err}), body}, nil
}

// failing is the end of what was read, with its error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

func (d documents) path(id digest.Digest) string {
	return filepath.Join(d.dir, id.Algorithm().String()+"-"+id.Encoded())
}

// get returns a document that is kept and intact, or nil. The caller has checked the digest's form.
func (d documents) get(id digest.Digest) []byte {
	file, err := os.Open(d.path(id))
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	data, err := readSmall(file)
	if err != nil || checkDigest(data, id) != nil {
		_ = os.Remove(d.path(id))
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(d.path(id), now, now)
	return data
}

// put keeps a document, and removes the old ones.
func (d documents) put(id digest.Digest, data []byte) {
	if os.MkdirAll(d.dir, 0o700) != nil {
		return
	}
	d.sweep()
	temp, err := os.CreateTemp(d.dir, "new-*")
	if err != nil {
		return
	}
	_, err = temp.Write(data)
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), d.path(id))
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
}

func (d documents) sweep() {
	entries, _ := os.ReadDir(d.dir)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > documentsKeptFor {
			_ = os.Remove(filepath.Join(d.dir, entry.Name()))
		}
	}
}
