package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/jsonfile"
)

// Schema is the version of the JSON files of the store.
const Schema = 1

// diskName is the file system of an image, metaName its description, configName the configuration byte for byte, which
// its digest is of.
const (
	diskName   = "rootfs.ext4"
	metaName   = "image.json"
	configName = "config.json"
)

// Image describes a published image. An image never changes once it is published.
type Image struct {
	Schema    int             `json:"schema"`
	ID        string          `json:"id"`        // sha256 in hex over all that decides the disk's contents
	Reference string          `json:"reference"` // where it was pulled from
	Digest    string          `json:"digest"`    // of the platform's manifest
	Platform  string          `json:"platform"`
	Created   time.Time       `json:"created"` // when it was published here
	Size      int64           `json:"size"`    // of the file system, in bytes; the file is sparse
	Content   int64           `json:"content"` // bytes of file data
	Inodes    int64           `json:"inodes"`
	Builder   string          `json:"builder"`
	Guest     string          `json:"guest,omitempty"` // version of the guest agent inside; "" without one
	Init      string          `json:"init,omitempty"`  // "systemd" or "guest"; "" without an agent
	Layers    []Layer         `json:"layers"`          // bottom first
	Config    json.RawMessage `json:"config"`          // the image's own configuration, as it was pulled
}

// Layer names one layer of an image.
type Layer struct {
	Digest string `json:"digest,omitempty"` // of the compressed blob; "" where the source has none
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"` // compressed, in bytes; -1 where the source does not say
}

// Images is the image store: images/<id>/ and images/names/.
type Images struct {
	home *Home
}

// Images returns the image store of the home.
func (h *Home) Images() *Images { return &Images{home: h} }

func (s *Images) path(elem ...string) string {
	return s.home.Path(append([]string{"images"}, elem...)...)
}

// Disk returns the path of an image's ext4 file. It is never to be written.
func (s *Images) Disk(id string) string { return s.path(id, diskName) }

// StagedDisk is where Publish expects the disk inside a stage.
func StagedDisk(stage *Stage) string { return stage.Path("image", diskName) }

// Config returns the image's configuration as it was pulled, byte for byte. Where their file is missing
// they are those of the description, whose white space is another.
func (s *Images) Config(image Image) ([]byte, error) {
	config, err := os.ReadFile(s.path(image.ID, configName))
	if errors.Is(err, fs.ErrNotExist) {
		return image.Config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", short(image.ID), err)
	}
	return config, nil
}

// Get returns the image with exactly this id. One that does not exist wraps fs.ErrNotExist; one that cannot be used is
// fault.Corrupt or, if another version of banger made it, fault.Unsupported.
func (s *Images) Get(id string) (Image, error) {
	image, err := s.get(id)
	if _, missing := os.Stat(s.path(id)); missing != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", short(id), missing) // also where it was removed just now
	}
	return image, err
}

// get reads the image of a directory that is there.
func (s *Images) get(id string) (Image, error) {
	if why := s.lost(id); why != "" {
		return Image{}, damaged(id, why)
	}
	var image Image
	if err := jsonfile.Read(s.path(id, metaName), &image); err != nil {
		return Image{}, damaged(id, err.Error())
	}
	if image.Schema != Schema {
		err := fmt.Errorf("reading image %s: schema %d is not known to this version of banger", short(id), image.Schema)
		return Image{}, fault.New(fault.Unsupported, err, "pull the image again, or use a newer banger")
	}
	info, err := os.Stat(s.Disk(id))
	if err != nil {
		return Image{}, damaged(id, err.Error())
	}
	if info.Size() != image.Size {
		return Image{}, damaged(id, fmt.Sprintf("its disk has %d bytes instead of %d", info.Size(), image.Size))
	}
	return image, nil
}

func damaged(id, why string) error {
	err := fmt.Errorf("reading image %s: %s", short(id), why)
	return fault.New(fault.Corrupt, err, "pull the image again, or remove it with `banger image rm "+short(id)+"`")
}

// Publish makes the staged disk an image. The caller holds the image's lock. The disk is at StagedDisk. The image can be used
// from then on, and is for ever once the caller has called Settle, which takes as long as the host's disk does.
func (s *Images) Publish(ctx context.Context, stage *Stage, image Image) error {
	image.Schema = Schema
	dir := stage.Path("image")
	if err := jsonfile.WriteVolatile(filepath.Join(dir, metaName), image); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, configName), image.Config, 0o600); err != nil {
		return fmt.Errorf("writing the configuration of image %s: %w", short(image.ID), err)
	}
	if err := unsettle(dir); err != nil {
		return fmt.Errorf("publishing image %s: %w", short(image.ID), err)
	}
	if err := os.MkdirAll(s.path(), 0o700); err != nil {
		return fmt.Errorf("making the image store: %w", err)
	}
	// An unreadable image of the same id, if there is one, gives way.
	if err := s.discard(ctx, image.ID); err != nil {
		return err
	}
	if err := os.Rename(dir, s.path(image.ID)); err != nil {
		return fmt.Errorf("publishing image %s: %w", short(image.ID), err)
	}
	return fsync.Path(s.path())
}

// discard moves an image out of the store in one step and then removes it.
func (s *Images) discard(ctx context.Context, id string) error {
	if err := s.home.discard(ctx, s.path(id)); err != nil {
		return fmt.Errorf("removing image %s: %w", short(id), err)
	}
	return nil
}

// List returns all images, the newest first. An image that cannot be read is left out and reported in the error, beside
// the images that can.
func (s *Images) List() ([]Image, error) {
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	var images []Image
	var broken []error
	for _, id := range ids {
		image, err := s.Get(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed meanwhile
		}
		if err != nil {
			broken = append(broken, err)
			continue
		}
		images = append(images, image)
	}
	sort.SliceStable(images, func(i, j int) bool { return images[i].Created.After(images[j].Created) })
	return images, errors.Join(broken...)
}

// IDs returns the ids of all images, readable or not.
func (s *Images) IDs() ([]string, error) {
	entries, err := os.ReadDir(s.path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var ids []string
	for _, entry := range entries {
		if entry.Name() != namesDir {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

// Remove removes an image, readable or not, and all its names. check, given the names, may refuse that with an error: it is
// asked when nobody can name the image or begin to use it (Use) any more.
func (s *Images) Remove(ctx context.Context, id string, check func(names []string) error) error {
	held, err := s.LockImage(ctx, id)
	if err != nil {
		return err
	}
	defer held.Release()
	unused, err := s.home.Lock(ctx, useOf(id))
	if err != nil {
		return err
	}
	defer unused.Release()
	named, err := s.home.Lock(ctx, namesLock)
	if err != nil {
		return err
	}
	defer named.Release()
	names, err := s.namesOf(id)
	if err == nil {
		err = check(names)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.untag(name); err != nil {
			return err
		}
	}
	return s.discard(ctx, id)
}

// short is the form of an id that people read.
func short(id string) string { return id[:min(12, len(id))] }
