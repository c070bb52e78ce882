package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// blob returns a reader that takes up a download where it broke.
func (r *registry) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if isConfig(d) {
		return r.configuration(ctx, d)
	}
	return r.blobAt(ctx, d, 0)
}

// configuration returns a blob that is small. An endpoint with other bytes does not have it.
func (r *registry) configuration(ctx context.Context, d ocispec.Descriptor) (body io.ReadCloser, err error) {
	err = r.each(ctx, func(e *endpoint) error {
		b, err := r.read(ctx, d, 0, []*endpoint{e})
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		data, err := readSmall(b)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		body = io.NopCloser(bytes.NewReader(data))
		return e.check(data, d.Digest)
	})
	return body, err
}

// blobAt is blob from a byte on. At the end of the blob there is nothing to ask for.
func (r *registry) blobAt(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if offset < 0 || offset > d.Size {
		return nil, fmt.Errorf("downloading %s from byte %d: it has %d bytes", d.Digest, offset, d.Size)
	}
	if offset == d.Size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return r.read(ctx, d, offset, r.order())
}

// read reads a blob from a byte on, at the first endpoint that has it.
func (r *registry) read(ctx context.Context, d ocispec.Descriptor, offset int64, from []*endpoint) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	b := &blobReader{
		ctx: ctx, cancel: cancel, registry: r, descriptor: d, endpoints: from, failed: make(failures), offset: offset,
	}
	if err := b.start(); err != nil {
		cancel()
		return nil, err
	}
	return b, nil
}

// blobReader reads a blob of a registry. Close may be called while Read waits.
type blobReader struct {
	ctx        context.Context
	cancel     context.CancelFunc
	registry   *registry
	descriptor ocispec.Descriptor
	endpoints  []*endpoint // that have not failed; the first is asked
	failed     failures    // of those that have
	offset     int64       // of the next byte
	end        int64       // where the present answer ends, if it has a part of the rest alone; or 0
	broken     int         // how often in a row a connection broke without a byte
	body       io.ReadCloser
}

// start opens the blob at the first endpoint that has it.
func (b *blobReader) start() error {
	for {
		err := b.open()
		if err != nil && b.body != nil { // it has answered, and what comes before the offset has broken
			err = b.reopen(err)
		}
		if err == nil || !b.leave(err) {
			return b.withTried(err)
		}
	}
}

// leave gives an endpoint up, and reports whether there is another.
func (b *blobReader) leave(err error) bool {
	if len(b.endpoints) == 1 || b.ctx.Err() != nil {
		return false
	}
	left := b.endpoints[0]
	b.failed[left] = err
	b.endpoints, b.broken = b.endpoints[1:], 0
	left.access.Report(fmt.Sprintf("%v: asking %s for %s", err, b.endpoints[0].domain, b.descriptor.Digest))
	return true
}

// withTried is the error of the last endpoint, with those of the ones before it.
func (b *blobReader) withTried(err error) error {
	if err == nil || b.ctx.Err() != nil || len(b.failed) == 0 {
		return err
	}
	b.failed[b.endpoints[0]] = err
	return b.registry.tried(b.failed)
}

// open asks for the rest of the blob. A registry that does not know ranges sends it from the beginning.
func (b *blobReader) open() error {
	header, e := http.Header{}, b.endpoints[0]
	b.end = 0
	if b.offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.offset))
	}
	path := "blobs/" + b.descriptor.Digest.String()
	response, err := e.get(b.ctx, path, header, http.StatusOK, http.StatusPartialContent) //nolint:bodyclose // see body
	if err != nil {
		return err
	}
	b.close()
	b.body = response.Body
	from := b.offset
	if response.StatusCode == http.StatusOK {
		from = 0
	} else if err := b.checkRange(response.Header.Get("Content-Range")); err != nil {
		return err
	}
	if err := b.checkLength(response, from); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, b.body, b.offset-from); err != nil {
		return e.failure(b.ctx, err)
	}
	return nil
}

