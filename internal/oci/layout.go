package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// files are those of a layout: in a directory or in an archive. What is not there is fs.ErrNotExist.
type files interface {
	open(name string) (io.ReadCloser, error)
}

// directoryFiles are the files below a directory.
type directoryFiles string

func (dir directoryFiles) open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(dir), name))
}

// layout is an OCI image layout (OCI image-spec, image-layout.md).
type layout struct {
	files files
	at    string // its reference without a tag, for hints
	tag   string // "" if the reference has none
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
	const hint = "oci: takes a directory as `skopeo copy … oci:DIR` makes it; for a file use oci-archive: or docker-archive:"
	if !info.IsDir() {
		return nil, fault.New(fault.Unsupported, fmt.Errorf("opening the layout: %q is no directory", dir), hint)
	}
	l, err := newLayout(directoryFiles(dir), layoutPrefix+dir, tag)
	if errors.Is(err, fs.ErrNotExist) {
		err := fmt.Errorf("opening the layout: %q is no OCI image layout: it has no file %s", dir, ocispec.ImageLayoutFile)
		return nil, fault.New(fault.Unsupported, err, hint)
	}
	return l, err
}

// newLayout reads the file that says that these files are a layout.
func newLayout(files files, at, tag string) (*layout, error) {
	raw, err := readFile(files, ocispec.ImageLayoutFile)
	if err != nil {
		return nil, fmt.Errorf("opening the layout: %w", err)
	}
	var version ocispec.ImageLayout
	if err := json.Unmarshal(raw, &version); err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the layout's %q: %w", ocispec.ImageLayoutFile, err), "")
	}
	if !strings.HasPrefix(version.Version, "1.") {
		err := fmt.Errorf("opening the layout: it has the version %q, not 1", version.Version)
		return nil, fault.New(fault.Unsupported, err, "")
	}
	return &layout{files: files, at: at, tag: tag}, nil
}

func readFile(files files, name string) ([]byte, error) {
	file, err := files.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return readSmall(file)
}

// Close releases the files.
func (l *layout) Close() error {
	if closer, ok := l.files.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// root reads the layout's index and returns what the tag stands for.
func (l *layout) root(ctx context.Context) (document, error) {
	entries, err := l.entries()
	if err != nil {
		return document{}, err
	}
	chosen, err := l.choose(entries)
	if err != nil {
		return document{}, err
	}
	if len(chosen) == 1 {
		return readDocument(ctx, l, chosen[0])
	}
	return document{Manifests: chosen, untagged: len(namesOf(chosen)) == 0}, nil
}

// entries are those of the layout's index.
func (l *layout) entries() ([]ocispec.Descriptor, error) {
	raw, err := readFile(l.files, ocispec.ImageIndexFile)
	if err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the layout: %w", err), "")
	}
	var index document
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("reading the layout's %q: %w", ocispec.ImageIndexFile, err), "")
	}
	return index.Manifests, nil
}

// layoutEntry is what an entry of a layout's index describes.
type layoutEntry struct {
	*layout
	entry ocispec.Descriptor
}

func (e layoutEntry) root(ctx context.Context) (document, error) {
	return readDocument(ctx, e.layout, e.entry)
}

// indexWith returns the entry that is an index of the image with a configuration. The images of an archive that have no
// names are told apart by nothing else.
func (l *layout) indexWith(ctx context.Context, config digest.Digest) (ocispec.Descriptor, error) {
	entries, err := l.entries()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range entries {
		if l.leads(ctx, d, config) {
			return d, nil
		}
	}
	err = fmt.Errorf("reading the layout: no index in it leads to the configuration %q", config)
	return ocispec.Descriptor{}, fault.New(fault.NotFound, err, "")
}

// leads reports whether an entry is an index that leads to a configuration. What cannot be read leads to none: an archive
// need not have all platforms of an image.
func (l *layout) leads(ctx context.Context, d ocispec.Descriptor, config digest.Digest) bool {
	index, err := readDocument(ctx, l, d)
	if err != nil || !index.isIndex() {
		return false
	}
	w := &indexWalk{source: l, visited: make(map[digest.Digest]bool)}
	if w.collect(ctx, index, 0) != nil {
		return false
	}
	manifests := w.unknown
	for _, c := range w.known {
		manifests = append(manifests, c.descriptor)
	}
	for _, d := range manifests {
		if first, err := w.visit(d.Digest); err != nil || !first {
			continue
		}
		if m, err := readDocument(ctx, l, d); err == nil && m.Config != nil && m.Config.Digest == config {
			return true
		}
	}
	return false
}

// containerdName is the annotation with the whole name of an image in what docker and containerd write; the tag is then
// only what follows its colon (containerd, images/annotations.go).
const containerdName = "io.containerd.image.name"

// choose returns the entries with the tag. Without a tag, the only image is meant. Several entries are one image's
// platforms.
func (l *layout) choose(entries []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	chosen, names := l.tagged(entries)
	switch {
	case len(entries) == 0:
		return nil, fault.New(fault.NotFound, errors.New("reading the layout: it has no images"), "")
	case l.tag != "" && len(chosen) == 0:
		err := fmt.Errorf("finding the tag %q: the layout has %s", l.tag, list(namesOf(entries), "no tags"))
		return nil, fault.New(fault.NotFound, err, "")
	case len(names) > 1:
		err := fmt.Errorf("choosing the image: the layout has several: %s", list(names, ""))
		return nil, fault.New(fault.Usage, err, fmt.Sprintf("add a tag: %s:%s", l.at, names[0]))
	case l.tag == "" && len(names) == 1:
		l.tag = names[0] // which names the image
		return slices.DeleteFunc(chosen, func(d ocispec.Descriptor) bool { return entryName(d) != l.tag }), nil
	}
	return chosen, nil
}

// tagged returns the entries with the layout's tag, or all without one, and their different names.
func (l *layout) tagged(entries []ocispec.Descriptor) (chosen []ocispec.Descriptor, names []string) {
	for _, d := range entries {
		whole := d.Annotations[containerdName]
		if l.tag == "" || d.Annotations[ocispec.AnnotationRefName] == l.tag || whole != "" && sameName(whole, l.tag) {
			chosen = append(chosen, d)
		}
	}
	return chosen, namesOf(chosen)
}

// namesOf returns the different names of the entries, sorted.
func namesOf(entries []ocispec.Descriptor) []string {
	var names []string
	for _, d := range entries {
		if name := entryName(d); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// entryName is what an entry of a layout is called, or "".
func entryName(d ocispec.Descriptor) string {
	return orElse(d.Annotations[containerdName], d.Annotations[ocispec.AnnotationRefName])
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
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
	file, err := l.files.open(path.Join(ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Corrupt, fmt.Errorf("opening a blob of the layout: %w", err), "the layout is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("opening a blob of the layout: %w", err)
	}
	return file, nil
}
