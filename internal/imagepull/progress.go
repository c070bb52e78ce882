package imagepull

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
)

// Step is one step of the recipe, for showing progress.
type Step struct {
	Name    string        // one of the five, or what the caller of Steps.Run calls it
	Detail  string        // what the step made or, while it runs, how far it is
	Done    bool          // whether the step has ended
	Elapsed time.Duration // how long it took
}

// Steps runs steps and reports them.
type Steps struct {
	Now func() time.Time
	// Report is told when a step begins (Elapsed is 0, Done false), now and then how far it is, and when it has ended.
	Report func(Step)
}

// Run runs one step, of the recipe or of what follows it, and reports its beginning and end. run returns what the step
// made, in words.
func (s Steps) Run(name string, run func() (string, error)) error {
	start := s.Now()
	s.Report(Step{Name: name})
	detail, err := run()
	if err != nil {
		return err
	}
	s.Report(Step{Name: name, Detail: detail, Done: true, Elapsed: s.Now().Sub(start)})
	return nil
}

// refresh is how often the bytes that have arrived are reported.
const refresh = 200 * time.Millisecond

// arrivals counts the bytes of the blobs that are being fetched.
type arrivals struct {
	bytes atomic.Int64
	total string
}

// count returns the blob with every byte that is read from it counted.
func (a *arrivals) count(blob oci.Blob) layer.Blob {
	open := blob.Open
	counted := layer.Blob(blob)
	counted.Open = func(ctx context.Context) (io.ReadCloser, error) {
		body, err := open(ctx)
		if err != nil {
			return nil, err
		}
		return countedBody{body, a}, nil
	}
	if blob.OpenAt == nil {
		return counted
	}
	counted.OpenAt = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		body, err := blob.OpenAt(ctx, offset)
		if err != nil {
			return nil, err
		}
		a.bytes.Add(offset)
		return countedBody{body, a}, nil
	}
	return counted
}

type countedBody struct {
	io.ReadCloser
	arrivals *arrivals
}

// Read reads from the blob.
func (c countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.arrivals.bytes.Add(int64(n))
	return n, err
}

// watch reports the bytes until the returned function is called.
func (a *arrivals) watch(report func(Step)) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			case <-time.After(refresh):
				arrived := units.HumanSize(float64(a.bytes.Load()))
				report(Step{Name: "Pull", Detail: fmt.Sprintf("%s of %s", arrived, a.total)})
			}
		}
	}()
	return func() { close(quit); <-ended }
}
