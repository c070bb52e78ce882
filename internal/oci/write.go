package oci

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Outgoing is an image on its way into an archive.
type Outgoing struct {
	Names  []string // by which the archive's reader is to know it; may be empty
	Config []byte   // byte for byte
	Layers []OutgoingLayer
}

// OutgoingLayer is an uncompressed layer.
type OutgoingLayer struct {
	DiffID string
	Size   int64 // bytes
	// CopyTo writes all of it.
	CopyTo func(ctx context.Context, w io.Writer) error
}

// WriteArchive writes the images into one archive: an OCI image layout in a tar (oci-archive:) and, for docker, with the
// file manifest.json, as docker writes it since version 25 (docker-archive:). What images share is written once, the same
// images give the same bytes to one user, and what describes the rest comes first. Layers stay uncompressed, so that their digests are
// their diff_ids.
func WriteArchive(ctx context.Context, w io.Writer, docker bool, images []Outgoing) error {
	out := &archiveWriter{ctx: ctx, tar: tar.NewWriter(w), written: map[string]bool{}}
	if err := out.describe(docker, images); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	for _, image := range images {
		if err := out.blobs(image); err != nil {
			return fmt.Errorf("writing the archive: %w", err)
		}
	}
	if err := out.tar.Close(); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

// archiveWriter writes the members of an archive.
type archiveWriter struct {
	ctx     context.Context
	tar     *tar.Writer
	written map[string]bool // names of members
}

// member writes a file, if none of that name has been written.
func (w *archiveWriter) member(name string, size int64, copyTo func(context.Context, io.Writer) error) error {
	if w.written[name] {
		return nil
	}
	w.written[name] = true
	if err := w.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	return copyTo(w.ctx, w.tar)
}

// directories writes those that the blobs are in. Without them, they would be root's for skopeo.
func (w *archiveWriter) directories() error {
	for _, name := range []string{ocispec.ImageBlobsDir + "/", ocispec.ImageBlobsDir + "/" + digest.SHA256.String() + "/"} {
		if err := w.header(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}); err != nil {
			return err
		}
	}
	return nil
}

// header writes the header of a member. It belongs to who writes the archive: what unpacks it with its owners, as skopeo
// does an oci-archive, may have no right to make files of others.
func (w *archiveWriter) header(h *tar.Header) error {
	h.ModTime, h.Uid, h.Gid = time.Unix(0, 0), os.Getuid(), os.Getgid()
	return w.tar.WriteHeader(h)
}

func (w *archiveWriter) bytes(name string, data []byte) error {
	return w.member(name, int64(len(data)), func(_ context.Context, to io.Writer) error {
		_, err := to.Write(data)
		return err
	})
}

func (w *archiveWriter) json(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return w.bytes(name, data)
}

// describe writes the files that say which images there are.
func (w *archiveWriter) describe(docker bool, images []Outgoing) error {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
	}
	var all []saved
	for _, image := range images {
		entries, err := image.entries()
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, entries...)
		all = append(all, image.saved())
	}
	if err := w.json(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	if err := w.json(ocispec.ImageIndexFile, index); err != nil {
		return err
	}
	if err := w.directories(); err != nil {
		return err
	}
	if !docker {
		return nil
	}
	return w.json(manifestName, all)
}

// blobs writes an image's manifest, configuration and layers.
func (w *archiveWriter) blobs(image Outgoing) error {
	manifest, err := image.manifest()
	if err != nil {
		return err
	}
	for _, data := range [][]byte{manifest, image.Config} {
		if err := w.bytes(blobName(digest.FromBytes(data)), data); err != nil {
			return err
		}
	}
	for _, layer := range image.Layers {
		if err := w.member(blobName(digest.Digest(layer.DiffID)), layer.Size, layer.CopyTo); err != nil {
			return err
		}
	}
	return nil
}

func blobName(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// manifest returns the image's manifest.
func (o Outgoing) manifest() ([]byte, error) {
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(o.Config), Size: int64(len(o.Config)),
		},
		Layers: []ocispec.Descriptor{},
	}
	for _, layer := range o.Layers {
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(layer.DiffID), Size: layer.Size,
		})
	}
	return json.Marshal(manifest)
}

// entries returns what the layout's index has for the image: an entry for each of its names, or one without.
func (o Outgoing) entries() ([]ocispec.Descriptor, error) {
	manifest, err := o.manifest()
	if err != nil {
		return nil, err
	}
	entry := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
	}
	var config ocispec.Image
	if json.Unmarshal(o.Config, &config) == nil && config.OS != "" && config.Architecture != "" {
		entry.Platform = &ocispec.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	}
	if len(o.Names) == 0 {
		return []ocispec.Descriptor{entry}, nil
	}
	var entries []ocispec.Descriptor
	for _, name := range o.Names {
		named := entry
		named.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		if full, _, isTag := dockerName(name); isTag {
			named.Annotations[containerdName] = full
		}
		entries = append(entries, named)
	}
	return entries, nil
}

// saved returns the image's element of manifest.json. Names that docker would not take are left out.
func (o Outgoing) saved() saved {
	s := saved{Config: blobName(digest.FromBytes(o.Config)), Layers: []string{}}
	for _, name := range o.Names {
		if _, short, isTag := dockerName(name); isTag {
			s.RepoTags = append(s.RepoTags, short)
		}
	}
	for _, layer := range o.Layers {
		s.Layers = append(s.Layers, blobName(digest.Digest(layer.DiffID)))
	}
	return s
}

// dockerName returns docker's full and short forms of a name. false says that it is no name with a tag.
func dockerName(name string) (full, short string, isTag bool) {
	named, err := parseNamed(name)
	if err != nil {
		return "", "", false
	}
	tagged, isTag := named.(reference.NamedTagged)
	if !isTag {
		return "", "", false
	}
	return reference.TrimNamed(tagged).String() + ":" + tagged.Tag(), shortName(tagged), true
}
