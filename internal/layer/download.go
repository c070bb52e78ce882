package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// download reads a blob and keeps count and digest of what comes.
type download struct {
	blob   Blob
	want   digest.Digest   // of the blob; "" if the source does not know it
	got    digest.Digester // nil without want
	count  countingReader
	source io.ReadCloser
	flow   *flow // the blob's bytes, counted and hashed
	stop   func() bool
}

// countingReader counts what it reads, and remembers the error that is not the end.
type countingReader struct {
	io.Reader
	n   int64
	err error
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func newDownload(ctx context.Context, b Blob) (*download, error) {
	d := &download{blob: b}
	var through []io.Writer
	if b.Digest != "" {
		want, err := parseDigest("digest", b.Digest)
		if err != nil {
			return nil, err
		}
		d.want, d.got = want, want.Algorithm().Digester()
		through = append(through, d.got.Hash())
	}
	source, err := b.Open(ctx)
	if err != nil {
		return nil, err
	}
	d.source = source
	d.count.Reader = source
	if b.Size >= 0 {
		d.count.Reader = io.LimitReader(source, b.Size+1) // one more shows that there is more
	}
	d.stop = context.AfterFunc(ctx, func() { _ = source.Close() }) // a Read that blocks ends
	d.flow = newFlow(contextReader{ctx, &d.count}, through...)
	return d, nil
}

// Close ends the download.
func (d *download) Close() {
	d.stop()
	_ = d.source.Close()
	d.flow.Close()
}

// unpack writes the blob's tar to the file and returns its entries, if both digests are right.
func (d *download) unpack(file *os.File, id digest.Digest) (List, error) {
	hash := id.Algorithm().Hash()
	entries, parseErr, err := d.decompress(file, hash)
	var write writeError
	if errors.As(err, &write) {
		return List{}, noSpace(fmt.Errorf("writing the layer: %w", write.error))
	}
	// The blob's own digest comes first: if that is wrong, what went wrong behind it says nothing.
	if err := d.check(); err != nil {
		return List{}, err
	}
	if err != nil {
		return List{}, badContent(err)
	}
	if got := digest.NewDigest(id.Algorithm(), hash); got != id {
		err := fmt.Errorf("checking it: the uncompressed layer has the digest %s", got)
		return List{}, fault.New(fault.Corrupt, err, "")
	}
	return entries, parseErr
}

// decompress passes the tar to the file and the hash, and parses it. parseErr is about the tar alone.
func (d *download) decompress(file, hash io.Writer) (entries List, parseErr, err error) {
	content, err := decompress(d.flow)
	if err != nil {
		return List{}, nil, err
	}
	f := newFlow(content, file, hash)
	entries, parseErr = readEntries(f)
	err = f.drain()
	if errors.As(err, new(writeError)) {
		_ = d.source.Close() // nobody waits for the rest
	}
	f.Close()
	_ = content.Close()
	return entries, parseErr, err
}

// badContent is a blob that has the right digest but cannot be decompressed.
func badContent(err error) error {
	if fault.KindOf(err) == fault.Unsupported {
		return err
	}
	return fault.New(fault.Corrupt, fmt.Errorf("decompressing it: %w", err), "")
}

// check compares the blob with its size and digest, after reading the rest of it.
func (d *download) check() error {
	err := d.flow.drain()
	if d.count.err != nil && !errors.Is(d.count.err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("fetching it after %d bytes: %w", d.count.n, d.count.err)
	}
	if d.blob.Size >= 0 && d.count.n > d.blob.Size {
		return corrupt("the source sends more than the %d bytes that it announced", d.blob.Size)
	}
	if d.blob.Size >= 0 && d.count.n < d.blob.Size {
		return corrupt("the source sent %d of %d bytes", d.count.n, d.blob.Size)
	}
	if err != nil {
		return corrupt("the source ended after %d bytes: %w", d.count.n, err)
	}
	if d.got != nil && d.got.Digest() != d.want {
		return corrupt("its %d bytes have the digest %s instead of %s", d.count.n, d.got.Digest(), d.want)
	}
	return nil
}

func corrupt(format string, args ...any) error {
	err := fmt.Errorf("checking it: "+format, args...)
	return fault.New(fault.Corrupt, err, "the download broke, or the source is damaged: try again")
}
