package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// fileOf returns the one file of a layer.
func fileOf(t *testing.T, layer []byte) []byte {
	t.Helper()
	if bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		r, err := gzip.NewReader(bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		if layer, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	r := tar.NewReader(bytes.NewReader(layer))
	if _, err := r.Next(); err != nil {
		t.Fatalf("reading a layer: %v", err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// savedImage returns an element of manifest.json and the members that it names.
func savedImage(t *testing.T, members map[string]string, tags []string, layers ...string) saved {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	s := saved{RepoTags: tags}
	for _, text := range layers {
		plain := tarOf(t, map[string]string{"file": text})
		name := fmt.Sprintf("%x/layer.tar", text)
		members[name] = string(plain)
		s.Layers = append(s.Layers, name)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	s.Config = digest.FromBytes(raw).Encoded() + ".json"
	members[s.Config] = string(raw)
	return s
}

func writeArchive(t *testing.T, members map[string]string, images ...saved) string {
	t.Helper()
	raw, err := json.Marshal(images)
	if err != nil {
		t.Fatal(err)
	}
	members[manifestName] = string(raw)
	path := filepath.Join(t.TempDir(), "saved.tar")
	writeFile(t, path, tarOf(t, members))
	return path
}

func TestResolveArchive(t *testing.T) {
	members := make(map[string]string)
	first := savedImage(t, members, []string{"one:v1", "ghcr.io/o/one:v1"}, "base", "middle", "top")
	second := savedImage(t, members, nil, "other")
	path := writeArchive(t, members, first, second)
	packed := filepath.Join(t.TempDir(), "saved.tar.gz")
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, packed, gzipped(t, plain))
	tests := []struct{ ref, want string }{
		{path + ":one:v1", "base middle top"},
		{path + ":docker.io/library/one:v1", "base middle top"},
		{packed + ":ghcr.io/o/one:v1", "base middle top"},
		{packed + ":@1", "other"},
	}
	for _, test := range tests {
		image := resolveOK(t, archivePrefix+test.ref, "linux/amd64")
		if got := strings.Join(texts(t, image), " "); got != test.want {
			t.Errorf("Resolve(%q): got layers %q, want %q", test.ref, got, test.want)
		}
		if got, want := image.Digest, digest.FromBytes(image.RawConfig).String(); got != want {
			t.Errorf("Resolve(%q): got the digest %s, want that of the configuration, %s", test.ref, got, want)
		}
	}
	for ref, kind := range map[string]fault.Kind{path: fault.Usage, path + ":two:v1": fault.NotFound, path + ":@2": fault.NotFound} {
		_, err := Resolve(t.Context(), archivePrefix+ref, options(t, "linux/amd64"))
		checkFault(t, err, kind, "one:v1", "ghcr.io/o/one:v1")
	}
}

func TestArchiveWithLinks(t *testing.T) {
	members := make(map[string]string)
	s := savedImage(t, members, nil, "shared")
	target := s.Layers[0]
	s.Layers[0] = "second/layer.tar"
	raw, err := json.Marshal([]saved{s})
	if err != nil {
		t.Fatal(err)
	}
	members[manifestName] = string(raw)
	for _, link := range []tar.Header{
		{Name: "second/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../" + target},
		{Name: "second/layer.tar", Typeflag: tar.TypeLink, Linkname: target},
	} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		if err := w.WriteHeader(&link); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		out.Write(tarOf(t, members))
		path := filepath.Join(t.TempDir(), "linked.tar")
		writeFile(t, path, out.Bytes())
		if got := texts(t, resolveOK(t, archivePrefix+path, "linux/amd64")); len(got) != 1 || got[0] != "shared" {
			t.Errorf("layer that is a link of type %c: got %q, want shared", link.Typeflag, got)
		}
	}
}

func TestArchiveFailures(t *testing.T) {
	members := make(map[string]string)
	s := savedImage(t, members, []string{"x:v1"}, "base")
	whole, err := os.ReadFile(writeArchive(t, members, s))
	if err != nil {
		t.Fatal(err)
	}
	without := func(name, with string) []byte {
		changed := map[string]string{manifestName: members[manifestName], s.Config: members[s.Config], s.Layers[0]: members[s.Layers[0]]}
		delete(changed, name)
		if with != "" {
			changed[name] = with
		}
		return tarOf(t, changed)
	}
	tests := []struct {
		name string
		data []byte
		kind fault.Kind
		word string
	}{
		{"truncated", whole[:len(whole)-2000], fault.Corrupt, "incomplete"},
		{"truncated gzip", gzipped(t, whole)[:400], fault.Corrupt, "incomplete"},
		{"text", bytes.Repeat([]byte("text "), 500), fault.Unsupported, "no tar"},
		{"short text", []byte("text"), fault.Unsupported, "tar"},
		{"gzip of text", gzipped(t, bytes.Repeat([]byte("text "), 500)), fault.Unsupported, "no tar"},
		{"empty", nil, fault.Unsupported, manifestName},
		{"no manifest", without(manifestName, ""), fault.Unsupported, manifestName},
		{"OCI archive", tarOf(t, map[string]string{"oci-layout": "{}"}), fault.Unsupported, "oci-archive:FILE"},
		{"no configuration", without(s.Config, ""), fault.Corrupt, s.Config},
		{"no layer", without(s.Layers[0], ""), fault.Corrupt, s.Layers[0]},
		{"other configuration", without(s.Config, "{}"), fault.Corrupt, "digest"},
		{"no images", without(manifestName, "[]"), fault.NotFound, "no images"},
		{"bad manifest", without(manifestName, "{"), fault.Corrupt, manifestName},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.tar")
			writeFile(t, path, test.data)
			opts := options(t, "linux/amd64")
			_, err := Resolve(t.Context(), archivePrefix+path, opts)
			checkFault(t, err, test.kind, test.word)
			if left, err := os.ReadDir(opts.TempDir); err != nil || len(left) > 0 {
				t.Errorf("temporary files: got %v, %v; want none", left, err)
			}
		})
	}
	_, err = Resolve(t.Context(), archivePrefix+"/missing.tar", options(t, "linux/amd64"))
	checkFault(t, err, fault.NotFound, "/missing.tar")
	_, err = Resolve(t.Context(), archivePrefix+t.TempDir(), options(t, "linux/amd64"))
	checkFault(t, err, fault.Unsupported, "oci:DIR")
}

// impatient is a context that is cancelled once it has been asked a number of times.
type impatient struct {
	context.Context
	left atomic.Int32
}

func (c *impatient) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestCancelUnpacking cancels in the middle of a member of which the compressed bytes are read at once.
func TestCancelUnpacking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zeros.tar.gz")
	writeFile(t, path, gzipped(t, tarOf(t, map[string]string{"zeros": string(make([]byte, 32<<20))})))
	ctx := &impatient{Context: t.Context()}
	ctx.left.Store(100)
	unpacked, err := input{what: "archive", temp: t.TempDir(), told: func(int64, bool) {}}.openFile(ctx, path, nil)
	if err == nil {
		_ = unpacked.Close()
	}
	if !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Failure {
		t.Fatalf("unpacking until the context ends: got %v, want that it is cancelled", err)
	}
	var n int64
	_, after, _ := strings.Cut(err.Error(), "after ")
	if _, scanErr := fmt.Sscanf(after, "%d bytes", &n); scanErr != nil || n == 0 || n > 16<<20 {
		t.Errorf("error %q: want it to have unpacked some bytes, but far from 32 MiB", err)
	}
}

