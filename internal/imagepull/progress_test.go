package imagepull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
)

// TestRate: the rate is that of the last seconds, and what is left follows from it.
func TestRate(t *testing.T) {
	type look struct {
		after time.Duration // the look before
		bytes int64
		rate  int64
		left  time.Duration
	}
	const second = time.Second
	for name, c := range map[string]struct {
		total int64
		looks []look
	}{
		"too early":                         {100, []look{{0, 0, 0, 0}, {second / 4, 10, 0, 0}}},
		"steady":                            {100, []look{{0, 0, 0, 0}, {second, 10, 10, 9 * second}, {second, 20, 10, 8 * second}}},
		"stalls":                            {100, []look{{0, 0, 0, 0}, {second, 10, 10, 9 * second}, {5 * second, 10, 0, 0}, {second, 10, 0, 0}}},
		"becomes fast":                      {1000, []look{{0, 0, 0, 0}, {5 * second, 5, 1, 995 * second}, {5 * second, 505, 100, 4950 * time.Millisecond}}},
		"begins anew":                       {100, []look{{0, 0, 0, 0}, {second, 50, 50, second}, {second, 0, 0, 0}, {second, 5, 5, 19 * second}}},
		"unknown total":                     {-1, []look{{0, 0, 0, 0}, {second, 10, 10, 0}}},
		"longer than a Duration can be":     {10 << 30, []look{{0, 0, 0, 0}, {5 * second, 5, 1, 0}}},
		"a total that nobody has":           {math.MaxInt64, []look{{0, 0, 0, 0}, {second, 1 << 20, 1 << 20, 0}}},
		"done":                              {10, []look{{0, 0, 0, 0}, {second, 10, 10, 0}}},
		"the clock of a test, which stands": {10, []look{{0, 0, 0, 0}, {0, 10, 0, 0}}},
	} {
		var r rate
		now := time.Unix(1e9, 0)
		for _, look := range c.looks {
			now = now.Add(look.after)
			want := Amount{Bytes: look.bytes, Total: max(0, c.total), Rate: look.rate, Left: look.left}
			if got := r.amount(now, look.bytes, c.total); got != want {
				t.Errorf("%s, at %d bytes: %+v, want %+v", name, look.bytes, got, want)
			}
		}
	}
}

// blobAt is a blob with the content as its only, uncompressed file. What its reader does is told to at.
func blobAt(content []byte, at func(read int) error) oci.Blob {
	return oci.Blob{
		Digest: digest.FromBytes(content).String(), DiffID: digest.FromBytes(content).String(), Size: int64(len(content)),
		Open: func(context.Context) (io.ReadCloser, error) {
			if err := at(0); err != nil {
				return nil, err
			}
			return &watchedReader{Reader: bytes.NewReader(content), at: at}, nil
		},
	}
}

type watchedReader struct {
	*bytes.Reader
	at   func(read int) error
	read int
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p[:min(len(p), 4096)])
	w.read += n
	return n, errors.Join(err, w.at(w.read))
}

func (w *watchedReader) Close() error { return nil }

// reports are steps that were reported.
type reports struct {
	mu    sync.Mutex
	steps []Step
}

func (r *reports) report(s Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, s)
}

// states are those of a layer, in their order, without repetitions.
func (r *reports) states(diffID string) (states []LayerState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.steps {
		if s.Layer != nil && s.Layer.DiffID == diffID && (len(states) == 0 || states[len(states)-1] != s.Layer.State) {
			states = append(states, s.Layer.State)
		}
	}
	return states
}

// TestLayersAreReported: what is said of layers that come, that are there, that are cut and that fail.
func TestLayersAreReported(t *testing.T) {
	tar := make([]byte, 64<<10) // which is empty
	fresh, there := bytes.Clone(tar), tar[:32<<10]
	cut := append(bytes.Clone(tar), tar...)
	store := layer.NewStore(t.TempDir())
	plain := func(int) error { return nil }
	l, err := store.Ensure(t.Context(), layer.Blob(blobAt(there, plain)))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	slow := func(read int) error {
		if read == 36<<10 { // of which the last 4 KiB have not been returned
			time.Sleep(3 * refresh)
		}
		return nil
	}
	broken := errors.New("the line is cut")
	failing := func(read int) error {
		if read > 8192 {
			return broken
		}
		return nil
	}
	for _, c := range []struct {
		name string
		blob oci.Blob
		want []LayerState
		err  error
	}{
		{"fresh", blobAt(fresh, slow), []LayerState{LayerWaiting, LayerDownloading, LayerUnpacking, LayerDone}, nil},
		{"there", blobAt(there, plain), []LayerState{LayerWaiting, LayerExists}, nil},
		{"cut", blobAt(cut, failing), []LayerState{LayerWaiting, LayerDownloading}, broken},
	} {
		var r reports
		p := Puller{Layers: store, Steps: Steps{Now: time.Now, Report: r.report}}
		layers, err := p.pullLayers(t.Context(), &oci.Image{Reference: c.name, Blobs: []oci.Blob{c.blob}})
		closeAll(layers)
		if !errors.Is(err, c.err) || !slices.Equal(r.states(c.blob.DiffID), c.want) {
			t.Errorf("%s: %v, and the layer was %q, want %q", c.name, err, r.states(c.blob.DiffID), c.want)
		}
		if c.name == "fresh" {
			checkHalf(t, r.steps, int64(len(fresh)))
		}
	}
}

