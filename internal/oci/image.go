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

// Blob is a layer where it is.
type Blob struct {
	Digest    string // of the bytes that Open returns, "sha256:…"; "" in an archive, which does not know it
	DiffID    string // digest of the uncompressed tar
	MediaType string // what the manifest says, which need not be true; "" in an archive
	Size      int64  // of what Open returns, in bytes; -1 if the source does not know it
	// Open returns the layer's bytes as they are stored, unchecked. Reading ends with an error when ctx does. The
	// caller closes the reader.
	Open func(ctx context.Context) (io.ReadCloser, error)
	// OpenAt is Open from a byte on, counted from 0, for a download that an earlier process began. nil where a source
	// cannot; the registry of a blob that has it may still send the blob from its first byte, which is passed over.
	OpenAt func(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// Image is an image for one platform. Close releases its source; its blobs cannot be opened afterwards.
type Image struct {
	Reference string // in full, paths too: "docker.io/library/debian:bookworm", "oci:/DIR:TAG"
	Name      string // what it is called when its user gives no name: "debian:bookworm"
	Digest    string // of the platform's manifest; of the configuration in an archive, which has no manifest
	Platform  Platform
	RawConfig []byte        // the configuration, byte for byte
	Config    ocispec.Image // RawConfig, parsed
	Blobs     []Blob        // the lowest first; as many as Config.RootFS.DiffIDs
	close     func() error
}

// Close releases the source.
func (i *Image) Close() error {
	if i.close == nil {
		return nil
	}
	return i.close()
}

// Options are the choices of Resolve.
type Options struct {
	Platform Platform // the zero value is linux/amd64
	Access   Access   // to registries
	TempDir  string   // for unpacking a compressed archive, until Close; "" is os.TempDir()
	// Stdin is what "-" stands for in the place of a FILE; nil refuses it. Reading it need not end with the context.
	Stdin io.Reader
	// Unpacking is told, now and then, how many bytes of an archive have been unpacked, and in the end that this is all. It is
	// not called for an archive that is read where it is. nil is nobody.
	Unpacking func(bytes int64, done bool)
	// DockerHost says where docker's daemon listens, as DOCKER_HOST does, which "" looks at.
	DockerHost string
	Documents  string // directory in which the manifests and configurations of registries are kept; "" is none
}

func (o Options) withDefaults() Options {
	if o.Platform == (Platform{}) {
		o.Platform = Platform{OS: "linux", Architecture: "amd64"}
	}
	o.Platform = o.Platform.canonical()
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.Unpacking == nil {
		o.Unpacking = func(int64, bool) {}
	}
	if o.DockerHost == "" {
		o.DockerHost = os.Getenv("DOCKER_HOST")
	}
	return o
}

// source is where an image comes from.
type source interface {
	// root returns the manifest or index that the reference names.
	root(ctx context.Context) (document, error)
	// manifest returns a manifest or index that an index names.
	manifest(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// blob returns a layer or a configuration.
	blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	Close() error
}

// seekingSource is a source that can leave out the beginning of a blob.
type seekingSource interface {
	blobAt(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// Resolve finds the image that a reference names: a name in a registry (also with docker:// before it), or one with a
// prefix (docs/oci.md, "References"). It reads manifests and the configuration, and no layer; but an archive that is
// compressed, or comes from the standard input or from a daemon, is unpacked as a whole, once, which ends when ctx does,
// and a root file system in a tar is read for its digest.
//
// The errors' kinds: Usage for a reference that is none or that does not say which of several images, NotFound,
// Unreachable for a registry or daemon that does not answer or refuses, Platform, Corrupt, and Unsupported for what is no
// container image.
func Resolve(ctx context.Context, ref string, opts Options) (*Image, error) {
	image, err := resolve(ctx, ref, opts.withDefaults())
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("resolving %q: %w", ref, err)
	}
	return image, nil
}

func resolve(ctx context.Context, ref string, opts Options) (*Image, error) {
	if t, rest, found := schemeOf(ref); found {
		return t.resolve(ctx, rest, opts)
	}
	return resolveNamed(ctx, ref, opts)
}

// resolveLayout returns the image that DIR[:TAG] names.
func resolveLayout(ctx context.Context, rest string, opts Options) (*Image, error) {
	at, err := locate(layoutPrefix, rest)
	if err != nil {
		return nil, err
	}
	l, err := openLayout(at.path, at.ref)
	if err != nil {
		return nil, err
	}
	image, err := readImage(ctx, l, opts.Platform)
	if err != nil {
		return nil, err
	}
	image.Reference, image.Name = at.full, layoutName(at.path, l.tag)
	return image, nil
}

// resolveNamed returns an image of a registry.
func resolveNamed(ctx context.Context, ref string, opts Options) (*Image, error) {
	access, err := opts.Access.withDefaults()
	if err != nil {
		return nil, err
	}
	named, err := access.Configuration.resolve(ref)
	if err != nil {
		return nil, err
	}
	r, err := openRegistry(named, access)
	if err != nil {
		return nil, err
	}
	image, err := resolveFrom(ctx, keepDocuments(r, opts.Documents), opts.Platform)
	if err != nil {
		return nil, err
	}
	image.Reference, image.Name = named.String(), shortName(named)
	return image, nil
}

// resolveFrom reads the image from its source, which it closes on failure. The caller gives it its names.
func resolveFrom(ctx context.Context, s source, want Platform) (*Image, error) {
	image, err := readImage(ctx, s, want)
	if err != nil {
		_ = s.Close()
	}
	return image, err
}

// readImage reads the image from its source, which the image closes.
func readImage(ctx context.Context, s source, want Platform) (*Image, error) {
	root, err := s.root(ctx)
	if err != nil {
		return nil, err
	}
	manifest, err := imageManifest(ctx, s, root, want)
	if err != nil {
		return nil, err
	}
	config, err := readChecked(ctx, s.blob, *manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	image := &Image{Digest: manifest.digest.String(), RawConfig: config, close: s.Close}
	if err := image.readConfig(want); err != nil {
		return nil, err
	}
	return image, image.addLayers(s, manifest.Layers)
}

// readConfig parses the configuration and checks that the image is for the platform.
func (i *Image) readConfig(want Platform) error {
	if err := json.Unmarshal(i.RawConfig, &i.Config); err != nil {
		return fault.New(fault.Corrupt, fmt.Errorf("reading the configuration: %w", err), "")
	}
	i.Platform = platformOf(i.Config.Platform).orElse(want)
	if !i.Platform.runs(Platform{OS: want.OS, Architecture: want.Architecture}) {
		return noPlatform(want, []candidate{{platform: i.Platform}})
	}
	for _, id := range i.Config.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return fault.New(fault.Corrupt, fmt.Errorf("reading the configuration: diff_id %q: %w", id, err), "")
		}
	}
	return nil
}

func (i *Image) addLayers(s source, layers []ocispec.Descriptor) error {
	if err := i.checkCount(len(layers)); err != nil {
		return err
	}
	for n, d := range layers {
		if err := checkDescriptor(d); err != nil {
			return fmt.Errorf("reading the manifest: layer %d: %w", n+1, err)
		}
		if err := checkForeign(d); err != nil {
			return fmt.Errorf("reading the manifest: layer %d: %w", n+1, err)
		}
		blob := Blob{
			Digest: d.Digest.String(), DiffID: i.Config.RootFS.DiffIDs[n].String(), MediaType: d.MediaType, Size: d.Size,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return s.blob(ctx, d) },
		}
		if at, ok := s.(seekingSource); ok {
			blob.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) { return at.blobAt(ctx, d, offset) }
		}
		i.Blobs = append(i.Blobs, blob)
	}
	return nil
}

func (i *Image) checkCount(layers int) error {
	if ids := len(i.Config.RootFS.DiffIDs); ids != layers {
		err := fmt.Errorf("reading the image: it has %d layers and %d diff_ids", layers, ids)
		return fault.New(fault.Corrupt, err, "")
	}
	return nil
}

// checkDescriptor checks what is going to be a path or an amount of memory.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fault.New(fault.Corrupt, fmt.Errorf("the digest %q: %w", d.Digest, err), "")
	}
	if d.Size < 0 {
		return fault.New(fault.Corrupt, fmt.Errorf("%s has the size %d", d.Digest, d.Size), "")
	}
	return nil
}

// maxDocument is the size beyond which a manifest or configuration is refused, in bytes. containerd stops at half of
// it.
const maxDocument = 16 << 20

// readChecked reads what a descriptor describes, which is small, and checks it.
func readChecked(
	ctx context.Context, open func(context.Context, ocispec.Descriptor) (io.ReadCloser, error), d ocispec.Descriptor,
) ([]byte, error) {
	if err := checkDescriptor(d); err != nil {
		return nil, err
	}
	r, err := open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	data, err := readSmall(r)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if int64(len(data)) != d.Size {
		err := fmt.Errorf("%s has %d bytes instead of %d", d.Digest, len(data), d.Size)
		return nil, fault.New(fault.Corrupt, err, "")
	}
	return data, checkDigest(data, d.Digest)
}

func readSmall(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fault.New(fault.Unsupported, fmt.Errorf("it has more than %d MiB", maxDocument>>20), "")
	}
	return data, err
}

func checkDigest(data []byte, want digest.Digest) error {
	if got := want.Algorithm().FromBytes(data); got != want {
		return fault.New(fault.Corrupt, fmt.Errorf("the bytes of %s have the digest %s", want, got), "")
	}
	return nil
}
