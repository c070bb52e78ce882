package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/lock"
)

// Files is the entry in registries.conf's credential-helpers that stands for the files (containers-registries.conf(5)).
const Files = "containers-auth.json"

// Store is every place where a user has credentials, in the order in which they are asked.
type Store struct {
	inline  string   // contents of a file, from the environment
	files   []string // paths, the first asked first
	target  string   // the file that Save writes
	helpers []helper // of registries.conf; Files among them stands for inline and files
	given   Credential
}

// Given is a store with nothing but these credentials, for every registry. Nothing can be saved in it.
func Given(c Credential) *Store { return &Store{given: c} }

// Target is where Save stores what no helper is for.
func (s *Store) Target() string { return s.target }

// Open returns the store of the user of this environment. helpers are those of registries.conf; none means Files.
//
// The files are $REGISTRY_AUTH_FILE alone, if it is set. Otherwise they are docker's config.json (in $DOCKER_CONFIG, or
// ~/.docker), and podman's auth.json, below $XDG_RUNTIME_DIR (or /run/containers/UID), and below $XDG_CONFIG_HOME (or
// ~/.config). Before all of them comes the text of $DOCKER_AUTH_CONFIG, as with docker.
func Open(getenv func(string) string, uid int, helpers []string) *Store {
	s := &Store{inline: getenv("DOCKER_AUTH_CONFIG")}
	for _, name := range helpers {
		s.helpers = append(s.helpers, helper(name))
	}
	if len(helpers) == 0 {
		s.helpers = []helper{Files}
	}
	if path := getenv("REGISTRY_AUTH_FILE"); path != "" {
		s.files, s.target = []string{path}, path
		return s
	}
	s.files = userFiles(getenv, uid)
	if len(s.files) > 0 {
		s.target = s.files[0]
	}
	return s
}

func userFiles(getenv func(string) string, uid int) []string {
	home := getenv("HOME")
	below := func(dir, fallback string, elements ...string) string {
		if dir == "" && fallback == "" {
			return ""
		}
		return filepath.Join(append([]string{orElse(dir, fallback)}, elements...)...)
	}
	var inHome, inConfig string
	if home != "" {
		inHome, inConfig = filepath.Join(home, ".docker"), filepath.Join(home, ".config")
	}
	files := []string{
		below(getenv("DOCKER_CONFIG"), inHome, "config.json"),
		filepath.Join("/run/containers", strconv.Itoa(uid), "auth.json"),
		below(getenv("XDG_CONFIG_HOME"), inConfig, "containers", "auth.json"),
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		files[1] = filepath.Join(dir, "containers", "auth.json")
	}
	return slices.DeleteFunc(files, func(path string) bool { return path == "" })
}

