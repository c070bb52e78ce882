package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/lock"
)

// Stored is what the store has of a layer.
type Stored struct {
	DiffID  string
	Size    int64     // bytes that it takes on the disk
	LastUse time.Time // when a Use of it began, or when it was written
	Partial bool      // a download that has not come to its end
	Busy    bool      // somebody uses or writes it
	file    string    // name of its file, or of that of the download
}

// List returns all that the store has, the least recently used first.
func (s *Store) List(ctx context.Context) ([]Stored, error) {
	dirs, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the layers: %w", err)
	}
	var list []Stored
	for _, dir := range dirs {
		algorithm := digest.Algorithm(dir.Name())
		if !algorithm.Available() {
			continue // the locks, for example
		}
		some, err := s.listOf(ctx, algorithm)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	slices.SortStableFunc(list, func(a, b Stored) int { return a.LastUse.Compare(b.LastUse) })
	return list, nil
}

// listOf lists the layers whose diff_ids are of an algorithm.
func (s *Store) listOf(ctx context.Context, algorithm digest.Algorithm) (list []Stored, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, algorithm.String()))
	if err != nil {
		return nil, fmt.Errorf("listing the layers: %w", err)
	}
	indexes := map[string]int64{} // sizes by diff_id
	for _, entry := range entries {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		hex, kind, _ := strings.Cut(entry.Name(), ".")
		id := digest.NewDigestFromEncoded(algorithm, hex)
		info, err := entry.Info()
		switch {
		case id.Validate() != nil || err != nil: // a stranger, or removed meanwhile
		case "."+kind == index:
			indexes[id.String()] = allocated(info)
		default:
			list = append(list, s.describe(id, info, kind != ""))
		}
	}
	for i := range list {
		if !list[i].Partial {
			list[i].Size += indexes[list[i].DiffID]
		}
	}
	return list, nil
}

func (s *Store) describe(id digest.Digest, file fs.FileInfo, unfinished bool) Stored {
	stored := Stored{
		DiffID: id.String(), Size: allocated(file), LastUse: file.ModTime(), Partial: unfinished, file: file.Name(),
	}
	stored.Busy = lock.Held(s.lockPath(id.Encoded())) || lock.Shared(s.usePath(id.Encoded()))
	if unfinished {
		return stored
	}
	if used, err := os.Stat(s.usePath(id.Encoded())); err == nil && used.ModTime().After(stored.LastUse) {
		stored.LastUse = used.ModTime()
	}
	return stored
}

// blockUnit is the unit of st_blocks, in bytes, whatever the file system's blocks are (stat(2)).
const blockUnit = 512

// allocated returns the bytes that a file takes on the disk.
func allocated(file fs.FileInfo) int64 {
	if stat, ok := file.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * blockUnit
	}
	return file.Size()
}

// removedAtOnce bounds how many layers are locked at the same time, each of which costs two open files.
const removedAtOnce = 64

// Remove removes layers, and returns those that it has removed. One that somebody uses (Use) or writes stays, and so
// does one that wanted reports: wanted is asked when nobody can begin to use the layers any more, so that it sees what
// the last user has made of them. A layer that is open somewhere stays readable there.
func (s *Store) Remove(ctx context.Context, layers []Stored, wanted func() (func(diffID string) bool, error)) ([]Stored, error) {
	var removed []Stored
	for batch := range slices.Chunk(layers, removedAtOnce) {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		gone, err := s.removeBatch(batch, wanted)
		removed = append(removed, gone...)
		if err != nil {
			return removed, fmt.Errorf("removing layers: %w", err)
		}
	}
	return removed, nil
}

func (s *Store) removeBatch(batch []Stored, wanted func() (func(string) bool, error)) (removed []Stored, err error) {
	var free []Stored
	for _, layer := range batch {
		id, err := parseDigest("diff_id", layer.DiffID)
		if err != nil {
			return nil, err
		}
		held, err := lock.Try(s.usePath(id.Encoded()))
		if err != nil {
			return nil, err
		}
		if held != nil {
			defer held.Release()
			free = append(free, layer)
		}
	}
	isWanted, err := wanted()
	if err != nil {
		return nil, err
	}
	for _, layer := range free {
		if isWanted(layer.DiffID) {
			continue
		}
		gone, err := s.remove(digest.Digest(layer.DiffID))
		if err != nil {
			return removed, err
		}
		if gone {
			removed = append(removed, layer)
		}
	}
	return removed, nil
}

// remove removes a layer unless somebody writes it. One that is not there is none.
func (s *Store) remove(id digest.Digest) (bool, error) {
	held, err := lock.Try(s.lockPath(id.Encoded()))
	if held == nil || err != nil {
		return false, err
	}
	defer held.Release()
	if _, err := os.Lstat(s.path(id)); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	s.drop(id)
	_, err = os.Lstat(s.path(id))
	if err == nil {
		return false, fmt.Errorf("the file of %s cannot be removed", id)
	}
	return true, nil
}

// RemovePartial removes downloads of List that have not come to their end and that nobody goes on with, or is about to since it
// uses the layer (Use), and returns those that it has removed.
func (s *Store) RemovePartial(ctx context.Context, layers []Stored) (removed []Stored, err error) {
	for _, layer := range layers {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		gone, err := s.removePartial(layer)
		if err != nil {
			return removed, fmt.Errorf("removing a partial download: %w", err)
		}
		if gone {
			removed = append(removed, layer)
		}
	}
	return removed, nil
}

// removePartial removes a download unless somebody uses or writes its layer. One that is not there is removed.
func (s *Store) removePartial(layer Stored) (bool, error) {
	id, err := parseDigest("diff_id", layer.DiffID)
	if err != nil {
		return false, err
	}
	unused, err := lock.Try(s.usePath(id.Encoded()))
	if unused == nil || err != nil {
		return false, err
	}
	defer unused.Release()
	held, err := lock.Try(s.lockPath(id.Encoded()))
	if held == nil || err != nil {
		return false, err
	}
	defer held.Release()
	err = os.Remove(filepath.Join(filepath.Dir(s.path(id)), layer.file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// Excess returns those of the layers, the least recently used first, without which the rest takes at most limit bytes.
func Excess(layers []Stored, limit int64) []Stored {
	var total int64
	for _, layer := range layers {
		total += layer.Size
	}
	oldest := slices.SortedStableFunc(slices.Values(layers), func(a, b Stored) int {
		return cmp.Or(a.LastUse.Compare(b.LastUse), strings.Compare(a.DiffID, b.DiffID))
	})
	for n, layer := range oldest {
		if total <= limit {
			return oldest[:n]
		}
		total -= layer.Size
	}
	return oldest
}
