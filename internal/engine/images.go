package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/store"
)

// NamedImage is an image with the names that stand for it, sorted. An image may have none.
type NamedImage struct {
	store.Image
	Names []string `json:"names"`
}

// ListImages returns all images, the newest first. Images that cannot be read are reported in the error, beside the
// rest.
func (e *Engine) ListImages(context.Context) ([]NamedImage, error) {
	images, broken := e.images.List()
	names, err := e.images.Names()
	if err != nil {
		return nil, err
	}
	list := make([]NamedImage, 0, len(images))
	for _, image := range images {
		list = append(list, withNames(image, names))
	}
	return list, broken
}

func withNames(image store.Image, names []store.Name) NamedImage {
	named := NamedImage{Image: image, Names: []string{}}
	for _, name := range names {
		if name.ID == image.ID {
			named.Names = append(named.Names, name.Name)
		}
	}
	return named
}

// FindImage returns the image that the user means by a name, a reference, or an id.
func (e *Engine) FindImage(query string) (NamedImage, error) {
	image, _, err := e.imageAndName(query)
	if err != nil {
		return NamedImage{}, err
	}
	names, err := e.images.Names()
	if err != nil {
		return NamedImage{}, err
	}
	return withNames(image, names), nil
}

// imageAndName returns the image, and the name by which the query means it; "" is an id.
func (e *Engine) imageAndName(query string) (store.Image, string, error) {
	match, err := e.find(query)
	if err != nil {
		return store.Image{}, "", err
	}
	image, err := e.images.Get(match.ID)
	if errors.Is(err, fs.ErrNotExist) {
		err = fault.New(fault.NotFound, fmt.Errorf("finding image %q: its disk is gone", query), "pull it again")
	}
	return image, match.Name, err
}

func (e *Engine) find(query string) (store.Match, error) {
	canonical, _ := oci.FamiliarName(query)
	match, err := e.images.Find(query, canonical)
	if fault.KindOf(err) == fault.NotFound {
		names, _ := e.images.Names()
		err = fault.New(fault.NotFound, err, suggest(query, shortNames(names), fault.HintOf(err)))
	}
	return match, err
}

// shortNames returns the names of images, each with its last part alone.
func shortNames(names []store.Name) []string {
	var all []string
	for _, name := range names {
		all = append(all, name.Name, path.Base(name.Name))
		untagged, _, _ := strings.Cut(path.Base(name.Name), ":")
		all = append(all, untagged)
	}
	return all
}

// RemoveImage removes what query means: a name alone when the image has others, else the image with it. An image that
// cannot be read can be removed like any other.
func (e *Engine) RemoveImage(ctx context.Context, query string) (removed string, err error) {
	for {
		removed, err = e.removeImage(ctx, query)
		if !errors.Is(err, errNamedMeanwhile) {
			return removed, noSpace(err)
		}
	}
}

// errNamedMeanwhile is why an image stays that was to be removed by its only name and has another since, and a name that is the
// image's only one by now, or another image's: what the query means has to be found again.
var errNamedMeanwhile = errors.New("its names have changed")

func (e *Engine) removeImage(ctx context.Context, query string) (removed string, err error) {
	match, err := e.find(query)
	if err != nil {
		return "", err
	}
	names, err := e.images.Names()
	if err != nil {
		return "", err
	}
	if match.Name != "" && len(withNames(store.Image{ID: match.ID}, names).Names) > 1 {
		return match.Name, e.images.Untag(ctx, match.Name, match.ID, func(names []string) error {
			if len(names) < 2 || !slices.Contains(names, match.Name) {
				return errNamedMeanwhile
			}
			return nil
		})
	}
	layers := e.layersOf(match.ID)
	err = e.images.Remove(ctx, match.ID, func(names []string) error {
		another := func(name string) bool { return name != match.Name }
		if match.Name != "" && slices.ContainsFunc(names, another) {
			return errNamedMeanwhile
		}
		return e.checkUnused(query, match.ID)
	})
	if err != nil {
		return "", err
	}
	return orDefault(match.Name, match.ID), e.releaseLayers(ctx, layers)
}

// checkUnused refuses to remove an image on whose disk the disk of a VM is built.
func (e *Engine) checkUnused(query, id string) error {
	vm, err := e.madeOf(id)
	if err != nil || vm == "" {
		return err // one that cannot be read may need it
	}
	err = fmt.Errorf("removing image %q: the VM %q is made of it", query, vm)
	return fault.New(fault.Conflict, err, "remove the VM first: banger vm rm "+vm)
}

// madeOf returns the name of a VM that is made of an image, or "".
func (e *Engine) madeOf(id string) (string, error) {
	vms, err := e.vms.List()
	for _, vm := range vms {
		if err == nil && vm.ImageID == id {
			return vm.Name, nil
		}
	}
	return "", err
}

