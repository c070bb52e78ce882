package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	userAgent = "banger"
	// patience is how long a registry may send nothing, before an answer or within it.
	patience = time.Minute
)

// accepted are the manifests that banger asks for. Schema 1 is asked for so that it can be named in the error.
var accepted = strings.Join([]string{
	ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerIndex, dockerManifest, dockerSchema1,
}, ", ")

// registry is a repository of a registry (OCI distribution-spec, "Pull").
type registry struct {
	named    reference.Named
	client   *http.Client
	base     url.URL // of the repository: https://HOST/v2/NAME
	patience time.Duration
	idle     func() // closes the connections
}

// openRegistry connects and logs in, as far as pulling from the repository needs it.
func openRegistry(ctx context.Context, named reference.Named, opts Options) (*registry, error) {
	repository, err := name.NewRepository(named.Name())
	if err != nil {
		return nil, fmt.Errorf("reading the reference: %w", err)
	}
	credentials, err := authn.Resolve(ctx, opts.Keychain, repository)
	if err != nil {
		return nil, fmt.Errorf("finding the credentials for %q: %w", reference.Domain(named), err)
	}
	base, idle := opts.Transport, func() {}
	if base == nil {
		t := newTransport()
		base, idle = t, t.CloseIdleConnections
	}
	retried := transport.NewRetry(base, transport.WithRetryStatusCodes(
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	agent := transport.NewUserAgent(retried, userAgent)
	scopes := []string{repository.Scope(transport.PullScope)}
	authenticated, err := transport.NewWithContext(ctx, repository.Registry, credentials, agent, scopes)
	if err != nil {
		idle()
		return nil, registryError(named, err)
	}
	return &registry{
		named: named, client: &http.Client{Transport: authenticated},
		// The transport changes the scheme where a local registry has no TLS.
		base:     url.URL{Scheme: "https", Host: repository.RegistryStr(), Path: "/v2/" + repository.RepositoryStr()},
		patience: patience,
		idle:     idle,
	}, nil
}

// newTransport is Go's own, with a limit to the wait, and without Go's decompression: digests are of what is sent.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: patience,
	}
}

func (r *registry) Close() error {
	r.idle()
	return nil
}

// get sends a GET request for a path below the repository. The answer's status is one of ok.
func (r *registry) get(ctx context.Context, path string, header http.Header, ok ...int) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := r.client.Do(request)
	if err != nil {
		return nil, registryError(r.named, err)
	}
	if err := transport.CheckError(response, ok...); err != nil {
		_ = response.Body.Close()
		return nil, registryError(r.named, err)
	}
	return response, nil
}

func (r *registry) getManifest(ctx context.Context, id string) (io.ReadCloser, error) {
	response, err := r.get(ctx, "manifests/"+id, http.Header{"Accept": {accepted}}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// root fetches what the tag or the digest of the reference stands for. A digest is checked; a tag has nothing to be
// checked against.
func (r *registry) root(ctx context.Context) (document, error) {
	digested, byDigest := r.named.(reference.Digested)
	id := ""
	if byDigest {
		id = digested.Digest().String()
	} else if tagged, ok := r.named.(reference.Tagged); ok {
		id = tagged.Tag()
	}
	body, err := r.getManifest(ctx, id)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = body.Close() }()
	raw, err := readSmall(body)
	if err != nil {
		return document{}, fmt.Errorf("reading the manifest: %w", registryError(r.named, err))
	}
	sum := digest.FromBytes(raw)
	if byDigest {
		sum = digested.Digest()
		if err := checkDigest(raw, sum); err != nil {
			return document{}, fmt.Errorf("reading the manifest: %w", err)
		}
	}
	return parseDocument(raw, sum)
}

func (r *registry) manifest(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return r.getManifest(ctx, d.Digest.String())
}

// blob returns a reader that takes up a download where it broke.
func (r *registry) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return r.blobAt(ctx, d, 0)
}

// blobAt is blob from a byte on. At the end of the blob there is nothing to ask for.
func (r *registry) blobAt(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > d.Size {
		return nil, fmt.Errorf("downloading %s from byte %d: it has %d bytes", d.Digest, offset, d.Size)
	}
	if offset == d.Size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &blobReader{
		ctx: ctx, cancel: cancel, registry: r, path: "blobs/" + d.Digest.String(), size: d.Size, offset: offset,
	}
	if err := b.open(); err != nil {
		cancel()
		return nil, err
	}
	return b, nil
}

// blobReader reads a blob of a registry. Close may be called while Read waits.
type blobReader struct {
	ctx      context.Context
	cancel   context.CancelFunc
	registry *registry
	path     string
	size     int64 // of the blob
	offset   int64 // of the next byte
	broken   int   // how often in a row a connection broke without a byte
	body     io.Reader
	abort    context.CancelFunc // ends the request that body belongs to, and so closes body
}

// maxBroken is how often in a row a connection may break without a byte before the download fails.
const maxBroken = 3

// open asks for the rest of the blob. A registry that does not know ranges sends it from the beginning.
func (b *blobReader) open() error {
	header := http.Header{}
	if b.offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.offset))
	}
	ctx, abort := context.WithCancel(b.ctx)
	response, err := b.registry.get(ctx, b.path, header, http.StatusOK, http.StatusPartialContent) //nolint:bodyclose // see abort
	if err != nil {
		abort()
		return err
	}
	b.body, b.abort = response.Body, abort
	if response.StatusCode == http.StatusOK {
		_, err = io.CopyN(io.Discard, b.body, b.offset)
		return err
	}
	want := fmt.Sprintf("bytes %d-", b.offset)
	if got := response.Header.Get("Content-Range"); !strings.HasPrefix(got, want) {
		return fmt.Errorf("continuing the download at byte %d: the registry sends %q", b.offset, got)
	}
	return nil
}

// Read reads on in another connection when one breaks, or sends nothing for too long.
func (b *blobReader) Read(p []byte) (int, error) {
	for {
		stalled := time.AfterFunc(b.registry.patience, b.abort)
		n, err := b.body.Read(p)
		silent := !stalled.Stop()
		b.offset += int64(n)
		if n > 0 {
			b.broken = 0
			return n, nil // an error comes again with the next Read
		}
		complete := errors.Is(err, io.EOF) && b.offset >= b.size
		if err == nil || complete || b.ctx.Err() != nil {
			return 0, err
		}
		if b.reopen() != nil {
			return 0, b.final(err, silent)
		}
	}
}

// reopen waits a little and asks for the rest.
func (b *blobReader) reopen() error {
	for {
		if b.broken++; b.broken > maxBroken {
			return errors.New("broken too often")
		}
		b.abort()
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(100 * time.Millisecond << b.broken):
		}
		if b.open() == nil {
			return nil
		}
	}
}

// final is the error of a download that broke for good. An answer that is merely too short stays an early end.
func (b *blobReader) final(err error, silent bool) error {
	switch {
	case b.ctx.Err() != nil:
		return b.ctx.Err()
	case silent:
		err := fmt.Errorf("the registry has sent nothing for %s", b.registry.patience)
		return registryError(b.registry.named, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return registryError(b.registry.named, err)
}

// Close ends the download.
func (b *blobReader) Close() error {
	b.cancel()
	return nil
}
