package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// Files of what `docker save` writes (moby, image/spec/v1.2.md). Since docker 25 it is an OCI layout as well.
const (
	manifestName     = "manifest.json"
	repositoriesName = "repositories" // all that there was before docker 1.10
)

// saved is an element of manifest.json.
type saved struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"` // the lowest first
	// LayerSources says of layers, by their diff_ids, where they are from: of the foreign ones, and since docker 25 of all
	// (moby, image/tarexport).
	LayerSources map[digest.Digest]ocispec.Descriptor `json:"LayerSources,omitempty"`
}

const archiveHint = "docker-archive: takes what `docker save` writes, also compressed; for a root file system use tar:FILE"

// resolveArchive returns the image that FILE[:REF] names, or the only one.
func resolveArchive(ctx context.Context, rest string, opts Options) (*Image, error) {
	at, err := locate(archivePrefix, rest)
	if err != nil {
		return nil, err
	}
	a, err := openArchive(ctx, at.path, archiveHint, opts)
	if err != nil {
		return nil, err
	}
	image, chosen, err := a.chooseImage(ctx, at.ref, opts.Platform)
	if err != nil {
		_ = a.Close()
		return nil, err
	}
	image.Reference, image.Name = at.full, archiveName(chosen, at.path, at.ref)
	return image, nil
}

// chooseImage returns the image that ref names, or the only one.
func (a *archive) chooseImage(ctx context.Context, ref string, want Platform) (*Image, saved, error) {
	images, err := a.images()
	if err != nil {
		return nil, saved{}, err
	}
	chosen, err := chooseSaved(images, ref)
	if err != nil {
		return nil, saved{}, err
	}
	image, err := a.image(chosen, want)
	if fault.KindOf(err) == fault.Platform && a.has(ocispec.ImageIndexFile) {
		if other, otherErr := a.otherPlatform(ctx, chosen, want); otherErr == nil {
			return other, chosen, nil
		}
	}
	return image, chosen, err
}

// otherPlatform looks for the image in the layout that the archive is as well: manifest.json has one platform of each
// image alone.
func (a *archive) otherPlatform(ctx context.Context, chosen saved, want Platform) (*Image, error) {
	name := ""
	if len(chosen.RepoTags) > 0 {
		name = chosen.RepoTags[0]
	}
	l, err := newLayout(a, archivePrefix+"FILE", name)
	if err != nil {
		return nil, err
	}
	if name != "" {
		return readImage(ctx, l, want)
	}
	index, err := l.indexWith(ctx, digest.Digest(blobDigest(chosen.Config)))
	if err != nil {
		return nil, err
	}
	return readImage(ctx, layoutEntry{l, index}, want)
}

// archiveName names an image of an archive: as the user does, or else by the first name that docker saved with it, or
// else after the file.
func archiveName(chosen saved, file, ref string) string {
	for _, tag := range append([]string{ref}, chosen.RepoTags...) {
		if named, err := parseNamed(tag); err == nil { // "" and "@N" are no names
			return shortName(named)
		}
	}
	return fileName(file) + ":latest"
}

// chooseSaved returns the image with the name ref, or with the number N for "@N", as skopeo has it.
func chooseSaved(images []saved, ref string) (saved, error) {
	if ref == "" && len(images) == 1 {
		return images[0], nil
	}
	if number, ok := strings.CutPrefix(ref, "@"); ok {
		if n, err := strconv.Atoi(number); err == nil && n >= 0 && n < len(images) {
			return images[n], nil
		}
	}
	var tags []string
	for _, s := range images {
		for _, tag := range s.RepoTags {
			if ref != "" && sameName(tag, ref) {
				return s, nil
			}
			tags = append(tags, tag)
		}
	}
	if ref == "" && len(images) > 1 {
		err := fmt.Errorf("choosing the image: the archive has %d: %s", len(images), list(tags, "none has a name"))
		return saved{}, fault.New(fault.Usage, err, "add a name or a number to the reference: FILE:NAME, or FILE:@0 for the first")
	}
	err := fmt.Errorf("finding the image %q: the archive has %s", ref, list(tags, "no names"))
	return saved{}, fault.New(fault.NotFound, err, "")
}