// checkRange checks that an answer goes on where it was asked to (RFC 9110, section 14.4).
func (b *blobReader) checkRange(got string) error {
	if strings.HasPrefix(got, fmt.Sprintf("bytes %d-", b.offset)) {
		return nil
	}
	err := fmt.Errorf("continuing %s at byte %d: %s sends %q", b.descriptor.Digest, b.offset, b.endpoints[0].domain, got)
	return fault.New(fault.Corrupt, err, "")
}

// checkLength checks that an answer from a byte on has the rest of the blob. One with a range may have a part of that
// alone (RFC 9110, section 15.3.7).
func (b *blobReader) checkLength(response *http.Response, from int64) error {
	end := from + response.ContentLength
	switch {
	case response.ContentLength < 0 || end == b.descriptor.Size:
		return nil
	case response.StatusCode == http.StatusPartialContent && from < end && end < b.descriptor.Size:
		b.end = end
		return nil
	}
	return b.wrongSize(fmt.Sprintf("has %d bytes", end))
}

func (b *blobReader) wrongSize(has string) error {
	err := fmt.Errorf("%s: the blob %s %s, and the manifest says %d",
		b.endpoints[0].domain, b.descriptor.Digest, has, b.descriptor.Size)
	return fault.New(fault.Corrupt, err, "")
}

// Read reads on in another connection when one breaks, or sends nothing for too long; and in the end at another
// endpoint, which has the same bytes under the same digest.
func (b *blobReader) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.offset += int64(n)
		switch {
		case b.offset > b.descriptor.Size:
			return 0, b.wrongSize("has more bytes")
		case n > 0:
			b.broken = 0
			return n, nil // an error comes again with the next Read
		case b.ctx.Err() != nil:
			return 0, context.Cause(b.ctx)
		case err == nil:
			return 0, nil
		case b.offset == b.descriptor.Size:
			return 0, io.EOF // whatever becomes of the connection
		}
		if err := b.goOn(err); err != nil {
			return 0, err
		}
	}
}

// goOn opens the rest of a download that broke for a reason.
func (b *blobReader) goOn(reason error) error {
	for {
		err := b.reopen(reason)
		if err == nil {
			return nil
		}
		if !b.leave(err) {
			return b.withTried(err)
		}
		if reason = b.open(); reason == nil {
			return nil
		}
	}
}

// reopen waits a little and asks for the rest, until it breaks too often.
func (b *blobReader) reopen(reason error) error {
	if settled(reason) {
		return reason
	}
	if b.end > 0 && b.offset == b.end { // nothing has broken
		if reason = b.open(); reason == nil || settled(reason) {
			return reason
		}
	}
	limits := b.endpoints[0].access.Limits
	for b.broken < limits.Repeat {
		b.close()
		if err := sleep(b.ctx, limits.Pause<<b.broken); err != nil {
			return err
		}
		b.broken++
		err := b.open()
		if err == nil {
			return nil
		}
		if settled(err) {
			return err
		}
		reason = err
	}
	return b.final(reason)
}

// settled reports whether a registry that is asked again would say the same: its bytes are wrong, or it has refused, which
// requests are repeated for by themselves as often as that may help.
func settled(err error) bool {
	var r *refusal
	return errors.As(err, &r) || fault.KindOf(err) == fault.Corrupt
}

// final is the error of a download that broke for good. An answer of no known length that is merely too short stays an
// early end, for whoever checks the bytes.
func (b *blobReader) final(err error) error {
	switch {
	case b.ctx.Err() != nil:
		return context.Cause(b.ctx)
	case err == io.EOF: //nolint:errorlint // wrapped, it is the end of a connection
		return io.ErrUnexpectedEOF
	}
	err = b.endpoints[0].failure(b.ctx, err)
	return fmt.Errorf("downloading %s, broken %d times at byte %d of %d: %w",
		b.descriptor.Digest, b.broken+1, b.offset, b.descriptor.Size, err)
}

// close ends the present request.
func (b *blobReader) close() {
	if b.body != nil {
		_ = b.body.Close()
	}
}

// Close ends the download.
func (b *blobReader) Close() error {
	b.cancel()
	return nil
}