func TestUnpackingPlace(t *testing.T) {
	members := make(map[string]string)
	path := writeArchive(t, members, savedImage(t, members, nil, "x"))
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	packed := path + ".gz"
	writeFile(t, packed, gzipped(t, plain))
	opts := options(t, "linux/amd64")
	opts.TempDir = filepath.Join(t.TempDir(), "missing")
	if _, err := Resolve(t.Context(), archivePrefix+packed, opts); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), opts.TempDir) {
		t.Errorf("Resolve of a compressed archive: got %v, want that there is no %s to unpack it in", err, opts.TempDir)
	}
	image, err := Resolve(t.Context(), archivePrefix+path, opts)
	if err != nil {
		t.Fatalf("Resolve of a plain archive, which needs no space: %v", err)
	}
	_ = image.Close()
	t.Setenv("TMPDIR", opts.TempDir)
	opts.TempDir = ""
	if _, err := Resolve(t.Context(), archivePrefix+packed, opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve without a TempDir: got %v, want that there is no $TMPDIR", err)
	}
}

// TestAlpine compares docker's own archive with the layout that skopeo makes of it.
func TestAlpine(t *testing.T) {
	file := fixture(t)
	archive := resolveOK(t, archivePrefix+file, "linux/amd64")
	dir := filepath.Join(t.TempDir(), "layout")
	skopeo(t, "copy", "docker-archive:"+unpacked(t, file), "oci:"+dir+":v1")
	layout := resolveOK(t, "oci:"+dir+":v1", "linux/amd64")
	if a, l := len(archive.Blobs), len(layout.Blobs); a == 0 || a != l {
		t.Fatalf("layers: got %d from the archive and %d from the layout, want as many", a, l)
	}
	for i, b := range archive.Blobs {
		if b.DiffID != layout.Blobs[i].DiffID {
			t.Errorf("layer %d: got the diff_id %s from the archive, want %s", i, b.DiffID, layout.Blobs[i].DiffID)
		}
		if got := digest.FromBytes(readBlob(t, b)).String(); got != b.DiffID {
			t.Errorf("layer %d of the archive: got the content %s, want %s", i, got, b.DiffID)
		}
		if got := digest.FromBytes(readBlob(t, layout.Blobs[i])).String(); got != layout.Blobs[i].Digest {
			t.Errorf("layer %d of the layout: got the content %s, want %s", i, got, layout.Blobs[i].Digest)
		}
	}
	if got := archive.Platform.String(); got != "linux/amd64" {
		t.Errorf("platform: got %s, want linux/amd64", got)
	}
}

// unpacked returns the file, or a copy without gzip, which skopeo does not always see through.
func unpacked(t *testing.T, file string) string {
	t.Helper()
	if !strings.HasSuffix(file, ".gz") {
		return file
	}
	out, err := exec.Command("gzip", "-dc", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "plain.tar")
	writeFile(t, path, out)
	return path
}

func skopeo(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"--insecure-policy", "--tmpdir", t.TempDir()}, args...)
	if out, err := exec.Command("skopeo", args...).CombinedOutput(); err != nil {
		t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
