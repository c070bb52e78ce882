package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/credential"
)

func options(t *testing.T, platform string) Options {
	t.Helper()
	p, err := ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Platform: p, Access: alone(t), TempDir: t.TempDir()}
}

// alone is an access without the user's and the host's configuration, and without much patience.
func alone(t *testing.T) Access {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, file, nil)
	nothing := func(string) string { return "" }
	return Access{
		Configuration: NewConfiguration(file), Credentials: credential.Open(nothing, os.Getuid(), nil), CertsD: []string{},
		Limits: Limits{Silence: 20 * time.Second, Pause: time.Millisecond},
	}
}

func resolveOK(t *testing.T, ref, platform string) *Image {
	t.Helper()
	image, err := Resolve(t.Context(), ref, options(t, platform))
	if err != nil {
		t.Fatalf("Resolve(%q, %s): %v", ref, platform, err)
	}
	t.Cleanup(func() { _ = image.Close() })
	return image
}

// texts returns the file of each layer, or what went wrong.
func texts(t *testing.T, image *Image) []string {
	t.Helper()
	var all []string
	for _, b := range image.Blobs {
		all = append(all, string(fileOf(t, readBlob(t, b))))
	}
	return all
}

func readBlob(t *testing.T, b Blob) []byte {
	t.Helper()
	r, err := b.Open(t.Context())
	if err != nil {
		t.Fatalf("opening the blob %s: %v", b.DiffID, err)
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading the blob %s: %v", b.DiffID, err)
	}
	if b.Size >= 0 && int64(len(data)) != b.Size {
		t.Errorf("blob %s: read %d bytes, want %d", b.DiffID, len(data), b.Size)
	}
	return data
}

// checkFault checks an error's kind, and that its text and hint have these words.
func checkFault(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one of kind %d with %q", kind, words)
		return
	}
	if got := fault.KindOf(err); got != kind {
		t.Errorf("error %q: got kind %d, want %d", err, got, kind)
	}
	for _, word := range words {
		if text := err.Error() + "\n" + fault.HintOf(err); !strings.Contains(text, word) {
			t.Errorf("error and hint: got %q, want it to have %q", text, word)
		}
	}
}

func TestResolveFromRegistryAndLayout(t *testing.T) {
	c := newContent(t)
	amd64, arm64 := c.image("linux/amd64", "base", "top"), c.image("linux/arm64", "arm")
	c.tag("v1", c.index(arm64, amd64))
	registry := serve(t, c) + "/some/repo:v1"
	layout := "oci:" + c.layout(named(c.index(arm64, amd64), "v1")) + ":v1"
	for _, ref := range []string{registry, "docker://" + registry, layout} {
		t.Run(ref[:4], func(t *testing.T) {
			image := resolveOK(t, ref, "linux/amd64")
			if got, want := strings.Join(texts(t, image), " "), "base top"; got != want {
				t.Errorf("layers: got %q, want %q", got, want)
			}
			if got := image.Digest; got != amd64.Digest.String() {
				t.Errorf("digest: got %s, want that of the manifest, %s", got, amd64.Digest)
			}
			if got := image.Platform.String(); got != "linux/amd64" {
				t.Errorf("platform: got %s, want linux/amd64", got)
			}
			if want, ok := FamiliarName(ref); ok && image.Name != want {
				t.Errorf("name: got %q, want %q", image.Name, want)
			}
			if want := strings.TrimPrefix(ref, "docker://"); image.Reference != want {
				t.Errorf("reference: got %q, want %q", image.Reference, want)
			}
			if len(image.RawConfig) == 0 || image.Config.Architecture != "amd64" {
				t.Errorf("configuration: got %q, want amd64's", image.RawConfig)
			}
			if got := texts(t, resolveOK(t, ref, "linux/arm64")); len(got) != 1 || got[0] != "arm" {
				t.Errorf("layers of arm64: got %q, want arm", got)
			}
		})
	}
}

