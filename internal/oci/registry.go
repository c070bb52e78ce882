package oci

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// accepted are the manifests that banger asks for. Schema 1 is asked for so that it can be named in the error.
var accepted = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerIndex, dockerManifest, dockerSchema1,
}, ", ")

// registry is a repository of a registry, with the mirrors that it has.
type registry struct {
	named     reference.Named
	endpoints []*endpoint // the mirrors and then the registry, as registries.conf has them
	working   atomic.Int32
	report    func(string)
}

// openRegistry finds out where to ask for an image. It asks nobody yet.
func openRegistry(named reference.Named, access Access) (*registry, error) {
	if err := access.checkFiles(); err != nil {
		return nil, err
	}
	places, err := access.Configuration.places(named)
	if err != nil {
		return nil, err
	}
	r := &registry{named: named, report: access.Report}
	for _, p := range places[:len(places)-1] {
		mirror := access
		mirror.Limits = mirror.Limits.ofMirror()
		r.endpoints = append(r.endpoints, newEndpoint(p, mirror))
	}
	r.endpoints = append(r.endpoints, newEndpoint(places[len(places)-1], access))
	return r, nil
}

func (r *registry) Close() error {
	for _, e := range r.endpoints {
		_ = e.Close()
	}
	return nil
}

// order returns the endpoints with the one first that has worked.
func (r *registry) order() []*endpoint {
	working := int(r.working.Load())
	order := []*endpoint{r.endpoints[working]}
	order = append(order, r.endpoints[:working]...)
	return append(order, r.endpoints[working+1:]...)
}

// failures are what endpoints said that did not give what they were asked for.
type failures map[*endpoint]error

// each asks the endpoints in turn, until one gives what is asked for. Their errors are one in the end, see tried.
func (r *registry) each(ctx context.Context, ask func(*endpoint) error) error {
	failed := make(failures)
	for _, e := range r.order() {
		err := ask(e)
		if err == nil {
			r.found(e, failed)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		failed[e] = err
	}
	return r.tried(failed)
}

// found remembers which endpoint works, and says what it is if that is not plain.
func (r *registry) found(e *endpoint, failed failures) {
	i := slices.Index(r.endpoints, e)
	was := r.working.Swap(int32(i)) //nolint:gosec // there are few
	for _, other := range r.endpoints {
		if err := failed[other]; err != nil {
			r.report(err.Error())
		}
	}
	if len(failed) > 0 || int(was) != i {
		r.report("asking " + e.domain + " instead")
	}
}

// tried joins what all endpoints said. The registry's kind and hint are those of all, in whatever order they were asked.
func (r *registry) tried(failed failures) error {
	last := len(r.endpoints) - 1
	var mirrors []string
	for _, mirror := range r.endpoints[:last] {
		mirrors = append(mirrors, failed[mirror].Error())
	}
	err := failed[r.endpoints[last]]
	if len(mirrors) == 0 {
		return err
	}
	return fmt.Errorf("%w (mirrors were tried: %s)", err, strings.Join(mirrors, "; "))
}

// fetched is a manifest or index as it came.
type fetched struct {
	raw    []byte
	header http.Header
}

// manifest fetches a manifest or index by its tag or digest. It is small: where the connection breaks, it is fetched
// again as a whole.
func (e *endpoint) manifest(ctx context.Context, id string) (fetched, error) {
	for attempt := 0; ; attempt++ {
		got, err := e.manifestOnce(ctx, id)
		if err == nil || !broken(err) || attempt == e.access.Limits.Repeat {
			return got, err
		}
		if err := sleep(ctx, e.access.Limits.Pause<<attempt); err != nil {
			return fetched{}, err
		}
	}
}

func (e *endpoint) manifestOnce(ctx context.Context, id string) (fetched, error) {
	response, err := e.get(ctx, "manifests/"+id, http.Header{"Accept": {accepted}}, http.StatusOK)
	if err != nil {
		return fetched{}, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := readSmall(response.Body)
	if err != nil {
		return fetched{}, e.failure(ctx, err)
	}
	return fetched{raw, response.Header}, nil
}

// root fetches what the tag or the digest of the reference stands for.
func (r *registry) root(ctx context.Context) (root document, err error) {
	err = r.each(ctx, func(e *endpoint) (err error) {
		root, err = e.root(ctx, r.named)
		return err
	})
	if from := r.order()[0].domain; err == nil && from != reference.Domain(r.named) {
		r.report(fmt.Sprintf("%s is a mirror of %s", from, reference.Domain(r.named)))
	}
	return root, err
}

// root is checked against the reference's digest, or else against the one that the registry says; a tag alone has
// nothing that it could be checked against.
func (e *endpoint) root(ctx context.Context, named reference.Named) (document, error) {
	digested, byDigest := named.(reference.Digested)
	id := ""
	if byDigest {
		id = digested.Digest().String()
	} else if tagged, ok := named.(reference.Tagged); ok {
		id = tagged.Tag()
	}
	got, err := e.manifest(ctx, id)
	if err != nil {
		return document{}, fmt.Errorf("reading the manifest: %w", err)
	}
	sum := digest.FromBytes(got.raw)
	switch said := digest.Digest(got.header.Get("Docker-Content-Digest")); {
	case byDigest:
		sum, err = digested.Digest(), e.check(got.raw, digested.Digest())
	case said.Validate() == nil:
		err = e.check(got.raw, said)
	}
	if err != nil {
		return document{}, fmt.Errorf("reading the manifest: %w", err)
	}
	root, err := parseDocument(got.raw, sum)
	return root, pageError(err, e.domain, got.header)
}

// pageError says what came in the place of a manifest, if it was a page for people: a gateway's, or a login's.
func pageError(err error, domain string, header http.Header) error {
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if err == nil || kind != "text/html" {
		return err
	}
	err = fmt.Errorf("reading the manifest: %s sends a web page (text/html) in its place", domain)
	return fault.New(fault.Unsupported, err, "is it a registry? a proxy or a login page of the network may be in the way")
}

// manifest returns a manifest or index that an index names. An endpoint with other bytes does not have it.
func (r *registry) manifest(ctx context.Context, d ocispec.Descriptor) (body io.ReadCloser, err error) {
	err = r.each(ctx, func(e *endpoint) error {
		got, err := e.manifest(ctx, d.Digest.String())
		if err != nil {
			return err
		}
		body = io.NopCloser(bytes.NewReader(got.raw))
		return e.check(got.raw, d.Digest)
	})
	return body, err
}

// check checks what the endpoint has sent under a digest.
func (e *endpoint) check(data []byte, want digest.Digest) error {
	if err := checkDigest(data, want); err != nil {
		return fmt.Errorf("%s: %w", e.domain, err)
	}
	return nil
}
