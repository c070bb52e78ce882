// Package lock keeps processes out of each other's way: advisory locks (flock(2)) on files, with a wait that can be
// cancelled. The kernel releases a lock when its holder dies, however it dies, so a lock that is free has no living
// holder. Lock files are left in place: removing one would let two processes hold locks on different files of one name.
package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// poll is how often a taken lock is tried again. flock(2) itself cannot be cancelled.
const poll = 25 * time.Millisecond

// Lock is a held lock.
type Lock struct {
	file *os.File
}

// Acquire waits until the caller holds the lock on the file at path, or ctx ends. The file and its directory are made
// if they do not exist.
func Acquire(ctx context.Context, path string) (*Lock, error) { return wait(ctx, path, Try) }

// AcquireIn is Acquire for a file of a directory that may be removed while somebody waits for the lock: it is not made
// anew, but fs.ErrNotExist. The lock is one on the file that is at the path in the end.
func AcquireIn(ctx context.Context, dir, file string) (*Lock, error) {
	return wait(ctx, filepath.Join(dir, file), tryCurrent)
}

// Share waits until the caller holds the lock on the file at path together with others that share it, or ctx ends. While
// anybody does, nobody gets the lock alone. The file and its directory are made if they do not exist.
func Share(ctx context.Context, path string) (*Lock, error) { return wait(ctx, path, tryShare) }

// AcquireDir is Acquire for a directory itself, where a lock file would be litter in somebody else's place. The directory
// is made, for its owner alone, if it does not exist.
func AcquireDir(ctx context.Context, dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory to lock: %w", err)
	}
	return wait(ctx, dir, func(dir string) (*Lock, error) { return try(dir, os.O_RDONLY|syscall.O_DIRECTORY) })
}

// Hold waits, however long, until the caller has an open file's lock, alone. The lock ends when the file is closed.
func Hold(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("locking %q: %w", file.Name(), err)
		}
	}
}

func wait(ctx context.Context, path string, try func(string) (*Lock, error)) (*Lock, error) {
	for {
		l, err := try(path)
		if l != nil || err != nil {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the lock %q: %w", path, context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

// Try takes the lock if it is free, and returns nil without an error if another holds it.
func Try(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the lock's directory: %w", err)
	}
	return try(path, os.O_CREATE|os.O_RDWR)
}

func tryShare(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the lock's directory: %w", err)
	}
	return flock(path, os.O_CREATE|os.O_RDWR, syscall.LOCK_SH)
}

func try(path string, flags int) (*Lock, error) { return flock(path, flags, syscall.LOCK_EX) }

// flock takes a lock (flock(2)) of a kind on a file that is opened with flags, or returns nil without an error if another is
// in the way.
func flock(path string, flags, kind int) (*Lock, error) {
	file, err := os.OpenFile(path, flags|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), kind|syscall.LOCK_NB)
	if err == nil {
		return &Lock{file: file}, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("locking %q: %w", path, err)
}

// tryCurrent is try, and nil also for the lock of a file that has been replaced since it was opened.
func tryCurrent(path string) (*Lock, error) {
	l, err := try(path, os.O_CREATE|os.O_RDWR)
	if l == nil || l.isAt(path) {
		return l, err
	}
	l.Release()
	return nil, nil
}

func (l *Lock) isAt(path string) bool {
	mine, err := l.file.Stat()
	current, statErr := os.Stat(path)
	return err == nil && statErr == nil && os.SameFile(mine, current)
}

// Held reports whether a living process holds the lock. It does not get in anybody's way: who waits for the lock waits no
// longer, and a file that is not there is not made.
func Held(path string) bool { return taken(path, syscall.LOCK_SH) }

// Shared is Held, and reports also a lock that some share. Who tries to get the lock in the very moment of the question
// may find it taken.
func Shared(path string) bool { return taken(path, syscall.LOCK_EX) }

// taken reports whether a lock is in the way of one of a kind.
func taken(path string, kind int) bool {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer release(file)
	err = syscall.Flock(int(file.Fd()), kind|syscall.LOCK_NB)
	return errors.Is(err, syscall.EWOULDBLOCK)
}

// Release gives the lock up. A second call does nothing.
func (l *Lock) Release() { release(l.file) }

// release unlocks and closes a file. Closing alone would leave the lock to a child that has not executed its program yet,
// for that moment.
func release(file *os.File) {
	_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	_ = file.Close()
}
