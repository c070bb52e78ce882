package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/jsonfile"
	"github.com/banger-vm/banger/internal/lock"
)

const (
	namesDir   = "names"
	namesLock  = "names"
	nameSuffix = ".json"
	// minPrefix is the shortest part of an id that stands for it.
	minPrefix = 4
)

// Name says which image a name stands for.
type Name struct {
	Schema    int    `json:"schema"`
	Name      string `json:"name"`
	ID        string `json:"id"`
	Digest    string `json:"digest"`
	Reference string `json:"reference"` // what the image was pulled from
}

// LockImage waits for the right to make or remove the image.
func (s *Images) LockImage(ctx context.Context, id string) (*lock.Lock, error) {
	return s.home.Lock(ctx, lockOf(id))
}

func lockOf(id string) string { return "image-" + id }

// Use keeps the image, which need not be there, from being removed, for as long as something is made of it that is going
// to need it. It waits for a removal that is under way.
func (s *Images) Use(ctx context.Context, id string) (*lock.Lock, error) {
	return lock.Share(ctx, s.home.Path("locks", useOf(id)))
}

func useOf(id string) string { return "use-" + id }

// Busy reports whether somebody makes, exports or removes the image, or makes something of it.
func (s *Images) Busy(id string) bool {
	return lock.Held(s.home.Path("locks", lockOf(id))) || lock.Shared(s.home.Path("locks", useOf(id)))
}

func (s *Images) namePath(name string) string {
	return s.path(namesDir, url.PathEscape(name)+nameSuffix)
}

// Names returns all names, sorted.
func (s *Images) Names() ([]Name, error) {
	entries, err := os.ReadDir(s.path(namesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing image names: %w", err)
	}
	var names []Name
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), jsonfile.NewPrefix) {
			continue
		}
		var name Name
		err := jsonfile.Read(s.path(namesDir, entry.Name()), &name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Name < names[j].Name })
	return names, nil
}

// namesOf returns the names of one image, sorted.
func (s *Images) namesOf(id string) ([]string, error) {
	all, err := s.Names()
	var names []string
	for _, name := range all {
		if name.ID == id {
			names = append(names, name.Name)
		}
	}
	return names, err
}

// CheckName tells whether Tag would give the name to an image: a name is free, stands for the same digest already, or
// came from the same reference, whose tag has moved on.
func (s *Images) CheckName(name Name) error {
	var old Name
	err := jsonfile.Read(s.namePath(name.Name), &old)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old.Digest == name.Digest || old.Reference == name.Reference {
		return nil
	}
	err = fmt.Errorf("naming the image %q: the name is taken by %s (%s)", name.Name, old.Reference, old.Digest)
	return fault.New(fault.Conflict, err, "choose another with --name, or free it with `banger image rm "+name.Name+"`")
}

// Tag gives an image, whose lock the caller holds, a name. The errors are those of CheckName.
func (s *Images) Tag(ctx context.Context, name Name) error {
	held, err := s.home.Lock(ctx, namesLock)
	if err != nil {
		return err
	}
	defer held.Release()
	removeUnfinished(s.path(namesDir))
	if err := s.CheckName(name); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path(namesDir), 0o700); err != nil {
		return fmt.Errorf("naming the image %q: %w", name.Name, err)
	}
	name.Schema = Schema
	return jsonfile.Write(s.namePath(name.Name), name)
}

// removeUnfinished removes what a process that was killed has left in dir. The caller holds the lock of what is there.
func removeUnfinished(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), jsonfile.NewPrefix) {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}

// Untag takes a name of an image away. check, given the names of the image, may refuse that with an error: it is asked when
// nobody can name the image any more. A name that does not exist is no error.
func (s *Images) Untag(ctx context.Context, name, id string, check func(names []string) error) error {
	held, err := s.home.Lock(ctx, namesLock)
	if err != nil {
		return err
	}
	defer held.Release()
	names, err := s.namesOf(id)
	if err == nil {
		err = check(names)
	}
	if err != nil {
		return err
	}
	return s.untag(name)
}

func (s *Images) untag(name string) error {
	err := os.Remove(s.namePath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the name %q: %w", name, err)
	}
	return nil
}

// Match is what a query found: an image, which need not be readable, and the name that led to it ("" for an id).
type Match struct {
	ID   string
	Name string
}

// Find returns what a user means by query. It is, in this order: a name; the full form of a name, which the caller
// gives as canonical ("" for none); the end of exactly one name, after a "/"; an id, the beginning of one, or a digest.
func (s *Images) Find(query, canonical string) (Match, error) {
	names, err := s.Names()
	if err != nil {
		return Match{}, err
	}
	for _, match := range []func(string) bool{
		func(name string) bool { return name == query },
		func(name string) bool { return canonical != "" && name == canonical },
		func(name string) bool { return strings.HasSuffix(name, "/"+query) },
	} {
		found, err := unique(query, names, match)
		if err != nil || found.ID != "" {
			return found, err
		}
	}
	return s.findByID(query)
}

// unique returns the image that all matching names agree on, with the first of the names.
func unique(query string, names []Name, match func(string) bool) (Match, error) {
	var found Match
	var all []string
	ambiguous := false
	for _, name := range names {
		if !match(name.Name) {
			continue
		}
		all = append(all, name.Name)
		ambiguous = ambiguous || found.ID != "" && found.ID != name.ID
		if found.ID == "" {
			found = Match{ID: name.ID, Name: name.Name}
		}
	}
	if ambiguous {
		err := fmt.Errorf("finding image %q: it may be any of %s", query, strings.Join(all, ", "))
		return Match{}, fault.New(fault.Usage, err, "give the full name")
	}
	return found, nil
}

func (s *Images) findByID(query string) (Match, error) {
	ids, err := s.IDs()
	if err != nil {
		return Match{}, err
	}
	var found []string
	for _, id := range ids {
		if len(query) >= minPrefix && strings.HasPrefix(id, query) || s.hasDigest(id, query) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return Match{ID: found[0]}, nil
	case 0:
		err := fmt.Errorf("finding image %q: there is none of that name here", query)
		return Match{}, fault.New(fault.NotFound, err, "`banger image ls` lists the images, `banger image pull` adds one")
	}
	err = fmt.Errorf("finding image %q: %d images match", query, len(found))
	return Match{}, fault.New(fault.Usage, err, "give more of the id; `banger image ls` lists them")
}

func (s *Images) hasDigest(id, digest string) bool {
	image, err := s.Get(id)
	return err == nil && image.Digest == digest
}
