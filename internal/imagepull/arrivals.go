package imagepull

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
)

// arrivals watches how the layers of an image come into the store, from outside: what is asked of their blobs, and when
// the store has them.
type arrivals struct {
	steps Steps

	mu     sync.Mutex // held while something is reported
	layers []*arrival
	rate   rate // of all
}

// arrival is one layer on its way. The arrivals' lock guards it.
type arrival struct {
	all  *arrivals
	blob oci.Blob

	state    LayerState
	bytes    atomic.Int64 // which have come; the lock is not needed, since a report may take long
	kept     atomic.Int64 // of these, what an earlier download had left
	reported int64
	rate     rate
}

// watchArrivals reports how far the layers are until stop is called.
func watchArrivals(image *oci.Image, steps Steps) (a *arrivals, stop func()) {
	a = &arrivals{steps: steps}
	for _, blob := range image.Blobs {
		l := &arrival{all: a, blob: blob, state: LayerWaiting}
		a.layers = append(a.layers, l)
		l.report()
	}
	return a, every(refresh, a.refresh)
}

// refresh reports the layers that have gone on, and all of them together.
func (a *arrivals) refresh() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.layers {
		if l.state == LayerDownloading && l.bytes.Load() != l.reported {
			l.report()
		}
	}
	amount := a.amount()
	a.steps.Report(Step{Name: "Pull", Detail: amount.of(), Amount: &amount})
}

// amount is that of all layers. What was there already counts as done, but not in the rate.
func (a *arrivals) amount() Amount {
	var bytes, there, total int64
	known := true
	for _, l := range a.layers {
		size := max(0, l.blob.Size)
		total += size
		known = known && l.blob.Size >= 0
		if l.state == LayerExists {
			there += size
		} else {
			kept := l.kept.Load()
			bytes += l.bytes.Load() - kept
			there += kept
		}
	}
	amount := a.rate.amount(a.steps.Now(), bytes, total-there)
	amount.Bytes, amount.Total = bytes+there, total
	if !known {
		amount.Total, amount.Left = 0, 0
	}
	return amount
}

// total is the size of all blobs in words, as far as the source says.
func (a *arrivals) total() string {
	var total int64
	for _, l := range a.layers {
		total += max(0, l.blob.Size)
	}
	return units.HumanSize(float64(total))
}

// count returns the blob of the n-th layer with what is read from it counted.
func (a *arrivals) count(n int) layer.Blob {
	l := a.layers[n]
	counted := layer.Blob(l.blob)
	counted.Open = func(ctx context.Context) (io.ReadCloser, error) {
		l.begin(0)
		return l.body(l.blob.Open(ctx))
	}
	if l.blob.OpenAt != nil {
		counted.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			l.begin(offset)
			return l.body(l.blob.OpenAt(ctx, offset))
		}
	}
	return counted
}

// body counts what is read from a blob.
func (l *arrival) body(body io.ReadCloser, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return &countedBody{body, l}, nil
}

// ended notes that the store has given the n-th layer, or why not.
func (a *arrivals) ended(n int, err error) {
	l := a.layers[n]
	switch {
	case err != nil:
	case l.isWaiting():
		l.enter(LayerExists)
	default:
		l.enter(LayerDone)
	}
}

func (l *arrival) isWaiting() bool {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	return l.state == LayerWaiting
}

// begin begins to download, behind the bytes that an earlier download has left.
func (l *arrival) begin(kept int64) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	l.bytes.Store(kept)
	l.kept.Store(kept)
	l.state, l.rate = LayerDownloading, rate{}
	l.report()
}

// enter begins another state, and reports it.
func (l *arrival) enter(state LayerState) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if state != l.state {
		l.state = state
		l.report()
	}
}

// report reports the layer. The caller holds the lock, or is alone.
func (l *arrival) report() {
	progress := &LayerProgress{Digest: l.blob.Digest, DiffID: l.blob.DiffID, State: l.state}
	if progress.Digest == "" {
		progress.Digest = l.blob.DiffID
	}
	l.reported = l.bytes.Load()
	progress.Amount = Amount{Bytes: l.reported, Total: max(0, l.blob.Size)}
	if l.state == LayerDownloading {
		progress.Amount = l.rate.amount(l.all.steps.Now(), l.reported, l.blob.Size)
	}
	l.all.steps.Report(Step{Name: "Pull", Layer: progress})
}

// countedBody counts what is read from a blob.
type countedBody struct {
	io.ReadCloser
	arrival *arrival
}

// Read reads from the blob.
func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.arrival.bytes.Add(int64(n))
	if errors.Is(err, io.EOF) {
		c.arrival.enter(LayerUnpacking)
	}
	return n, err
}
