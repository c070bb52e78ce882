package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

const tarHint = "tar: takes a root file system in a tar, plain or compressed"

// resolveTar makes an image of one layer of a root file system in a tar, as `docker import` does: FILE, or "-" for the
// standard input. The configuration says what the image is for, and nothing else, so that the same tar is the same image.
func resolveTar(ctx context.Context, rest string, opts Options) (*Image, error) {
	at, err := locate(tarPrefix, rest)
	if err != nil {
		return nil, err
	}
	sum := digest.Canonical.Digester()
	file, err := input{
		what: "tar", hint: tarHint, sum: sum.Hash(), temp: opts.TempDir, told: opts.Unpacking,
	}.openFile(ctx, at.path, opts.Stdin)
	if err != nil {
		return nil, err
	}
	if err := checkRootFS(ctx, file); err != nil {
		_ = file.Close()
		return nil, err
	}
	image, err := oneLayer(file, sum.Digest(), opts.Platform)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	image.Reference, image.Name = at.full, fileName(at.path)+":latest"
	return image, nil
}

// checkRootFS refuses a file that is no tar, and archives of images, which are often taken for root file systems. Whether
// the rest of a tar is right is for those to say who read the layer.
func checkRootFS(ctx context.Context, file *os.File) error {
	if info, err := file.Stat(); err == nil && info.Size() == 0 {
		return fault.New(fault.Unsupported, errors.New("reading the tar: it is empty"), "")
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading the tar: %w", err)
	}
	a := &archive{file: file, hint: tarHint, members: map[string]member{}}
	err := a.index(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && len(a.members) == 0 && fault.KindOf(err) == fault.Unsupported:
		return err
	case !a.isSaved():
		return nil
	}
	err = errors.New("reading the tar: it is an archive of images, not a root file system")
	hint := "use docker-archive:FILE"
	if !a.has(manifestName) {
		hint = "use oci-archive:FILE"
	}
	return fault.New(fault.Unsupported, err, hint)
}

// oneLayer returns the image that has the file as its layer.
func oneLayer(file *os.File, diffID digest.Digest, platform Platform) (*Image, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the tar: %w", err)
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	size := info.Size()
	return &Image{
		Digest: digest.FromBytes(raw).String(), Platform: platform, RawConfig: raw, Config: config, close: file.Close,
		Blobs: []Blob{{
			DiffID: diffID.String(), Size: size,
			Open: func(ctx context.Context) (io.ReadCloser, error) {
				return io.NopCloser(contextReader{ctx, io.NewSectionReader(file, 0, size)}), nil
			},
		}},
	}, nil
}