func sameName(a, b string) bool {
	x, err1 := reference.ParseNormalizedNamed(a)
	y, err2 := reference.ParseNormalizedNamed(b)
	return err1 == nil && err2 == nil && reference.TagNameOnly(x).String() == reference.TagNameOnly(y).String()
}

func (a *archive) images() ([]saved, error) {
	if !a.has(manifestName) {
		return nil, a.notSaved()
	}
	raw, err := a.readAll(manifestName)
	if err != nil {
		return nil, err
	}
	var images []saved
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the archive's %q: %w", manifestName, err), "")
	}
	if len(images) == 0 {
		return nil, fault.New(fault.NotFound, errors.New("reading the archive: it has no images"), "")
	}
	return images, nil
}

// notSaved is the error for an archive without manifest.json.
func (a *archive) notSaved() error {
	err := fmt.Errorf("reading the archive: it has no file %q", manifestName)
	switch {
	case a.has(ocispec.ImageLayoutFile):
		return fault.New(fault.Unsupported, err, "this is an OCI archive: use oci-archive:FILE")
	case a.has(repositoriesName):
		err = fmt.Errorf("%w, but %q, as docker wrote it before version 1.10 (of 2016)", err, repositoriesName)
		return fault.New(fault.Unsupported, err, "load it into a docker of some years ago, and save it again with a newer one")
	case a.has("etc/passwd") || a.has("bin/sh") || a.has("usr/bin/env"):
		return fault.New(fault.Unsupported, err, "this is a root file system: use tar:FILE")
	}
	return fault.New(fault.Unsupported, err, a.hint)
}

func (a *archive) image(s saved, want Platform) (*Image, error) {
	config, err := a.readAll(s.Config)
	if err != nil {
		return nil, err
	}
	if err := checkConfigName(s.Config, config); err != nil {
		return nil, err
	}
	image := &Image{Digest: digest.FromBytes(config).String(), RawConfig: config, close: a.Close}
	if err := image.readConfig(want); err != nil {
		return nil, err
	}
	if err := image.checkCount(len(s.Layers)); err != nil {
		return nil, err
	}
	for n, layer := range s.Layers {
		blob, err := a.layer(s, layer, image.Config.RootFS.DiffIDs[n])
		if err != nil {
			return nil, err
		}
		image.Blobs = append(image.Blobs, blob)
	}
	return image, nil
}

func (a *archive) layer(s saved, name string, diffID digest.Digest) (Blob, error) {
	if source, foreign := s.LayerSources[diffID]; foreign {
		if err := checkForeign(source); err != nil {
			return Blob{}, fmt.Errorf("reading the archive: the layer %s: %w", diffID, err)
		}
	}
	contents, err := a.section(name)
	if err != nil {
		return Blob{}, err
	}
	return Blob{
		Digest: blobDigest(name), DiffID: diffID.String(), Size: contents.Size(),
		Open: func(ctx context.Context) (io.ReadCloser, error) {
			section := io.NewSectionReader(contents, 0, contents.Size()) // each reader has a position of its own
			return io.NopCloser(contextReader{ctx, section}), nil
		},
	}, nil
}

// blobDigest returns the digest that is in the name of a layout's blob, "blobs/sha256/<hex>"; "" of any other name.
func blobDigest(name string) string {
	parts := strings.Split(path.Clean(name), "/")
	if len(parts) != 3 || parts[0] != ocispec.ImageBlobsDir {
		return ""
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	if d.Validate() != nil {
		return ""
	}
	return d.String()
}

// checkConfigName checks a configuration against the digest in its name: "<hex>.json", or "blobs/sha256/<hex>" since
// docker 25.
func checkConfigName(name string, config []byte) error {
	hex := strings.TrimSuffix(path.Base(name), ".json")
	want := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if want.Validate() != nil {
		return nil // other tools use other names
	}
	if err := checkDigest(config, want); err != nil {
		return fmt.Errorf("reading the archive's configuration: %w", err)
	}
	return nil
}

// isSaved reports whether the archive is one of images, and not a root file system that happens to have such a file.
func (a *archive) isSaved() bool {
	if a.has(ocispec.ImageLayoutFile) && a.has(ocispec.ImageIndexFile) {
		return true
	}
	if !a.has(manifestName) {
		return false
	}
	images, err := a.images()
	return err == nil && slices.ContainsFunc(images, func(s saved) bool { return a.has(path.Clean(s.Config)) })
}
