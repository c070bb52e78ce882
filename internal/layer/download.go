package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
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
	begun  *beginning // nil if nothing of the blob is to be kept
	flow   *flow      // the blob's bytes, counted and hashed
	stop   func() bool
	gunzip Gunzip // nil has Go decompress
	helped bool   // a program decompressed
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

func (s *Store) newDownload(ctx context.Context, id digest.Digest, b Blob) (_ *download, err error) {
	d := &download{blob: b}
	var through []io.Writer
	if b.Digest != "" {
		if d.want, err = parseDigest("digest", b.Digest); err != nil {
			return nil, err
		}
		d.got = d.want.Algorithm().Digester()
		through = append(through, d.got.Hash())
	}
	if d.got != nil && b.OpenAt != nil && b.Size >= worthKeeping {
		if d.begun, err = openBeginning(s.beginningPath(id, d.want), b.Size); err != nil {
			return nil, err
		}
		through = append(through, d.begun)
	}
	if d.source, err = b.from(ctx, d.begun); err != nil {
		d.keep(true)
		return nil, err
	}
	d.count.Reader = d.source
	if b.Size >= 0 {
		d.count.Reader = io.LimitReader(d.source, b.Size+1) // one more shows that there is more
	}
	d.stop = context.AfterFunc(ctx, func() { _ = d.source.Close() }) // a Read that blocks ends
	d.flow = newFlow(contextReader{ctx, &d.count}, through...)
	return d, nil
}

// keep keeps the beginning of the blob, or removes it.
func (d *download) keep(keep bool) {
	if d.begun != nil {
		d.begun.close(keep)
	}
}

// Close ends the download. What there is of the blob is kept only if more of it has to come, or a program failed to
// decompress it.
func (d *download) Close(err error) {
	d.stop()
	_ = d.source.Close()
	d.flow.Close()
	broken := d.count.n < d.blob.Size && fault.KindOf(err) != fault.NoSpace
	d.keep(err != nil && (broken || errors.As(err, new(programError))))
}

// unpack writes the blob's tar to the file and returns its entries, if both digests are right. What has the right digest
// is right, whatever else a program or the compression's own checksums say.
func (d *download) unpack(ctx context.Context, file *os.File, id digest.Digest) (List, error) {
	hash := id.Algorithm().Hash()
	entries, parseErr, err := d.decompress(ctx, file, hash)
	if write := new(writeError); errors.As(err, write) {
		return List{}, noSpace(fmt.Errorf("writing the layer: %w", write.error))
	}
	// The blob's own digest comes first: if that is wrong, what went wrong behind it says nothing.
	if err := d.check(); err != nil {
		return List{}, err
	}
	got := digest.NewDigest(id.Algorithm(), hash)
	if got == id {
		return entries, parseErr
	}
	if err != nil {
		return List{}, badContent(err)
	}
	err = fault.New(fault.Corrupt, fmt.Errorf("checking it: the uncompressed layer has the digest %s", got), "")
	if d.helped {
		return List{}, programError{err}
	}
	return List{}, err
}

// decompress passes the tar to the file and the hash, and parses it. parseErr is about the tar alone.
func (d *download) decompress(ctx context.Context, file *os.File, hash io.Writer) (entries List, parseErr, err error) {
	content, err := decompress(ctx, d.flow, d.gunzip, file)
	if err != nil {
		return List{}, nil, err
	}
	through := []io.Writer{hash}
	var blocks *ahead
	if p, ok := content.(*program); ok {
		d.helped, blocks = true, &p.ahead
	} else {
		out := &growing{ahead: ahead{file: file}}
		through, blocks = append(through, out), &out.ahead
	}
	f := newFlow(content, through...)
	entries, parseErr = readEntries(f)
	err = f.drain()
	if errors.As(err, new(writeError)) {
		_ = d.source.Close() // nobody waits for the rest
	}
	f.Close()
	_ = content.Close()
	if trimErr := blocks.trim(); err == nil && trimErr != nil {
		err = writeError{trimErr}
	}
	return entries, parseErr, err
}

// badContent is a blob that has the right digest but cannot be decompressed.
func badContent(err error) error {
	if fault.KindOf(err) == fault.Unsupported {
		return err
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = fmt.Errorf("decompressing it: %w: windows of zstd may have at most %d MiB", err, maxWindow>>20)
		return fault.New(fault.Unsupported, err, "compress the layer with a smaller window, such as zstd's own choice")
	}
	return fault.New(fault.Corrupt, fmt.Errorf("decompressing it: %w", err), "")
}

// check compares the blob with its size and digest, after reading the rest of it.
func (d *download) check() error {
	err := d.flow.drain()
	if write := new(writeError); errors.As(err, write) {
		return noSpace(fmt.Errorf("keeping the download: %w", write.error))
	}
	complete := d.count.n == d.blob.Size // what a source says behind the last byte means nothing
	if !complete && d.count.err != nil && !errors.Is(d.count.err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("fetching it after %d bytes: %w", d.count.n, d.count.err)
	}
	if d.blob.Size >= 0 && d.count.n > d.blob.Size {
		return corrupt("the source sends more than the %d bytes that it announced", d.blob.Size)
	}
	if d.blob.Size >= 0 && d.count.n < d.blob.Size {
		return corrupt("the source sent %d of %d bytes", d.count.n, d.blob.Size)
	}
	if !complete && err != nil {
		return corrupt("the source ended after %d bytes: %w", d.count.n, err)
	}
	if d.got != nil && d.got.Digest() != d.want && d.begun != nil && d.begun.had > 0 {
		return errBeginning
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