func TestResolveByDigest(t *testing.T) {
	c := newContent(t)
	image := c.image("linux/amd64", "x")
	host := serve(t, c)
	for _, ref := range []string{host + "/r@" + image.Digest.String(), host + "/r:nope@" + image.Digest.String()} {
		if got := resolveOK(t, ref, "linux/amd64"); got.Digest != image.Digest.String() || got.Reference != ref {
			t.Errorf("Resolve(%q): got %s as %q, want %s", ref, got.Digest, got.Reference, image.Digest)
		}
	}
	c.manifests[image.Digest.String()] = append([]byte(" "), c.blobs[image.Digest]...)
	_, err := Resolve(t.Context(), host+"/r@"+image.Digest.String(), options(t, "linux/amd64"))
	checkFault(t, err, fault.Corrupt, "digest")
}

func TestChoosePlatform(t *testing.T) {
	c := newContent(t)
	v3, plain := c.image("linux/amd64/v3", "v3"), c.image("linux/amd64", "plain")
	v7, v6 := c.image("linux/arm/v7", "v7"), c.image("linux/arm/v6", "v6")
	attestation := c.image("linux/amd64", "attestation")
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	annotated := attestation
	annotated.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	annotated.Annotations = map[string]string{attestationAnnotation: "attestation-manifest"}
	silent := c.image("linux/riscv64", "silent")
	silent.Platform = nil
	nested := c.index(c.index(c.image("linux/s390x", "nested")))
	other := c.addBlob("application/x-other", []byte("?"))
	c.tag("all", c.index(other, annotated, attestation, v3, plain, v7, v6, silent, nested))
	c.tag("only-v3", c.index(v3))
	c.tag("single", c.image("windows/amd64", "w"))
	host := serve(t, c)
	tests := []struct{ tag, platform, want string }{
		{"all", "linux/amd64", "plain"},
		{"all", "linux/amd64/v3", "v3"},
		{"all", "linux/arm", "v6"},
		{"all", "linux/arm/v7", "v7"},
		{"all", "linux/riscv64", "silent"},
		{"all", "linux/s390x", "nested"},
		{"only-v3", "linux/amd64", "v3"},
	}
	for _, test := range tests {
		got := texts(t, resolveOK(t, host+"/r:"+test.tag, test.platform))
		if len(got) != 1 || got[0] != test.want {
			t.Errorf("%s for %s: got %q, want %q", test.tag, test.platform, got, test.want)
		}
	}
	_, err := Resolve(t.Context(), host+"/r:all", options(t, "linux/ppc64le"))
	checkFault(t, err, fault.Platform, "linux/ppc64le",
		"linux/amd64, linux/amd64/v3, linux/arm/v6, linux/arm/v7, linux/riscv64, linux/s390x")
	if strings.Contains(err.Error(), "unknown") {
		t.Errorf("error %q: want no attestation in the list", err)
	}
	_, err = Resolve(t.Context(), host+"/r:single", options(t, "linux/amd64"))
	checkFault(t, err, fault.Platform, "windows/amd64")
}

// TestVariants: which of an index's variants is chosen. Each image is named after its platform.
func TestVariants(t *testing.T) {
	for _, test := range []struct{ have, platform, want string }{
		{"amd64 amd64/v2 amd64/v3", "linux/amd64", "amd64"},
		{"amd64/v3 amd64/v2", "linux/amd64", "amd64/v2"},
		{"amd64 amd64/v2 amd64/v4", "linux/amd64/v3", "amd64/v2"},
		{"amd64 amd64/v2 amd64/v3", "linux/amd64/v3", "amd64/v3"},
		{"arm64 amd64", "linux/amd64/v2", "amd64"},
		{"amd64/v1", "linux/amd64/v2", "amd64/v1"},
		{"amd64/v3", "linux/amd64/v2", ""},
		{"arm arm/v5 arm/v6 arm/v8", "linux/arm/v7", "arm/v6"},
		{"arm arm/v5 arm/v6 arm/v7", "linux/arm/v7", "arm/v7"},
		{"arm/v5 arm/v7", "linux/arm/v8", "arm/v7"},
		{"arm arm/v5", "linux/arm/v7", "arm/v5"},
		{"arm arm/v7", "linux/arm/v6", "arm"},
		{"arm/v7", "linux/arm/v6", ""},
		{"arm arm/v4", "linux/arm/v5", "arm"},
		{"arm64 arm/v8", "linux/arm64/v8", "arm64"},
		{"arm64/v8", "linux/arm64", "arm64/v8"},
		{"arm64/v8", "linux/arm64/v9", "arm64/v8"},
		{"riscv64", "linux/riscv64/rva23", "riscv64"},
		{"amd64", "linux/amd64/v99999999999", "amd64"},
	} {
		c := newContent(t)
		var entries []ocispec.Descriptor
		for _, platform := range strings.Fields(test.have) {
			entries = append(entries, c.image("linux/"+platform, platform))
		}
		dir := "oci:" + c.layout(named(c.index(entries...), "v1"))
		if test.want == "" {
			_, err := Resolve(t.Context(), dir, options(t, test.platform))
			checkFault(t, err, fault.Platform, test.platform, strings.ReplaceAll(test.have, " ", ", linux/"))
		} else if got := texts(t, resolveOK(t, dir, test.platform)); len(got) != 1 || got[0] != test.want {
			t.Errorf("%s of %q: got %q, want %q", test.platform, test.have, got, test.want)
		}
	}
}

