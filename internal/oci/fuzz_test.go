package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// FuzzArchives: whatever a file is, it is an image whose layers can be opened, or it is refused, by each transport.
func FuzzArchives(f *testing.F) {
	t := &testing.T{}
	c := newContent(t)
	entry := c.image("linux/amd64", "base", "top")
	members := make(map[string]string)
	first, second := savedImage(t, members, []string{"one:v1"}, "base"), savedImage(t, members, nil, "other")
	members[manifestName] = string(c.marshal([]saved{first, second}))
	f.Add(tarOf(t, members), "one:v1")
	f.Add(tarOf(t, members), "@1")
	f.Add(tarOf(t, docker25(t, c, map[string]ocispec.Descriptor{"one:v1": entry})), "")
	f.Add(gzipped(t, tarOf(t, map[string]string{"etc/passwd": "x"})), "")
	f.Add(tarOf(t, map[string]string{"repositories": "{}"}), "")
	f.Fuzz(func(t *testing.T, data []byte, ref string) {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{archivePrefix, ociArchivePrefix, tarPrefix} {
			whole := prefix + path
			if ref != "" && prefix != tarPrefix {
				whole += ":" + ref
			}
			image, err := Resolve(t.Context(), whole, Options{TempDir: t.TempDir()})
			if err != nil {
				if fault.KindOf(err) == fault.Failure {
					t.Errorf("Resolve(%q): %v, which has no kind", whole, err)
				}
				continue
			}
			if len(image.Blobs) != len(image.Config.RootFS.DiffIDs) || image.Name == "" {
				t.Errorf("Resolve(%q): got %+v", whole, image)
			}
			openAll(t, image)
		}
	})
}

func openAll(t *testing.T, image *Image) {
	for _, b := range image.Blobs {
		r, err := b.Open(t.Context())
		if err != nil {
			continue // the manifest names what is not there
		}
		_ = r.Close()
	}
	_ = image.Close()
}

// FuzzDocument: a manifest or an index is taken or refused, and what is taken is one of both.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[{"urls":["x"]}]}`,
		`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":1,"fsLayers":[]}`, `{"artifactType":"x","config":{"mediaType":"application/vnd.oci.empty.v1+json"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDocument(raw, digest.FromBytes(raw))
		if err != nil {
			if fault.KindOf(err) == fault.Failure {
				t.Errorf("the error %v has no kind", err)
			}
			return
		}
		if d.isIndex() == (d.Config != nil) {
			t.Errorf("%s is an index: %v, and has the configuration %v", raw, d.isIndex(), d.Config)
		}
		if d.isIndex() {
			return
		}
		_ = d.checkIsImage()
		for _, layer := range d.Layers {
			_, _ = checkForeign(layer), checkDescriptor(layer)
		}
	})
}

// FuzzIndex: of the entries of a layout some are chosen, or there is an error.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`[{"annotations":{"org.opencontainers.image.ref.name":"v1"}},{}]`), "v1")
	f.Add([]byte(`[{"annotations":{"io.containerd.image.name":"docker.io/library/x:v1"}}]`), "x:v1")
	f.Add([]byte(`[{},{}]`), "")
	f.Fuzz(func(t *testing.T, raw []byte, tag string) {
		var entries []ocispec.Descriptor
		if json.Unmarshal(raw, &entries) != nil {
			return
		}
		l := &layout{tag: tag}
		chosen, err := l.choose(entries)
		if (err == nil) != (len(chosen) > 0) || len(chosen) > len(entries) {
			t.Errorf("of %d entries %d are chosen by %q (%v)", len(entries), len(chosen), tag, err)
		}
	})
}