// ImageDetails is all that is known of an image.
type ImageDetails struct {
	NamedImage
	Disk       string     `json:"disk"`   // path of its ext4 file
	SHA256     string     `json:"sha256"` // of that file, in hex
	FileSystem FileSystem `json:"file_system"`
}

// InspectImage returns all that is known of the image that query means. The first call for an image reads all of its
// disk, as the step Hash.
func (e *Engine) InspectImage(ctx context.Context, query string) (ImageDetails, error) {
	image, err := e.FindImage(query)
	if err != nil {
		return ImageDetails{}, err
	}
	details := ImageDetails{NamedImage: image, Disk: e.DiskOf(image.Image)}
	if details.FileSystem, err = e.FileSystemOf(image.Image); err != nil {
		return ImageDetails{}, err
	}
	details.SHA256, err = e.SHA256Of(ctx, image.Image)
	return details, err
}

// DiskOf returns the path of an image's ext4 file.
func (e *Engine) DiskOf(image store.Image) string { return e.images.Disk(image.ID) }

// SHA256Of returns the SHA-256, in hex, of an image's ext4 file, which is that of an export. The first call for an image
// reads the file, as the step Hash.
func (e *Engine) SHA256Of(ctx context.Context, image store.Image) (sum string, err error) {
	if known := e.images.KnownSHA256(image.ID); known != "" {
		return known, nil
	}
	err = e.steps().Run("Hash", func() (string, error) {
		sum, err = e.images.DiskSHA256(ctx, image.ID)
		return units.BytesSize(float64(image.Size)), err
	})
	return sum, err
}

// ExportImage writes the image's ext4 file to path, sparse, replacing a file that is there. It appears whole or not at
// all.
func (e *Engine) ExportImage(ctx context.Context, query, path string) error {
	image, err := e.FindImage(query)
	if err != nil {
		return err
	}
	held, err := e.images.LockImage(ctx, image.ID)
	if err != nil {
		return err
	}
	defer held.Release()
	return noSpace(exportFile(ctx, e.images.Disk(image.ID), path))
}

func exportFile(ctx context.Context, from, to string) (err error) {
	if err := checkTarget("exporting", to); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("exporting: %w", err)
	}
	defer func() { _ = in.Close() }()
	out, publish, err := unfinished(to)
	if err != nil {
		return fmt.Errorf("exporting to %q: %w", to, err)
	}
	err = copySparse(ctx, in, out)
	if err == nil {
		err = out.Sync()
	}
	if err = publish(err); err != nil {
		return fmt.Errorf("exporting to %q: %w", to, err)
	}
	return nil
}

// checkTarget refuses what would not be replaced by a file as one expects.
func checkTarget(doing, to string) error {
	info, err := os.Lstat(to)
	switch {
	case to == "" || to == "-":
		err = fmt.Errorf("%s to %q: not the name of a file", doing, to)
	case err == nil && !info.Mode().IsRegular():
		err = fmt.Errorf("%s to %q: it is there, and is no regular file", doing, to)
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Dir(to)); err != nil {
			return fault.New(fault.NotFound, fmt.Errorf("%s to %q: %w", doing, to, err), "make the directory first")
		}
		return nil
	default:
		return nil
	}
	return fault.New(fault.Usage, err, "name a file to write to")
}

// unfinished opens a file that becomes the file at path when publish is called without an error. Where the file system
// can, it has no name until then, so that nothing is left of it even after kill -9. Its mode is what the umask says.
func unfinished(path string) (file *os.File, publish func(error) error, err error) {
	part := path + ".part-" + randomName()
	file, err = os.OpenFile(filepath.Dir(path), unix.O_TMPFILE|os.O_RDWR, 0o666)
	nameless := err == nil
	if !nameless {
		file, err = os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666)
	}
	if err != nil {
		return nil, nil, err
	}
	return file, func(failed error) error {
		if failed == nil && nameless {
			self := fmt.Sprintf("/proc/self/fd/%d", file.Fd())
			failed = unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, part, unix.AT_SYMLINK_FOLLOW)
		}
		failed = errors.Join(failed, file.Close())
		if failed == nil {
			failed = os.Rename(part, path)
		}
		if failed != nil {
			_ = os.Remove(part)
		}
		return failed
	}, nil
}

// copyChunk is how much is copied between two looks at the context.
const copyChunk = 16 << 20

// copySparse copies a file of the same length with the same holes. Where the file system can share blocks, it does.
func copySparse(ctx context.Context, in, out *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for offset := int64(0); ; {
		start, err := unix.Seek(int(in.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(ctx, in, out, start, end); err != nil {
			return err
		}
		offset = end
	}
}

func copyRange(ctx context.Context, in, out *os.File, start, end int64) error {
	for start < end {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(copyChunk, end-start)
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, n)); err != nil {
			return err
		}
		start += n
	}
	return nil
}