// TestHalfAPlatform: what a configuration does not say is what is wanted. What it says counts.
func TestHalfAPlatform(t *testing.T) {
	for _, test := range []struct{ os, architecture, want string }{
		{"", "", "linux/arm/v7"}, {"linux", "", "linux/arm/v7"}, {"", "arm", "linux/arm"}, {"", "s390x", ""}, {"windows", "", ""},
	} {
		c := newContent(t)
		config := ocispec.Image{Platform: ocispec.Platform{OS: test.os, Architecture: test.architecture}}
		d := c.addManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{},
			Config: c.addBlob(ocispec.MediaTypeImageConfig, c.marshal(config)),
		})
		ref := "oci:" + c.layout(named(d, "v1"))
		if test.want == "" {
			_, err := Resolve(t.Context(), ref, options(t, "linux/arm/v7"))
			checkFault(t, err, fault.Platform, "linux/arm/v7")
		} else if got := resolveOK(t, ref, "linux/arm/v7").Platform.String(); got != test.want {
			t.Errorf("an image for %q and %q: got the platform %s, want %s", test.os, test.architecture, got, test.want)
		}
	}
}

// TestIndexesWithoutEnd: an index that names others again and again, or very many of them, costs few requests. Each document
// is asked for once, and there is an end to their number.
func TestIndexesWithoutEnd(t *testing.T) {
	c := newContent(t)
	again := func(d ocispec.Descriptor) ocispec.Descriptor {
		return c.index(slices.Repeat([]ocispec.Descriptor{d}, 200)...)
	}
	silent := func(d ocispec.Descriptor) ocispec.Descriptor {
		d.Platform = nil
		return d
	}
	image := c.image("linux/amd64", "x")
	c.tag("again", again(again(again(image))))
	c.tag("silent-again", again(silent(image)))
	var indexes, images []ocispec.Descriptor
	for i := range maxDocuments + 1 {
		other := c.image("linux/arm64", fmt.Sprint(i))
		indexes, images = append(indexes, c.index(other)), append(images, silent(other))
	}
	c.tag("indexes", c.index(indexes...))
	c.tag("silent", c.index(images...))
	c.tag("entries", c.index(slices.Repeat([]ocispec.Descriptor{image}, maxEntries+1)...))
	var asked atomic.Int64
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		c.ServeHTTP(w, r)
	}))
	for tag, words := range map[string]string{
		"again": "", "silent-again": "", "entries": "more than 10000 entries",
		"indexes": indexes[maxDocuments].Digest.String(), "silent": images[maxDocuments].Digest.String(),
	} {
		asked.Store(0)
		image, err := Resolve(t.Context(), host+"/r:"+tag, options(t, "linux/amd64"))
		switch {
		case words != "":
			checkFault(t, err, fault.Unsupported, "reading the index", words)
		case err != nil:
			t.Errorf("%s: %v", tag, err)
		default:
			_ = image.Close()
		}
		if n := asked.Load(); n > 2*maxDocuments+10 {
			t.Errorf("%s: %d requests for a few documents", tag, n)
		}
	}
}

