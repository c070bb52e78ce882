// Package store keeps banger's images, and the directory below which everything of banger lives.
//
// Everything is plain files. What is published appears by one rename, after its bytes are on the disk, so that a
// process killed at any point leaves either all of it or none; what it leaves below tmp/ is removed by the next one.
package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

// Home is BANGER_HOME: the directory that holds all of banger's state.
type Home struct {
	dir string
}

// OpenHome makes the directory, private to the user, if it does not exist.
func OpenHome(dir string) (*Home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening banger's home %q: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		err = fmt.Errorf("making banger's home: %w", err)
		return nil, fault.New(fault.Failure, err, "set BANGER_HOME to a directory of your own")
	}
	return &Home{dir: dir}, nil
}

// Dir returns the absolute path of the home.
func (h *Home) Dir() string { return h.dir }

// Path joins elements to the home's path.
func (h *Home) Path(elem ...string) string {
	return filepath.Join(append([]string{h.dir}, elem...)...)
}

// Lock waits for the named lock of this home.
func (h *Home) Lock(ctx context.Context, name string) (*lock.Lock, error) {
	return lock.Acquire(ctx, h.Path("locks", name))
}

// Stage is a private directory of one piece of work. It is on the same file system as everything that is published.
type Stage struct {
	Dir  string
	lock *lock.Lock
}

// guard is held while directories below parent are made and removed: under it, each of them is locked by a living
// process, or is a dead one's.
func guard(ctx context.Context, parent string) (*lock.Lock, error) {
	return lock.Acquire(ctx, filepath.Join(parent, lockName))
}

// NewStage makes an empty directory below tmp/, and removes those whose process has died.
func (h *Home) NewStage(ctx context.Context) (*Stage, error) {
	return NewPrivate(ctx, h.Path("tmp"), "")
}

// NewPrivate makes the directory parent/name, locked for as long as this process lives; an empty name gets a random
// one. It first removes the directories below parent whose process has died. An existing name is fs.ErrExist.
func NewPrivate(ctx context.Context, parent, name string) (*Stage, error) {
	guarded, err := guard(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer guarded.Release()
	if err := sweep(parent); err != nil {
		return nil, err
	}
	dir, err := makePrivate(parent, name)
	if err != nil {
		return nil, fmt.Errorf("making a private directory: %w", err)
	}
	held, err := lock.Try(filepath.Join(dir, lockName))
	if err != nil || held == nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("locking the new directory %q: %w", dir, err)
	}
	return &Stage{Dir: dir, lock: held}, nil
}

const lockName = ".lock"

func makePrivate(parent, name string) (string, error) {
	if name == "" {
		return os.MkdirTemp(parent, "")
	}
	dir := filepath.Join(parent, name)
	return dir, os.Mkdir(dir, 0o700)
}

// sweep removes the directories below parent that no living process has locked. The caller holds the guard.
func sweep(parent string) error {
	return eachPrivate(parent, func(dir string) {
		if !lock.Held(filepath.Join(dir, lockName)) {
			_ = os.RemoveAll(dir)
		}
	})
}

func eachPrivate(parent string, do func(dir string)) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			do(filepath.Join(parent, entry.Name()))
		}
	}
	return nil
}

// Work is what a piece of work has below tmp/.
type Work struct {
	Dir   string
	Alive bool // its process lives; if not, the next NewStage removes it
}

// Work returns what is below tmp/.
func (h *Home) Work(ctx context.Context) ([]Work, error) {
	guarded, err := guard(ctx, h.Path("tmp"))
	if err != nil {
		return nil, err
	}
	defer guarded.Release()
	var all []Work
	err = eachPrivate(h.Path("tmp"), func(dir string) {
		all = append(all, Work{Dir: dir, Alive: lock.Held(filepath.Join(dir, lockName))})
	})
	return all, err
}

// Sweep removes what processes that have died left below tmp/.
func (h *Home) Sweep(ctx context.Context) error {
	guarded, err := guard(ctx, h.Path("tmp"))
	if err != nil {
		return err
	}
	defer guarded.Release()
	return sweep(h.Path("tmp"))
}

// discard moves a directory out of its place, in one step, and removes it, as well as what dead processes left below tmp/. It
// takes no space, so that it works on a full disk. A directory that is not there is no error.
func (h *Home) discard(ctx context.Context, dir string) error {
	guarded, err := guard(ctx, h.Path("tmp"))
	if err != nil {
		return err
	}
	defer guarded.Release()
	if err := sweep(h.Path("tmp")); err != nil {
		return err
	}
	grave := h.Path("tmp", rand.Text())
	if err := os.Rename(dir, grave); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.RemoveAll(grave)
}

// Path joins elements to the stage's path.
func (s *Stage) Path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}

// Close removes the directory and all in it.
func (s *Stage) Close() error {
	defer s.lock.Release()
	// Not to be cancelled: what was begun is to be cleaned up.
	guarded, err := guard(context.Background(), filepath.Dir(s.Dir))
	if err != nil {
		return err
	}
	defer guarded.Release()
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("removing %q: %w", s.Dir, err)
	}
	return nil
}
