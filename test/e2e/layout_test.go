package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// layout is an OCI image layout on its way to the disk, written by hand so that it can be wrong where a test wants it.
type layout struct {
	t   *testing.T
	dir string
}

// descriptor is what the OCI image specification calls one.
type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int               `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`

	Annotations map[string]string `json:"annotations,omitempty"`
}

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
)

func newLayout(t *testing.T, u *user, name string) *layout {
	t.Helper()
	l := &layout{t: t, dir: filepath.Join(u.dir, name)}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l *layout) write(name string, data []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// blob stores bytes and returns their descriptor.
func (l *layout) blob(mediaType string, data []byte) descriptor {
	l.t.Helper()
	d := descriptor{MediaType: mediaType, Digest: digestOf(data), Size: len(data)}
	l.write(filepath.Join("blobs", "sha256", d.Digest[len("sha256:"):]), data)
	return d
}

func (l *layout) json(mediaType string, value any) descriptor {
	l.t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, data)
}

// image stores a manifest for the layers; a nil diffIDs means the right ones.
func (l *layout) image(architecture string, config map[string]any, diffIDs []string, layers ...[]byte) descriptor {
	l.t.Helper()
	var blobs []descriptor
	for _, data := range layers {
		blobs = append(blobs, l.blob(mediaLayer, data))
	}
	if diffIDs == nil {
		for _, blob := range blobs {
			diffIDs = append(diffIDs, blob.Digest)
		}
	}
	c := l.json(mediaConfig, map[string]any{
		"os": "linux", "architecture": architecture, "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	return l.json(mediaManifest, map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest, "config": c, "layers": blobs,
	})
}

// tag makes the descriptor the layout's image "v1".
func (l *layout) tag(d descriptor) string {
	l.t.Helper()
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": "v1"}
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{d}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("index.json", data)
	return l.dir
}

// tarOf returns a tar with one regular file for each name.
func tarOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// scratchLayout makes an image of one static program: it prints its arguments and exits with 7.
func scratchLayout(t *testing.T, u *user) string {
	t.Helper()
	program := buildStatic(t, `package main
import ("fmt"; "os")
func main() { fmt.Printf("args %q pid %d\n", os.Args[1:], os.Getpid()); os.Exit(7) }
`)
	l := newLayout(t, u, "scratch")
	return l.tag(l.image("amd64", map[string]any{"Entrypoint": []string{"/app"}}, nil,
		tarOf(t, map[string][]byte{"app": program})))
}

func buildStatic(t *testing.T, source string) []byte {
	t.Helper()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "app")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a static program: %v\n%s", err, output)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// linkTar returns a tar with one hard link.
func linkTar(t *testing.T, name, target string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeLink, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
