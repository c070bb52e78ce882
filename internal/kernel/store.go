package kernel

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Names of the store that are no kernels. A kernel's name cannot begin with a dot.
const (
	lockFile   = ".lock"
	tempPrefix = ".tmp-"
)

// Store is a directory of kernels. Any number of processes may use it at once.
type Store struct {
	dir string
}

// NewStore returns the store at dir, which is made when the first kernel is imported.
func NewStore(dir string) *Store { return &Store{dir: dir} }

// BuildModules makes the file system that has the tree as its root, in the new file outFile. The tree can be read
// only until it returns.
type BuildModules func(ctx context.Context, tree *rootfs.Tree, outFile string) error

// Import brings a kernel into the store under a name; "" is its version. The same kernel under the same name is left
// as it is; another under that name is fault.Conflict. A kernel that cannot boot a virtual machine is
// fault.Unsupported. What fails, or is cancelled, leaves nothing. Imports wait for each other.
func (s *Store) Import(ctx context.Context, name string, source Source, build BuildModules, now time.Time) (*Kernel, error) {
	if name != "" {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	held, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer held.Release()
	work, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("importing a kernel: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	k := &Kernel{Schema: schema, Name: name, Source: source.String(), Created: now.UTC(), dir: filepath.Join(work, "kernel")}
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("importing a kernel: %w", err)
	}
	collected, err := newCollection(work, k.Vmlinuz())
	if err != nil {
		return nil, err
	}
	defer func() { _ = collected.close() }()
	return s.assemble(ctx, k, source, collected, build)
}

// lock makes the store if necessary, waits for its lock, and removes what a killed process has left.
func (s *Store) lock(ctx context.Context) (*lock.Lock, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store of kernels: %w", err)
	}
	held, err := lock.Acquire(ctx, filepath.Join(s.dir, lockFile))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tempPrefix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, entry.Name())))
		}
	}
	if err != nil {
		held.Release()
		return nil, fmt.Errorf("removing leftovers: %w", err)
	}
	return held, nil
}

// assemble fills the kernel's directory from the source and publishes it.
func (s *Store) assemble(ctx context.Context, k *Kernel, source Source, from *collection, build BuildModules) (*Kernel, error) {
	if err := source.collect(ctx, from); err != nil {
		return nil, err
	}
	found, err := k.describe(from)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", source, err)
	}
	old, err := s.existing(k)
	if old != nil || err != nil {
		return old, err
	}
	if err := k.write(ctx, found, from, build); err != nil {
		return nil, fmt.Errorf("importing %s: %w", source, err)
	}
	return k, s.publish(k)
}

// describe fills in what the collected files say, and adds depmod's files to them.
func (k *Kernel) describe(from *collection) (selection, error) {
	version, err := from.imageVersion()
	if err != nil {
		return selection{}, err
	}
	k.Version = version
	if k.Name == "" {
		if k.Name, err = nameOf(version); err != nil {
			return selection{}, err
		}
	}
	if k.VmlinuzSHA256, err = fileDigest(k.Vmlinuz()); err != nil {
		return selection{}, err
	}
	found, err := k.describeModules(from)
	if err != nil {
		return selection{}, err
	}
	k.BuiltIn, k.Missing = found.builtIn, found.missing
	return found, nil
}

func (k *Kernel) describeModules(from *collection) (selection, error) {
	release, dir, err := from.release()
	if err != nil {
		return selection{}, err
	}
	if k.ModulesSHA256, err = from.digest(); err != nil {
		return selection{}, err
	}
	if dir == nil {
		return selection{builtIn: []string{}, missing: []string{}}, nil
	}
	if release != k.Version {
		err := fmt.Errorf("the kernel is %q, and the modules are of %q", k.Version, release)
		return selection{}, fault.New(fault.Unsupported, err, "give the modules that belong to the kernel")
	}
	set, err := readModules(dir, release)
	if err != nil {
		return selection{}, err
	}
	k.Modules = len(set.modules)
	found, err := set.selectDrivers()
	if err != nil {
		return selection{}, err
	}
	return found, from.addIndexes(release, set, dir.MTime)
}

// existing returns the kernel of that name if it has the same content, or nil if there is none.
func (s *Store) existing(k *Kernel) (*Kernel, error) {
	old, err := s.Get(k.Name)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return nil, nil
	case err != nil:
		return nil, err
	case old.VmlinuzSHA256 == k.VmlinuzSHA256 && old.ModulesSHA256 == k.ModulesSHA256:
		return old, nil
	}
	err = fmt.Errorf("importing the kernel %q: there is another one of that name, version %s", k.Name, old.Version)
	return nil, fault.New(fault.Conflict, err, "choose another --name, or remove that one: banger kernel rm "+k.Name)
}

