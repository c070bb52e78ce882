package oci

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestKnownImageCostsOneRequest: an image that was resolved before is asked for by its tag, and nothing else is.
func TestKnownImageCostsOneRequest(t *testing.T) {
	c := newContent(t)
	amd64 := c.image("linux/amd64", "content")
	c.tag("one", amd64)
	c.tag("many", c.index(amd64, c.image("linux/arm64", "other")))
	var asked []string
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" { // which asks what authentication is wanted
			asked = append(asked, r.URL.Path)
		}
		c.ServeHTTP(w, r)
	}))
	dir := filepath.Join(t.TempDir(), "documents")
	resolve := func(tag string) *Image {
		t.Helper()
		asked = nil
		image, err := Resolve(t.Context(), host+"/r:"+tag, Options{Documents: dir})
		if err != nil {
			t.Fatal(err)
		}
		_ = image.Close()
		return image
	}
	for _, tag := range []string{"one", "many"} {
		first := resolve(tag)
		second := resolve(tag)
		if want := []string{"/v2/r/manifests/" + tag}; !slices.Equal(asked, want) {
			t.Errorf("the second time, %v was asked for, want %v", asked, want)
		}
		if first.Digest != second.Digest || string(first.RawConfig) != string(second.RawConfig) {
			t.Errorf("the second time, the image is %s, want %s", second.Digest, first.Digest)
		}
	}
	damageAll(t, dir)
	if got := resolve("many"); got.Digest != amd64.Digest.String() || len(asked) != 3 {
		t.Errorf("with damaged documents, the image is %s after the requests %v, want %s and all documents asked for", got.Digest, asked, amd64.Digest)
	}
	if resolve("many"); len(asked) != 1 {
		t.Errorf("after that, %v was asked for, want one manifest", asked)
	}
}

// damageAll changes every file of a directory.
func damageAll(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no documents: %v", err)
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDocumentsAreChecked: what a registry sends wrong is not kept, and is an error as without the directory.
func TestDocumentsAreChecked(t *testing.T) {
	c := newContent(t)
	d := c.image("linux/amd64", "content")
	c.tag("v1", c.index(d))
	intact := c.manifests[d.Digest.String()]
	host, dir := serve(t, c), t.TempDir()
	c.manifests[d.Digest.String()] = append([]byte(" "), intact...)
	if _, err := Resolve(t.Context(), host+"/r:v1", Options{Documents: dir}); err == nil || !strings.Contains(err.Error(), d.Digest.String()) {
		t.Errorf("a wrong manifest: got %v, want an error with its digest", err)
	}
	c.manifests[d.Digest.String()] = intact
	image, err := Resolve(t.Context(), host+"/r:v1", Options{Documents: dir})
	if err != nil {
		t.Fatal(err)
	}
	_ = image.Close()
}

// TestOldDocuments: what nobody reads does not stay for ever.
func TestOldDocuments(t *testing.T) {
	d := documents{dir: t.TempDir()}
	long := time.Now().Add(-2 * documentsKeptFor)
	old, used := digest.FromString("old"), digest.FromString("used")
	d.put(old, []byte("old"))
	d.put(used, []byte("used"))
	for _, id := range []digest.Digest{old, used} {
		if err := os.Chtimes(d.path(id), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(d.get(used)); got != "used" {
		t.Fatalf("the document is %q", got)
	}
	d.put(digest.FromString("new"), []byte("new"))
	if d.get(old) != nil || d.get(used) == nil {
		t.Error("the old document is still there, or one that was read is not")
	}
}
