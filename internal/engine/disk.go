package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

// IsDiskFile says whether a user means the file of an ext4 file system, rather than an image, by what they write in the
// place of one: a path that begins with "/", "./" or "../", as no name of an image does.
func IsDiskFile(query string) bool {
	return strings.HasPrefix(query, "/") || strings.HasPrefix(query, "./") || strings.HasPrefix(query, "../")
}

// openedDisk is the file system of an image, or of a file, that is being read.
type openedDisk struct {
	*volume.Volume
	name  string // as the user calls it
	file  *os.File
	nodes map[uint32]*rootfs.Node // see node, by their inodes' numbers
}

// openDisk opens the disk of the image that query means, or the file that it names. An image that is removed meanwhile
// can be read to the end.
func (e *Engine) openDisk(query string) (*openedDisk, error) {
	query, name, err := e.diskFile(query)
	if err != nil {
		return nil, err
	}
	file, err := openRegular(name)
	if err != nil {
		return nil, fmt.Errorf("reading the image %q: %w", query, err)
	}
	disk := &openedDisk{name: query, file: file}
	if err := disk.read(); err != nil {
		disk.close()
		return nil, fmt.Errorf("reading the image %q: %w", query, err)
	}
	return disk, nil
}

// diskFile returns how to call what query means, which is the same wherever it is asked for, and where its disk is.
func (e *Engine) diskFile(query string) (called, file string, err error) {
	if IsDiskFile(query) {
		file, err = filepath.Abs(query)
		return file, file, err
	}
	image, err := e.FindImage(query)
	return query, e.DiskOf(image.Image), err
}

// openRegular opens a regular file, and does not wait for one that is a FIFO.
func openRegular(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, err, "")
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.New(fault.Usage, fmt.Errorf("%q is no regular file", name), "name an image, or the file of an ext4 file system")
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// read reads the superblock.
func (d *openedDisk) read() error {
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	d.Volume, err = volume.Open(d.file, info.Size())
	return err
}

func (d *openedDisk) close() { _ = d.file.Close() }

// resolve returns what is at a path of the image. For one that is not there, the hint has the names that are nearly it.
func (d *openedDisk) resolve(ctx context.Context, name string, follow bool) (volume.Place, error) {
	place, err := d.Resolve(ctx, name, follow)
	var missing *volume.MissingError
	switch {
	case err == nil:
		return place, nil
	case errors.As(err, &missing):
		err = fault.New(fault.NotFound, missing, d.nearly(missing))
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		err = fault.New(fault.NotFound, err, "")
	}
	return volume.Place{}, d.in(err)
}

// nearly makes a hint of the paths that may have been meant.
func (d *openedDisk) nearly(missing *volume.MissingError) string {
	names, err := d.Names(missing.Dir.Inode)
	if err != nil {
		return ""
	}
	var near []string
	for _, name := range names {
		if isNear(missing.Name, name) {
			near = append(near, path.Join(missing.Dir.Path, name))
		}
	}
	return didYouMean(near, "`banger image ls-files` lists what there is")
}

// in says which image an error is about.
func (d *openedDisk) in(err error) error { return fmt.Errorf("reading the image %q: %w", d.name, err) }
