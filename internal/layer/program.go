package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

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

// program is a program that makes a file of a source, and reads the file behind it. That costs one copy of the data, where
// reading it from a pipe and writing it costs three.
type program struct {
	ahead
	offset  int64 // of the next byte to read
	process Process
	ended   chan struct{}
	err     error // of the process, once ended is closed
}

// startProgram starts to feed the source to a program that writes to the file, which is empty. The caller closes what it
// returns; before that, it must see to it that a source that may block does not.
func startProgram(ctx context.Context, gunzip Gunzip, source io.Reader, file *os.File) (*program, error) {
	stdin, input, err := pipe()
	if err != nil {
		return nil, err
	}
	process, err := gunzip(ctx, stdin, file)
	_ = stdin.Close()
	if err != nil {
		_ = input.Close()
		return nil, err
	}
	p := &program{ahead: ahead{file: file}, process: process, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_, _ = io.Copy(input, source) // what of it failed, the source or the program will tell
		_ = input.Close()
		p.err = process.Wait()
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

// Read waits for what the program writes. io.EOF says that the program has ended well, and no longer reads its source.
func (p *program) Read(data []byte) (int, error) {
	for {
		ended := p.hasEnded() // before the reading: what the program wrote last is to be read
		n, err := p.file.ReadAt(data, p.offset)
		p.offset += int64(n)
		p.reach(p.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if n == len(data) || n > 0 && ended {
			return n, nil
		}
		if n > 0 || !ended {
			if p.pause(); n > 0 {
				return n, nil
			}
			continue
		}
		if p.err != nil {
			return 0, programError{p.err}
		}
		return 0, io.EOF
	}
}

func (p *program) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// pause waits for a program that is slower than its reader.
func (p *program) pause() {
	select {
	case <-p.ended:
	case <-time.After(time.Millisecond):
	}
}

// Close ends the program.
func (p *program) Close() error {
	p.process.Kill()
	<-p.ended
	return nil
}