// write makes the other files beside vmlinuz and brings all to the disk.
func (k *Kernel) write(ctx context.Context, found selection, from *collection, build BuildModules) error {
	if err := k.extract(); err != nil {
		return err
	}
	archive, err := modulesCPIO(found.load)
	if err != nil {
		return err
	}
	if err := os.WriteFile(k.Initramfs(), archive, 0o644); err != nil {
		return err
	}
	if image := k.ModulesImage(); image != "" {
		if err := build(ctx, from.tree(), image); err != nil {
			return fmt.Errorf("building the file system of the modules: %w", err)
		}
	}
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(k.dir, metadataFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return syncAll(k.dir)
}

// extract makes the uncompressed kernel, if there can be one.
func (k *Kernel) extract() error {
	err := extractVmlinux(k.Vmlinuz(), filepath.Join(k.dir, plainFile))
	if errors.Is(err, errNoVmlinux) {
		return nil
	}
	k.Plain = err == nil
	return err
}

// publish gives the kernel its place.
func (s *Store) publish(k *Kernel) error {
	dir := filepath.Join(s.dir, k.Name)
	if err := os.Rename(k.dir, dir); err != nil {
		return fmt.Errorf("publishing the kernel %q: %w", k.Name, err)
	}
	k.dir = dir
	return fsync.Path(s.dir)
}

// Get returns a kernel by its name. No such kernel is fault.NotFound, one that lacks files is fault.Corrupt.
func (s *Store) Get(name string) (*Kernel, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	k := &Kernel{dir: filepath.Join(s.dir, name)}
	data, err := os.ReadFile(filepath.Join(k.dir, metadataFile))
	if errors.Is(err, fs.ErrNotExist) && !exists(k.dir) {
		return nil, missing(name)
	}
	if err == nil {
		err = json.Unmarshal(data, k)
	}
	if err == nil {
		err = k.check(name)
	}
	if err != nil {
		err = fmt.Errorf("reading the kernel %q: %w", name, err)
		return nil, fault.New(fault.Corrupt, err, "remove it and import it again: banger kernel rm "+name)
	}
	return k, nil
}

func missing(name string) error {
	return fault.New(fault.NotFound, fmt.Errorf("no kernel %q", name), "list them: banger kernel ls")
}

// check checks that the kernel is one that this version of banger made, and that its files are there.
func (k *Kernel) check(name string) error {
	if k.Schema != schema || k.Name != name {
		return fmt.Errorf("its %s is of schema %d, named %q", metadataFile, k.Schema, k.Name)
	}
	for _, file := range []string{k.Vmlinuz(), k.Vmlinux(), k.Initramfs(), k.ModulesImage()} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// List returns all kernels by name. Those that cannot be read are left out, and are in the error.
func (s *Store) List() ([]*Kernel, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the kernels: %w", err)
	}
	kernels := []*Kernel{}
	var failed error
	for _, entry := range entries {
		if checkName(entry.Name()) != nil {
			continue
		}
		k, err := s.Get(entry.Name())
		if fault.KindOf(err) == fault.NotFound {
			continue
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		kernels = append(kernels, k)
	}
	return kernels, failed
}

// Default returns the kernel that was imported last. An empty store is fault.NotFound.
func (s *Store) Default() (*Kernel, error) {
	kernels, err := s.List()
	if len(kernels) == 0 && err != nil {
		return nil, err
	}
	if len(kernels) == 0 {
		return nil, fault.New(fault.NotFound, errors.New("looking for a kernel to boot: there is none yet"),
			"import one: banger kernel import --deb linux-image-….deb, or --from-host")
	}
	return slices.MaxFunc(kernels, func(a, b *Kernel) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
	}), nil
}

// Remove removes a kernel, also one that Get finds damaged. A machine that runs with it is not disturbed. It takes no space,
// so that it works on a full disk.
func (s *Store) Remove(ctx context.Context, name string) error {
	if _, err := s.Get(name); fault.KindOf(err) == fault.NotFound || fault.KindOf(err) == fault.Usage {
		return err
	}
	held, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer held.Release()
	grave := filepath.Join(s.dir, tempPrefix+rand.Text())
	err = os.Rename(filepath.Join(s.dir, name), grave)
	if errors.Is(err, fs.ErrNotExist) {
		return missing(name) // another has removed it meanwhile
	}
	if err == nil {
		err = os.RemoveAll(grave)
	}
	if err != nil {
		return fmt.Errorf("removing the kernel %q: %w", name, err)
	}
	return nil
}

const maxName = 128

// checkName checks a kernel's name: lower-case letters, digits, ".", "_" and "-", beginning with a letter or digit.
func checkName(name string) error {
	if ok, _ := regexp.MatchString(`^[a-z0-9][a-z0-9._-]*$`, name); ok && len(name) <= maxName {
		return nil
	}
	err := fmt.Errorf("%q is no name for a kernel", name)
	return fault.New(fault.Usage, err, "use lower-case letters, digits, dots, underscores and hyphens, for example 6.1-cloud")
}

// nameOf returns the name that a kernel gets from its version: in lower case, with "-" for what a name cannot have.
func nameOf(version string) (string, error) {
	name := regexp.MustCompile(`[^a-z0-9._-]`).ReplaceAllString(strings.ToLower(version), "-")
	return name, checkName(name)
}

func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("reading %q: %w", path, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// syncAll brings the files of a directory, and their names, to the disk.
func syncAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := fsync.Path(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return fsync.Path(dir)
}