// TestNoEscapes: what a manifest says does not reach the terminal as more than text.
func TestNoEscapes(t *testing.T) {
	c := newContent(t)
	const red = "\x1b[31mred"
	layers := func(mediaType string, urls ...string) ocispec.Descriptor {
		image := c.image("linux/amd64", "x")
		var manifest ocispec.Manifest
		if err := json.Unmarshal(c.blobs[image.Digest], &manifest); err != nil {
			t.Fatal(err)
		}
		manifest.Layers[0].MediaType, manifest.Layers[0].URLs = mediaType, urls
		return c.addManifest(ocispec.MediaTypeImageManifest, manifest)
	}
	helm := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{}}
	helm.Config = c.addBlob("application/vnd.cncf.helm."+red, []byte("{}"))
	host := serve(t, c)
	for name, root := range map[string]ocispec.Descriptor{
		"artifact":      c.addManifest("", helm),
		"artifact type": c.addBlob("", c.marshal(map[string]string{"artifactType": red})),
		"media type":    c.addBlob("", c.marshal(map[string]any{"mediaType": red, "config": struct{}{}})),
		"platform":      c.index(c.image("linux/"+red, "x")),
		"foreign":       layers(ociForeignLayer + red),
		"elsewhere":     layers(ociForeignLayer+"v1.tar", red),
		"encrypted":     layers(red + encryptedSuffix),
	} {
		c.tag("v1", root)
		_, err := Resolve(t.Context(), host+"/r:v1", options(t, "linux/amd64"))
		if err == nil || !strings.Contains(err.Error(), "[31mred") || strings.Contains(err.Error(), red) {
			t.Errorf("%s: the error is %q, want one with the text and without its escape", name, fmt.Sprint(err))
		}
	}
}

func TestResolveWhatIsNoImage(t *testing.T) {
	c := newContent(t)
	base := c.image("linux/amd64", "x")
	text := func(s string) ocispec.Descriptor { return c.addBlob("", []byte(s)) }
	helm := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{}}
	helm.Config = c.addBlob("application/vnd.cncf.helm.config.v1+json", []byte("{}"))
	tooMany := string(c.blobs[base.Digest])
	tooMany = strings.Replace(tooMany, `"layers":[`, `"layers":[`+string(c.marshal(text("extra")))+`,`, 1)
	deep := base
	for range maxDepth + 1 {
		deep = c.index(deep)
	}
	tests := []struct {
		name  string
		root  ocispec.Descriptor
		kind  fault.Kind
		words string
	}{
		{"helm", c.addManifest("", helm), fault.Unsupported, "application/vnd.cncf.helm.config.v1+json"},
		{"schema1", text(`{"schemaVersion":1,"fsLayers":[]}`), fault.Unsupported, "manifest.v1+json"},
		{"type", text(`{"mediaType":"application/x-thing","config":{}}`), fault.Unsupported, "application/x-thing"},
		{"html", text(`<html>`), fault.Unsupported, "manifest"},
		{"empty", text(`{}`), fault.Unsupported, "not a container image"},
		{"both", text(`{"manifests":[],"config":{},"layers":[]}`), fault.Corrupt, "index"},
		{"empty-index", c.index(), fault.Platform, "no images"},
		{"layers", text(tooMany), fault.Corrupt, "2 layers and 1 diff_ids"},
		{"deep", deep, fault.Unsupported, "deep"},
		{"digest", text(`{"config":{"mediaType":"` + dockerConfig + `","digest":"sha256:../x"}}`), fault.Corrupt, "../x"},
		{"size", text(`{"config":{"mediaType":"` + dockerConfig + `","digest":"` + someDigest + `","size":-1}}`), fault.Corrupt, "-1"},
	}
	host := serve(t, c)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.tag(test.name, test.root)
			_, err := Resolve(t.Context(), host+"/r:"+test.name, options(t, "linux/amd64"))
			checkFault(t, err, test.kind, test.words)
		})
	}
}

func TestResolveDamagedConfig(t *testing.T) {
	c := newContent(t)
	c.tag("v1", c.image("linux/amd64", "x"))
	host := serve(t, c)
	for d, data := range c.blobs {
		if bytes.Contains(data, []byte("rootfs")) {
			c.blobs[d] = bytes.Replace(data, []byte("amd64"), []byte("arm64"), 1)
		}
	}
	_, err := Resolve(t.Context(), host+"/r:v1", options(t, "linux/amd64"))
	checkFault(t, err, fault.Corrupt, "configuration", "digest")
}

