package oci

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/internal/fault"
)

// stdinPath stands for the standard input where a FILE is expected.
const stdinPath = "-"

// copyBuffer is how much is read at once, in bytes.
const copyBuffer = 1 << 20

// input is where an archive comes from.
type input struct {
	what string    // in words, for errors
	hint string    // what to say of something that is no tar
	sum  io.Writer // a hash of what is in the archive, uncompressed; nil if nobody wants to know
	temp string    // directory for what has to be unpacked
	told func(bytes int64, done bool)
}

// openFile opens a file, or the standard input for "-", as one that is not compressed and can be read at any place. A
// plain file is that itself; anything else is unpacked into a file without a name, which is gone when it is closed, or
// when banger dies.
func (in input) openFile(ctx context.Context, name string, stdin io.Reader) (*os.File, error) {
	if name == stdinPath {
		return in.spoolStdin(ctx, stdin)
	}
	file, err := in.open(name)
	if err != nil {
		return nil, err
	}
	var head [magicSize]byte
	n, _ := file.ReadAt(head[:], 0)
	if compressionOf(head[:n]) == uncompressed {
		return file, in.hashPlain(ctx, file)
	}
	defer func() { _ = file.Close() }()
	return in.spool(ctx, file)
}

func (in input) open(name string) (*os.File, error) {
	// A FIFO without a writer would block, and nothing could end that.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, fmt.Errorf("opening the %s: %w", in.what, err), "")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the %s: %w", in.what, err)
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		return file, nil
	}
	_ = file.Close()
	err = fmt.Errorf("opening the %s: %q is no file", in.what, name)
	hint := "for what comes through a pipe write - for the FILE"
	if info != nil && info.IsDir() {
		hint = "for a directory use oci:DIR, or dir:DIR for one of skopeo's"
	}
	return nil, fault.New(fault.Unsupported, err, hint)
}

// hashPlain closes the file if it fails.
func (in input) hashPlain(ctx context.Context, file *os.File) error {
	if in.sum == nil {
		return nil
	}
	_, err := io.CopyBuffer(in.sum, contextReader{ctx, file}, make([]byte, copyBuffer))
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("reading the %s: %w", in.what, err)
	}
	return nil
}

func (in input) spoolStdin(ctx context.Context, stdin io.Reader) (*os.File, error) {
	if stdin == nil {
		err := fmt.Errorf("opening the %s: there is no standard input here to read it from", in.what)
		return nil, fault.New(fault.Usage, err, "only `banger image pull` reads its input; pull the image first, with --name")
	}
	source := interruptible(ctx, stdin)
	defer func() { _ = source.Close() }()
	file, err := in.spool(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("reading the standard input: %w", err)
	}
	return file, nil
}

// interruptible returns a reader that ends with ctx even where a Read of r blocks, as one of a terminal or a pipe does. Closed,
// it reads no more of r than it has begun to.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(in, struct{ io.Reader }{r}, make([]byte, copyBuffer))
		_ = in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { _ = out.CloseWithError(context.Cause(ctx)) })
	return out
}

// spool unpacks what r has into a file without a name.
func (in input) spool(ctx context.Context, r io.Reader) (*os.File, error) {
	noted := &notedReader{Reader: contextReader{ctx, r}}
	source, end, err := decompress(bufio.NewReaderSize(noted, copyBuffer))
	if err != nil {
		return nil, in.unpackError(ctx, noted, 0, err)
	}
	defer end()
	beginning := bufio.NewReaderSize(source, copyBuffer)
	if err := in.checkBeginning(beginning); err != nil {
		return nil, err
	}
	unpacked, err := os.CreateTemp(in.temp, "banger-archive-")
	if err != nil {
		return nil, fmt.Errorf("unpacking the %s: %w", in.what, err)
	}
	_ = os.Remove(unpacked.Name())
	// A mebibyte of zeros is a kibibyte of gzip: the end of ctx has to be noticed on this side as well.
	counted := &countingReader{Reader: contextReader{ctx, beginning}, told: in.told}
	n, err := io.CopyBuffer(in.through(unpacked), counted, make([]byte, copyBuffer))
	if err == nil {
		_, err = unpacked.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = unpacked.Close()
		return nil, in.unpackError(ctx, noted, n, err)
	}
	in.told(n, true)
	return unpacked, nil
}

// countingReader tells how much has been read.
type countingReader struct {
	io.Reader
	n    int64
	told func(bytes int64, done bool)
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	r.told(r.n, false)
	return n, err
}

// checkBeginning refuses what is no tar before all of it is kept: it may have no end.
func (in input) checkBeginning(r *bufio.Reader) error {
	head, err := r.Peek(tarBlock)
	if err != nil {
		return nil //nolint:nilerr // a short one, or an error that comes again
	}
	_, err = tar.NewReader(bytes.NewReader(head)).Next()
	if errors.Is(err, tar.ErrHeader) {
		return fault.New(fault.Unsupported, fmt.Errorf("reading the %s: it is no tar: %w", in.what, err), in.hint)
	}
	return nil
}

// through returns what writes to the file and the hash.
func (in input) through(file *os.File) io.Writer {
	if in.sum == nil {
		return struct{ io.Writer }{file}
	}
	return io.MultiWriter(file, in.sum)
}

func (in input) unpackError(ctx context.Context, source *notedReader, n int64, err error) error {
	if fault.KindOf(err) != fault.Failure {
		return fmt.Errorf("unpacking the %s: %w", in.what, err)
	}
	err = fmt.Errorf("unpacking the %s after %d bytes: %w", in.what, n, err)
	switch {
	case ctx.Err() != nil, source.err != nil:
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(fault.NoSpace, err, "free some space in "+in.temp+", or unpack the "+in.what+" elsewhere")
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		err = fmt.Errorf("%w: windows of zstd may have at most %d MiB", err, maxWindow>>20)
		return fault.New(fault.Unsupported, err, "unpack it on the way: zstd -dc --long=31 FILE | banger image pull docker-archive:- (or oci-archive:-, tar:-)")
	}
	return fault.New(fault.Corrupt, err, "the "+in.what+" is incomplete or damaged")
}

// notedReader remembers the error of its source, as opposed to one of what is made of it.
type notedReader struct {
	io.Reader
	err error
}

func (r *notedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// contextReader ends with ctx.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
