package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// Docker's media types, which OCI's were made from (distribution, "Image Manifest Version 2, Schema 2").
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
)

// attestationAnnotation marks the entries of an index that hold BuildKit's attestations instead of an image.
const attestationAnnotation = "vnd.docker.reference.type"

// The most that an index may lead to. The documents are small, and each may name as many others as it likes.
const (
	maxDepth     = 4      // how deep indexes may be nested; two levels are in use
	maxDocuments = 100    // indexes in it, and manifests of which it does not say what they are for
	maxEntries   = 10_000 // of it and of the indexes in it, together
)

// document is a manifest or an index: the fields of both, of which it has one kind's.
type document struct {
	digest   digest.Digest
	untagged bool // what it leads to need not be one image's platforms: nobody has said so

	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	ArtifactType  string               `json:"artifactType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage      `json:"fsLayers"` // of schema 1
}

func (d *document) isIndex() bool { return d.Config == nil && len(d.Layers) == 0 && d.Manifests != nil }

// parseDocument parses a manifest or an index. Its content decides which it is, since registries and tools get the
// Content-Type wrong; but what is both is refused, because others may take it for the other (CVE-2021-41190).
func parseDocument(raw []byte, sum digest.Digest) (document, error) {
	d := document{digest: sum}
	if err := json.Unmarshal(raw, &d); err != nil {
		err = fmt.Errorf("reading the manifest: %w", err)
		return document{}, fault.New(fault.Unsupported, err, "check that the reference names a container image")
	}
	if d.MediaType == ocispec.MediaTypeImageIndex && d.Manifests == nil {
		d.Manifests = []ocispec.Descriptor{} // null, as Go writes an empty list
	}
	switch {
	case d.SchemaVersion == 1 || d.FSLayers != nil:
		err := fmt.Errorf("reading the manifest: docker's schema 1 (%s) is not supported", dockerSchema1)
		return document{}, fault.New(fault.Unsupported, err, "push the image again with a docker of this decade")
	case d.Manifests != nil && (d.Config != nil || d.Layers != nil):
		return document{}, fault.New(fault.Corrupt, errors.New("reading the manifest: it is an index as well"), "")
	case d.Manifests == nil && d.Config == nil:
		return document{}, notImage([]string{d.ArtifactType, d.MediaType}, nil)
	}
	known := []string{"", ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerIndex}
	if !slices.Contains(known, d.MediaType) {
		return document{}, notImage([]string{d.MediaType}, nil)
	}
	return d, nil
}

// imageManifest returns the manifest of the image for the platform: root itself, or one that it leads to.
func imageManifest(ctx context.Context, s source, root document, want Platform) (document, error) {
	manifest := root
	if root.isIndex() {
		w := &indexWalk{source: s, visited: map[digest.Digest]bool{}, untagged: root.untagged}
		if err := w.collect(ctx, root, 0); err != nil {
			return document{}, err
		}
		chosen, err := w.choose(ctx, want)
		if err != nil {
			return document{}, err
		}
		if manifest, err = readDocument(ctx, s, chosen); err != nil {
			return document{}, err
		}
	}
	if manifest.isIndex() {
		return document{}, fault.New(fault.Corrupt, errors.New("reading the index: an image in it is an index"), "")
	}
	return manifest, manifest.checkIsImage()
}

func readDocument(ctx context.Context, s source, d ocispec.Descriptor) (document, error) {
	raw, err := readChecked(ctx, s.manifest, d)
	if err != nil {
		return document{}, fmt.Errorf("reading the manifest: %w", err)
	}
	return parseDocument(raw, d.Digest)
}

// indexWalk gathers the images of an index and of the indexes in it.
type indexWalk struct {
	source  source
	known   []candidate
	unknown []ocispec.Descriptor // manifests of which the index does not say what they are for
	visited map[digest.Digest]bool
	entries int // that were seen
	// untagged says that of several images for one platform none is meant more than another.
	untagged bool
}

func (w *indexWalk) collect(ctx context.Context, index document, depth int) error {
	if depth == maxDepth {
		return tooMuch("%s is more than %d indexes deep", index.digest, maxDepth)
	}
	if w.entries += len(index.Manifests); w.entries > maxEntries {
		return tooMuch("with those of %s, it has more than %d entries", index.digest, maxEntries)
	}
	for _, d := range index.Manifests {
		if err := w.add(ctx, d, depth); err != nil {
			return err
		}
	}
	return nil
}

// tooMuch is the error for an index that leads to more than anybody needs. id is the document where that shows.
func tooMuch(format string, id digest.Digest, limit int) error {
	return fault.New(fault.Unsupported, fmt.Errorf("reading the index: "+format, id, limit), "")
}

// visit reports whether a document has not been visited before, and notes it.
func (w *indexWalk) visit(id digest.Digest) (bool, error) {
	if w.visited[id] {
		return false, nil
	}
	if len(w.visited) == maxDocuments {
		return false, tooMuch("%s is one more than the %d documents that it may lead to", id, maxDocuments)
	}
	w.visited[id] = true
	return true, nil
}

func (w *indexWalk) add(ctx context.Context, d ocispec.Descriptor, depth int) error {
	switch {
	case isAttestation(d):
		return nil
	case d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == dockerIndex:
		return w.descend(ctx, d, depth)
	case d.MediaType != ocispec.MediaTypeImageManifest && d.MediaType != dockerManifest:
		return nil // indexes may hold other things, which are to be ignored (OCI image-spec, image-index.md)
	case d.Platform == nil:
		w.unknown = append(w.unknown, d)
	default:
		w.known = append(w.known, candidate{d, platformOf(*d.Platform)})
	}
	return nil
}

// descend gathers the images of an index in another. The second time that it is named adds nothing.
func (w *indexWalk) descend(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if first, err := w.visit(d.Digest); err != nil || !first {
		return err
	}
	nested, err := readDocument(ctx, w.source, d)
	if err != nil {
		return err
	}
	if !nested.isIndex() {
		return fault.New(fault.Corrupt, errors.New("reading the index: an index in it is a manifest"), "")
	}
	return w.collect(ctx, nested, depth+1)
}

func isAttestation(d ocispec.Descriptor) bool {
	if d.Annotations[attestationAnnotation] != "" {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// choose returns the image for the platform. Only if none is declared for it are the others' configurations read, or if
// there may be another one as well.
func (w *indexWalk) choose(ctx context.Context, want Platform) (ocispec.Descriptor, error) {
	if c := choose(w.known, want); c != nil && !w.untagged {
		return c.descriptor, nil
	}
	for _, d := range w.unknown {
		if first, err := w.visit(d.Digest); err != nil {
			return ocispec.Descriptor{}, err
		} else if !first {
			continue
		}
		p, err := w.configured(ctx, d)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if p != (Platform{}) {
			w.known = append(w.known, candidate{d, p.orElse(want)})
		}
	}
	c := choose(w.known, want)
	if c == nil {
		return ocispec.Descriptor{}, noPlatform(want, w.known)
	}
	return c.descriptor, w.checkAlone(c)
}

// checkAlone refuses one of several images that are for the same platform, and that nothing tells apart.
func (w *indexWalk) checkAlone(c *candidate) error {
	same := func(other candidate) bool {
		return other.platform == c.platform && other.descriptor.Digest != c.descriptor.Digest
	}
	if !w.untagged || !slices.ContainsFunc(w.known, same) {
		return nil
	}
	err := fmt.Errorf("choosing the image: the layout has several for %s, and none has a tag", printable(c.platform.String()))
	return fault.New(fault.Usage, err, "give the one that is meant a tag, as skopeo copy … oci:DIR:TAG does")
}

// configured returns what an image's configuration says that it is for; the zero Platform if it is no image.
func (w *indexWalk) configured(ctx context.Context, d ocispec.Descriptor) (Platform, error) {
	manifest, err := readDocument(ctx, w.source, d)
	if err != nil {
		return Platform{}, err
	}
	if manifest.isIndex() || manifest.checkIsImage() != nil {
		return Platform{}, nil
	}
	raw, err := readChecked(ctx, w.source.blob, *manifest.Config)
	if err != nil {
		return Platform{}, fmt.Errorf("reading the configuration: %w", err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return Platform{}, fault.New(fault.Corrupt, fmt.Errorf("reading the configuration: %w", err), "")
	}
	return platformOf(config.Platform), nil
}
