package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Gunzip starts a program of the host that decompresses gzip from stdin to stdout and then ends. Both stay the caller's,
// and may be closed when Gunzip returns.
type Gunzip func(ctx context.Context, stdin, stdout *os.File) (Process, error)

// Process is a program that runs.
type Process interface {
	Kill()       // ends it at once, unless it has ended
	Wait() error // waits for its end; an exit code that is not 0 is an error
}

// worthProgram is how large a blob is, in bytes, for which starting a program takes less time than it saves.
const worthProgram = 1 << 20

// pipeSize is what is asked of the pipes to and from a program, in bytes. It is the most that the kernel gives without
// privileges (fs.pipe-max-size in proc(5)); with the usual 64 KiB, much of the program's speed is lost to waiting.
const pipeSize = 1 << 20

// programError says that a program did not do what Go's own decompression is then asked to do.
type programError struct{ error }

func (e programError) Unwrap() error { return e.error }

// program reads what a program makes of a source.
type program struct {
	output  *os.File
	process Process
	fed     chan struct{} // closed when the source is not read any more
}

// startProgram starts to feed the source to a program. The caller closes what it returns; before that, it must see to it
// that a source that may block does not.
func startProgram(ctx context.Context, gunzip Gunzip, source io.Reader) (*program, error) {
	stdin, input, err := pipe()
	if err != nil {
		return nil, err
	}
	output, stdout, err := pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), input.Close())
	}
	process, err := gunzip(ctx, stdin, stdout)
	_, _ = stdin.Close(), stdout.Close()
	if err != nil {
		_, _ = input.Close(), output.Close()
		return nil, err
	}
	p := &program{output: output, process: process, fed: make(chan struct{})}
	go func() {
		defer close(p.fed)
		_, _ = io.Copy(input, source) // what of it failed, the source or the program will tell
		_ = input.Close()
	}()
	return p, nil
}

// pipe returns the two ends of a large pipe.
func pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	if raw, err := w.SyscallConn(); err == nil { // a small pipe is only slower
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
	return r, w, nil
}

// Read returns io.EOF when the program has ended well and no longer reads its source.
func (p *program) Read(data []byte) (int, error) {
	n, err := p.output.Read(data)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	<-p.fed
	if err := p.process.Wait(); err != nil {
		return 0, programError{err}
	}
	return 0, io.EOF
}

// Close ends the program.
func (p *program) Close() error {
	p.process.Kill()
	<-p.fed
	_ = p.process.Wait()
	return p.output.Close()
}
