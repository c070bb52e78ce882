package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// collection is what a Source gives: a kernel, written to a file, and its modules, spooled to another. The nodes of
// its tree point into the spool and can be read until it is closed.
type collection struct {
	imagePath string
	hasImage  bool
	spool     *os.File
	end       int64        // of the spool
	root      *rootfs.Node // stands for lib/modules
}

// newCollection collects the kernel in the file imagePath, and the modules in a file in dir.
func newCollection(dir, imagePath string) (*collection, error) {
	spool, err := os.Create(filepath.Join(dir, "spool"))
	if err != nil {
		return nil, fmt.Errorf("collecting a kernel: %w", err)
	}
	return &collection{imagePath: imagePath, spool: spool, root: directory(time.Unix(0, 0))}, nil
}

func directory(mtime time.Time) *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: mtime.UTC().Truncate(time.Second),
		Children: map[string]*rootfs.Node{}}
}

// addImage takes the kernel itself, as it is.
func (c *collection) addImage(r io.Reader) error {
	file, err := os.OpenFile(c.imagePath, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.Unsupported, errors.New("there are two kernels in it"), "give one kernel at a time")
	}
	if err != nil {
		return err
	}
	c.hasImage = true
	_, err = io.Copy(file, r)
	return errors.Join(err, file.Close())
}

// imageVersion checks the kernel and returns its release.
func (c *collection) imageVersion() (string, error) {
	file, err := os.Open(c.imagePath)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	return imageVersion(file, info.Size())
}

// addDirectory takes a directory by its path below lib/modules.
func (c *collection) addDirectory(name string, mtime time.Time) error {
	parent, base, err := c.place(name)
	if err != nil || base == "" {
		return err
	}
	if old := parent.Children[base]; old != nil && old.Kind == rootfs.Directory {
		old.MTime = mtime.UTC().Truncate(time.Second)
		return nil
	}
	parent.Children[base] = directory(mtime)
	return nil
}

// addFile takes a file by its path below lib/modules. A compressed module is kept decompressed, under the name that it
// then has: not every guest's modprobe can decompress. Files that depmod makes are left out.
func (c *collection) addFile(name string, mode uint16, mtime time.Time, r io.Reader) error {
	if made(path.Base(name)) && strings.Count(name, "/") == 1 {
		return nil
	}
	if plain, ok := plainName(name); ok {
		z, err := decompress(r)
		if err != nil {
			return fmt.Errorf("decompressing %q: %w", name, err)
		}
		defer func() { _ = z.Close() }()
		name, r = plain, z
	}
	parent, base, err := c.place(name)
	if err != nil {
		return err
	}
	node, err := c.store(r, mode, mtime)
	if err != nil {
		return fmt.Errorf("reading %q: %w", name, err)
	}
	parent.Children[base] = node
	return nil
}

// store appends the bytes of r to the spool.
func (c *collection) store(r io.Reader, mode uint16, mtime time.Time) (*rootfs.Node, error) {
	n, err := io.Copy(c.spool, r)
	if err != nil {
		return nil, err
	}
	node := &rootfs.Node{Kind: rootfs.Regular, Mode: mode, MTime: mtime.UTC().Truncate(time.Second), Links: 1, Size: n}
	if n > 0 {
		node.Source, node.Extents = c.spool, []layer.Extent{{Offset: c.end, Length: n}}
	}
	c.end += n
	return node, nil
}

// plainName returns the name of a compressed module without the compression.
func plainName(name string) (string, bool) {
	for _, suffix := range []string{".xz", ".zst", ".gz"} {
		if plain, ok := strings.CutSuffix(name, suffix); ok && strings.HasSuffix(plain, ".ko") {
			return plain, true
		}
	}
	return name, false
}

// place returns the directory in which name stands, made if necessary, and its last element.
func (c *collection) place(name string) (*rootfs.Node, string, error) {
	dir := c.root
	elements := strings.Split(name, "/")
	for i, element := range elements {
		if element == "" || element == "." || element == ".." || strings.ContainsRune(element, 0) || len(element) > 255 {
			return nil, "", fmt.Errorf("%q is no name of a file", name)
		}
		if i == len(elements)-1 {
			break
		}
		child := dir.Children[element]
		if child == nil {
			child = directory(time.Unix(0, 0))
			dir.Children[element] = child
		}
		if child.Kind != rootfs.Directory {
			return nil, "", fmt.Errorf("%q stands below a file", name)
		}
		dir = child
	}
	return dir, elements[len(elements)-1], nil
}

// release returns the directory of the one kernel whose modules there are, and its name; nil if there are none.
func (c *collection) release() (string, *rootfs.Node, error) {
	names := slices.Sorted(maps.Keys(c.root.Children))
	if len(names) == 0 {
		return "", nil, nil
	}
	if len(names) > 1 {
		err := fmt.Errorf("there are modules of several kernels: %s", strings.Join(names, ", "))
		return "", nil, fault.New(fault.Unsupported, err, "give the packages of one kernel")
	}
	dir := c.root.Children[names[0]]
	if dir.Kind != rootfs.Directory {
		return "", nil, fault.New(fault.Unsupported, fmt.Errorf("lib/modules/%s is no directory", names[0]), "")
	}
	return names[0], dir, nil
}

// digest returns the SHA-256 of the tree's names, modes and contents, in hexadecimal. Times have no part in it.
func (c *collection) digest() (string, error) {
	sum := sha256.New()
	err := walk(c.root, "", func(name string, node *rootfs.Node) error {
		_, err := fmt.Fprintf(sum, "%q %d %o %d\n", name, node.Kind, node.Mode, node.Size)
		if err == nil && node.Kind == rootfs.Regular {
			_, err = io.Copy(sum, content(node))
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the modules back: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// close removes the spool.
func (c *collection) close() error {
	return errors.Join(c.spool.Close(), os.Remove(c.spool.Name()))
}

// content returns the bytes of a file of a collection, which has one extent or none.
func content(node *rootfs.Node) *io.SectionReader {
	if len(node.Extents) == 0 {
		return io.NewSectionReader(strings.NewReader(""), 0, 0)
	}
	return io.NewSectionReader(node.Source, node.Extents[0].Offset, node.Size)
}

// walk calls visit for all nodes below dir, parents first, in the order of their names.
func walk(dir *rootfs.Node, prefix string, visit func(name string, node *rootfs.Node) error) error {
	for _, base := range slices.Sorted(maps.Keys(dir.Children)) {
		node := dir.Children[base]
		name := path.Join(prefix, base)
		if err := visit(name, node); err != nil {
			return err
		}
		if err := walk(node, name, visit); err != nil {
			return err
		}
	}
	return nil
}
