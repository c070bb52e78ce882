package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sort"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
)

const (
	namesDir   = "names"
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
	return s.home.Lock(ctx, "image-"+id)
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
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		var name Name
		if err := readJSON(s.path(namesDir, entry.Name()), &name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Name < names[j].Name })
	return names, nil
}

// CheckName tells whether Tag would give the name to an image: a name is free, stands for the same digest already, or
// came from the same reference, whose tag has moved on.
func (s *Images) CheckName(name Name) error {
	var old Name
	err := readJSON(s.namePath(name.Name), &old)
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

// Tag gives an image a name. The errors are those of CheckName.
func (s *Images) Tag(ctx context.Context, name Name) error {
	held, err := s.home.Lock(ctx, "names")
	if err != nil {
		return err
	}
	defer held.Release()
	if err := s.CheckName(name); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path(namesDir), 0o700); err != nil {
		return fmt.Errorf("naming the image %q: %w", name.Name, err)
	}
	name.Schema = Schema
	return writeJSON(s.namePath(name.Name), name)
}

// Untag takes a name away. A name that does not exist is no error.
func (s *Images) Untag(name string) error {
	err := os.Remove(s.namePath(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the name %q: %w", name, err)
	}
	return nil
}

// Find returns the image that a user means by query. It is, in this order: a name; the full form of a name, which the
// caller gives as canonical ("" for none); the end of exactly one name, after a "/"; an id, or the beginning of one.
func (s *Images) Find(query, canonical string) (Image, error) {
	names, err := s.Names()
	if err != nil {
		return Image{}, err
	}
	for _, match := range []func(string) bool{
		func(name string) bool { return name == query },
		func(name string) bool { return canonical != "" && name == canonical },
		func(name string) bool { return strings.HasSuffix(name, "/"+query) },
	} {
		id, err := unique(query, names, match)
		if err != nil {
			return Image{}, err
		}
		if id != "" {
			return s.Get(id)
		}
	}
	return s.findByID(query)
}

// unique returns the id that all matching names agree on, or "" if none matches.
func unique(query string, names []Name, match func(string) bool) (string, error) {
	ids := map[string]bool{}
	var found []string
	for _, name := range names {
		if match(name.Name) {
			ids[name.ID] = true
			found = append(found, name.Name)
		}
	}
	if len(ids) > 1 {
		err := fmt.Errorf("finding image %q: it may be any of %s", query, strings.Join(found, ", "))
		return "", fault.New(fault.NotFound, err, "give the full name")
	}
	for id := range ids {
		return id, nil
	}
	return "", nil
}

func (s *Images) findByID(query string) (Image, error) {
	images, err := s.List()
	var found []Image
	for _, image := range images {
		if len(query) >= minPrefix && strings.HasPrefix(image.ID, query) || image.Digest == query {
			found = append(found, image)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		err = fmt.Errorf("finding image %q: %d images match", query, len(found))
		return Image{}, fault.New(fault.NotFound, err, "`banger image ls` lists them")
	}
	err = errors.Join(fmt.Errorf("finding image %q: there is none of that name here", query), err)
	return Image{}, fault.New(fault.NotFound, err, "`banger image ls` lists the images, `banger image pull` adds one")
}
