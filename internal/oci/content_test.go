package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// content is a set of blobs and manifests, for a test to serve as a registry or to write as a layout.
type content struct {
	t         *testing.T
	blobs     map[digest.Digest][]byte
	manifests map[string][]byte // by tag and by digest
}

func newContent(t *testing.T) *content {
	return &content{t: t, blobs: make(map[digest.Digest][]byte), manifests: make(map[string][]byte)}
}

func (c *content) marshal(v any) []byte {
	c.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

func (c *content) addBlob(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	c.blobs[d.Digest] = data
	return d
}

func (c *content) addManifest(mediaType string, v any) ocispec.Descriptor {
	d := c.addBlob(mediaType, c.marshal(v))
	c.manifests[d.Digest.String()] = c.blobs[d.Digest]
	return d
}

func (c *content) tag(name string, d ocispec.Descriptor) { c.manifests[name] = c.blobs[d.Digest] }

// image adds an image with one layer per text, and returns its manifest's descriptor with the platform.
func (c *content) image(platform string, layers ...string) ocispec.Descriptor {
	c.t.Helper()
	parts := append(strings.Split(platform, "/"), "")
	spec := ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	config := ocispec.Image{Platform: spec, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
	}
	for _, text := range layers {
		plain := tarOf(c.t, map[string]string{"file": text})
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		manifest.Layers = append(manifest.Layers, c.addBlob(ocispec.MediaTypeImageLayerGzip, gzipped(c.t, plain)))
	}
	manifest.Config = c.addBlob(ocispec.MediaTypeImageConfig, c.marshal(config))
	d := c.addManifest(ocispec.MediaTypeImageManifest, manifest)
	d.Platform = &spec
	return d
}

func (c *content) index(entries ...ocispec.Descriptor) ocispec.Descriptor {
	return c.addManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries,
	})
}

// ServeHTTP is a registry with one repository, whatever its name.
func (c *content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	dir, id := filepath.Split(r.URL.Path)
	if strings.HasSuffix(dir, "/manifests/") && c.manifests[id] != nil {
		w.Header().Set("Content-Type", "text/plain") // as static registries have it
		_, _ = w.Write(c.manifests[id])
		return
	}
	if data := c.blobs[digest.Digest(id)]; strings.HasSuffix(dir, "/blobs/") && data != nil {
		_, _ = w.Write(data)
		return
	}
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write([]byte(`{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`))
}

// serve starts a registry and returns its host, with the port.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// layout writes the blobs as a layout in a new directory, whose index has these entries.
func (c *content) layout(entries ...ocispec.Descriptor) string {
	c.t.Helper()
	dir := c.t.TempDir()
	c.writeLayout(dir, entries...)
	return dir
}

func (c *content) writeLayout(dir string, entries ...ocispec.Descriptor) {
	c.t.Helper()
	for d, data := range c.blobs {
		writeFile(c.t, filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()), data)
	}
	writeFile(c.t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: entries}
	writeFile(c.t, filepath.Join(dir, "index.json"), c.marshal(index))
}

func named(d ocispec.Descriptor, tag string) ocispec.Descriptor {
	d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	return d
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// tarOf returns a tar with these files, in no particular order.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