// checkHalf checks what was said while half of a layer was there.
func checkHalf(t *testing.T, steps []Step, size int64) {
	t.Helper()
	half := 0
	for _, s := range steps {
		if a := s.Amount; a != nil && a.Bytes == size/2 && a.Total == size && strings.Contains(s.Detail, "32.77kB of 65.54kB") {
			half++
		}
	}
	last := steps[len(steps)-1]
	if half == 0 || !last.Done || last.Detail != "1 layer, 65.54kB" {
		t.Errorf("half of the layer was reported %d times, and at the end %+v", half, last)
	}
}

// TestRetriedLayer: a layer that is fetched again begins at nothing.
func TestRetriedLayer(t *testing.T) {
	var r reports
	blob := blobAt(make([]byte, 8192), func(int) error { return nil })
	arrived, stop := watchArrivals(&oci.Image{Blobs: []oci.Blob{blob}}, Steps{Now: time.Now, Report: r.report})
	defer stop()
	counted := arrived.count(0)
	for range 2 {
		body, err := counted.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := body.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	arrived.mu.Lock()
	defer arrived.mu.Unlock()
	if amount := arrived.amount(); amount.Bytes != 4096 || amount.Total != 8192 {
		t.Errorf("when a layer is fetched again, %+v is there, want 4096 of 8192 bytes", amount)
	}
}

// TestContinuedLayer: what an earlier download has left counts as there, and not in the rate.
func TestContinuedLayer(t *testing.T) {
	var r reports
	blob := blobAt(make([]byte, 8192), func(int) error { return nil })
	blob.OpenAt = func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(make([]byte, 8192-offset))), nil
	}
	now := time.Unix(1e9, 0)
	a := &arrivals{steps: Steps{Now: func() time.Time { return now }, Report: r.report}}
	a.layers = []*arrival{{all: a, blob: blob, state: LayerWaiting}}
	_ = a.amount()
	body, err := a.count(0).OpenAt(t.Context(), 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := body.Read(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	want := Amount{Bytes: 5120, Total: 8192, Rate: 1024, Left: 3 * time.Second}
	if got := a.amount(); got != want {
		t.Errorf("of a layer that is continued is said %+v, want %+v", got, want)
	}
	if first := r.steps[0].Layer; first.State != LayerDownloading || first.Bytes != 4096 {
		t.Errorf("at first is said %+v", *first)
	}
}

// TestUnknownSizes: where the source does not say how large its layers are, nobody says what is left.
func TestUnknownSizes(t *testing.T) {
	blob := blobAt(make([]byte, 8192), func(int) error { return nil })
	blob.Size, blob.Digest = -1, ""
	var r reports
	p := Puller{Layers: layer.NewStore(t.TempDir()), Steps: Steps{Now: time.Now, Report: r.report}}
	layers, err := p.pullLayers(t.Context(), &oci.Image{Blobs: []oci.Blob{blob}})
	if err != nil {
		t.Fatal(err)
	}
	closeAll(layers)
	for _, s := range r.steps {
		if s.Layer != nil && (s.Layer.Total != 0 || s.Layer.Left != 0 || s.Layer.Digest != blob.DiffID) {
			t.Errorf("of a layer of unknown size is said %+v", *s.Layer)
		}
	}
}

// TestAnnounce: only what lasts is announced, and nothing once it has ended.
func TestAnnounce(t *testing.T) {
	var r reports
	steps := Steps{Now: time.Now, Report: r.report}
	steps.Announce("Short", "")()
	stop := steps.Announce("Long", "why")
	time.Sleep(announceAfter * 5 / 2)
	stop()
	n := len(r.steps)
	time.Sleep(announceAfter * 3 / 2)
	if n != 1 || len(r.steps) != n || r.steps[0] != (Step{Name: "Long", Detail: "why"}) {
		t.Errorf("announced were %+v", r.steps)
	}
}

// TestRunOnFile: how far a step is shows by what its file takes.
func TestRunOnFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var r reports
	steps := Steps{Now: time.Now, Report: r.report}
	err := steps.RunOnFile("Write", path, 1<<20, func() (string, error) {
		for _, size := range []int{256 << 10, 4 << 20} {
			time.Sleep(refresh * 5 / 2)
			if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
				return "", err
			}
		}
		time.Sleep(refresh * 5 / 2)
		return "written", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := ""
	for _, s := range r.steps {
		if s.Amount != nil && s.Amount.Total == 1<<20 && !strings.HasSuffix(seen, fmt.Sprintf("%d ", s.Amount.Bytes>>10)) {
			seen += fmt.Sprintf("%d ", s.Amount.Bytes>>10)
		}
	}
	last := r.steps[len(r.steps)-1]
	if seen != "0 256 1024 " || !last.Done || last.Detail != "written" {
		t.Errorf("the step was at %sKiB, and at the end %+v", seen, last)
	}
}