func TestRegistryFailures(t *testing.T) {
	status := func(code int, body string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.WriteHeader(code)
				_, _ = w.Write([]byte(body))
			}
		}))
	}
	tests := []struct {
		name, ref string
		kind      fault.Kind
		words     []string
	}{
		{"tag", serve(t, newContent(t)) + "/r:nope", fault.NotFound, []string{"MANIFEST_UNKNOWN", "check the tag"}},
		{"repository", status(404, `{"errors":[{"code":"NAME_UNKNOWN"}]}`) + "/a/r", fault.NotFound, []string{`no repository "a/r"`}},
		{"login", status(401, "") + "/r", fault.Unreachable, []string{"banger login 127.0.0.1", "asked without credentials"}},
		{"forbidden", status(403, "") + "/r", fault.Unreachable, []string{"banger login"}},
		{"limit", status(429, "") + "/r", fault.Unreachable, []string{"limits"}},
		{"server", status(500, "") + "/r", fault.Unreachable, []string{"try again"}},
		{"host", "registry.invalid/r", fault.Unreachable, []string{"registry.invalid", "network"}},
		{"refused", closedPort(t) + "/r", fault.Unreachable, []string{"refused"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := Resolve(t.Context(), test.ref, options(t, "linux/amd64"))
			checkFault(t, err, test.kind, test.words...)
			if err != nil && strings.Count(err.Error(), "refused") > 1 {
				t.Errorf("error %q: want its cause once", err)
			}
		})
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestResolveCancelled(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	host := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			close(reached)
			<-release
		}
	}))
	defer close(release)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the user has had enough")
	go func() {
		<-reached
		cancel(stop)
	}()
	_, err := Resolve(ctx, host+"/r", options(t, "linux/amd64"))
	if !errors.Is(err, stop) {
		t.Errorf("Resolve with a context that ends: got %v, want its cause", err)
	}
}

func TestLayoutFailures(t *testing.T) {
	c := newContent(t)
	image := c.image("linux/amd64", "x")
	two := c.layout(named(image, "b"), named(c.image("linux/amd64", "y"), "a"))
	gone := c.layout(named(image, "v1"))
	if err := os.RemoveAll(filepath.Join(gone, "blobs")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil)
	future := t.TempDir()
	writeFile(t, filepath.Join(future, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`))
	tests := []struct {
		name, ref string
		kind      fault.Kind
		words     string
	}{
		{"missing", "oci:/missing/dir", fault.NotFound, "/missing/dir"},
		{"no layout", "oci:" + t.TempDir(), fault.Unsupported, "no OCI image layout"},
		{"file", "oci:" + file, fault.Unsupported, "no directory"},
		{"version", "oci:" + future, fault.Unsupported, "2.0.0"},
		{"tag", "oci:" + two + ":c", fault.NotFound, "a, b"},
		{"no tag", "oci:" + two, fault.Usage, "oci:" + two + ":a"},
		{"empty", "oci:" + c.layout(), fault.NotFound, "no images"},
		{"no blobs", "oci:" + gone, fault.Corrupt, "incomplete"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Resolve(t.Context(), test.ref, options(t, "linux/amd64"))
			checkFault(t, err, test.kind, test.words)
		})
	}
}

func TestLayoutWithoutNames(t *testing.T) {
	c := newContent(t)
	one := c.layout(c.image("linux/amd64", "one"))
	platforms := c.layout(c.image("linux/arm64", "arm"), c.image("linux/amd64", "amd"))
	alone := c.layout(c.image("linux/amd64", "nameless"), named(c.image("linux/amd64", "alone"), "v1"))
	both := c.layout(named(c.image("linux/arm64", "arm"), "v1"), named(c.image("linux/amd64", "of v1"), "v1"))
	for ref, want := range map[string]string{
		"oci:" + one: "one", "oci:" + platforms: "amd", "oci:" + alone: "alone", "oci:" + both: "of v1", "oci:" + both + ":v1": "of v1",
	} {
		if got := texts(t, resolveOK(t, ref, "linux/amd64")); len(got) != 1 || got[0] != want {
			t.Errorf("Resolve(%q): got %q, want %q", ref, got, want)
		}
	}
}
