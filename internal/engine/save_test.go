package engine

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/store"
)

// TestFetchReports: a registry that has to be waited for when image save fetches layers again is told of, as with a pull.
func TestFetchReports(t *testing.T) {
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`)
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
	})
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case asked.CompareAndSwap(false, true):
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		case strings.Contains(r.URL.Path, "/manifests/"):
			_, _ = w.Write(manifest)
		default:
			_, _ = w.Write(config)
		}
	}))
	t.Cleanup(registry.Close)
	var said []string
	e, err := New(Config{
		Home: t.TempDir(), RuntimeDir: t.TempDir(), Now: time.Now,
		Report: func(step imagepull.Step) { said = append(said, step.Name+": "+step.Detail) },
	})
	if err != nil {
		t.Fatal(err)
	}
	image := store.Image{
		Reference: strings.TrimPrefix(registry.URL, "http://") + "/team/tool:v1", Platform: bootPlatform,
		Digest: digest.FromBytes(manifest).String(),
	}
	if err := e.fetch(t.Context(), image, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(said, "\n"); !strings.Contains(got, "Registry: ") || !strings.Contains(got, "waiting 1s") {
		t.Errorf("while the registry was waited for, %q was said", got)
	}
}