func orElse(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// Found is the answer to a search.
type Found struct {
	Credential
	// Problems are files and helpers that could not be read. They do not end a search: an image may need no login.
	Problems []error
}

// Places are the files and helpers that Find asks, in words.
func (s *Store) Places() []string {
	var places []string
	for _, h := range s.helpers {
		if h != Files {
			places = append(places, h.program())
			continue
		}
		if s.inline != "" {
			places = append(places, "$DOCKER_AUTH_CONFIG")
		}
		places = append(places, s.files...)
	}
	return places
}

// Find returns the credentials for a repository of a registry: HOST[:PORT]. Docker Hub is "docker.io", or one of its own
// hosts. The first place that has any decides, and in a file the entry that is most specific.
func (s *Store) Find(ctx context.Context, registry, repository string) Found {
	registry = canonical(registry)
	found := Found{Credential: s.given}
	for _, h := range s.helpers {
		if h == Files {
			s.findInFiles(ctx, registry, repository, &found)
		} else {
			found.ask(ctx, h, registry, h.program()+" (registries.conf)")
		}
		if !found.None() {
			return found
		}
	}
	return found
}

// ask asks a helper.
func (f *Found) ask(ctx context.Context, h helper, registry, source string) {
	c, err := h.get(ctx, registry)
	f.take(c, source, err)
}

func (f *Found) take(c Credential, source string, err error) {
	if err != nil {
		f.Problems = append(f.Problems, err)
		return
	}
	if !c.None() {
		c.Source = source
		f.Credential = c
	}
}

func (s *Store) findInFiles(ctx context.Context, registry, repository string, found *Found) {
	if s.inline != "" {
		c, err := parseContents("$DOCKER_AUTH_CONFIG", []byte(s.inline))
		found.search(ctx, c, err, "$DOCKER_AUTH_CONFIG", registry, repository)
	}
	for _, path := range s.files {
		if !found.None() {
			return
		}
		c, err := readContents(path)
		found.search(ctx, c, err, path, registry, repository)
	}
}

// search looks into a file and asks the helper that it names. As with docker, the helper comes before the entries.
func (f *Found) search(ctx context.Context, c *contents, err error, path, registry, repository string) {
	if err != nil {
		f.Problems = append(f.Problems, err)
		return
	}
	if name := c.helperFor(registry); name != "" {
		h := helper(name)
		f.ask(ctx, h, registry, fmt.Sprintf("%s (%s)", h.program(), path))
	}
	if f.None() {
		found, err := c.find(registry, repository)
		if err != nil {
			err = fmt.Errorf("reading credentials from %q: %w", path, err)
		}
		f.take(found, path, err)
	}
}

// Save stores the credentials of a registry, in the first place that Find would look, and returns that place in words.
func (s *Store) Save(ctx context.Context, registry string, c Credential) (place string, err error) {
	if h := s.helpers[0]; h != Files {
		return h.program(), h.store(ctx, registry, c)
	}
	if s.target == "" {
		return "", fmt.Errorf("storing credentials: neither HOME nor REGISTRY_AUTH_FILE is set")
	}
	held, err := lockFile(ctx, s.target)
	if err != nil {
		return "", err
	}
	defer held.Release()
	file, err := readContents(s.target)
	if err != nil {
		return "", err
	}
	stored, place := newEntry(c), s.target
	if name := file.helperFor(registry); name != "" {
		h := helper(name)
		if err := h.store(ctx, registry, c); err != nil {
			return "", err
		}
		stored, place = entry{}, fmt.Sprintf("%s (%s)", h.program(), s.target) // docker leaves an empty entry as well
	}
	return place, edit(s.target, func(auths map[string]json.RawMessage) (err error) {
		removeKeys(auths, registry)
		auths[serverOf(registry)], err = json.Marshal(stored)
		return err
	})
}

// lockFile keeps other logins from losing what this one writes. The lock is not beside the file: its directory is not
// banger's to litter.
func lockFile(ctx context.Context, path string) (*lock.Lock, error) {
	return lock.AcquireDir(ctx, filepath.Dir(path))
}

// removeKeys removes the entries of a registry as a whole. Those of its repositories stay.
func removeKeys(auths map[string]json.RawMessage, registry string) {
	for key := range auths {
		if canonicalKey(key) == registry {
			delete(auths, key)
		}
	}
}

// Erase removes the credentials of a registry from where Save stores them, and from every helper of registries.conf. It
// returns the places that had some.
func (s *Store) Erase(ctx context.Context, registry string) (places []string, err error) {
	for _, h := range s.helpers {
		if h == Files {
			removed, err := s.eraseFromFile(ctx, registry)
			places = append(places, removed...)
			if err != nil {
				return places, err
			}
			continue
		}
		had, err := h.erase(ctx, registry)
		if err != nil {
			return places, err
		}
		if had {
			places = append(places, h.program())
		}
	}
	return places, nil
}

func (s *Store) eraseFromFile(ctx context.Context, registry string) (places []string, err error) {
	file, err := readContents(s.target)
	if err != nil || s.target == "" {
		return nil, err
	}
	if name := file.helperFor(registry); name != "" {
		had, err := helper(name).erase(ctx, registry)
		if err != nil {
			return nil, err
		}
		if had {
			places = append(places, helper(name).program())
		}
	}
	if !file.has(registry) {
		return places, nil
	}
	held, err := lockFile(ctx, s.target)
	if err != nil {
		return places, err
	}
	defer held.Release()
	err = edit(s.target, func(auths map[string]json.RawMessage) error {
		removeKeys(auths, registry)
		return nil
	})
	if err == nil && len(places) == 0 {
		places = append(places, s.target)
	}
	return places, err
}

// Remaining are the registries below which, or at which, a file still has credentials: host/team of host.
func (s *Store) Remaining(ctx context.Context, registry string) []string {
	var places []string
	if found := s.Find(ctx, registry, ""); !found.None() {
		places = append(places, found.Source)
	}
	for _, path := range s.files {
		c, err := readContents(path)
		if err != nil {
			continue
		}
		for key := range c.Auths {
			if strings.HasPrefix(canonicalKey(key), registry+"/") {
				places = append(places, fmt.Sprintf("%s (for %s)", path, key))
			}
		}
	}
	return places
}
