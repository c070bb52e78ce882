package engine

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/store"
)

// PruneOptions say what PruneImages removes. The zero value is for images without a name, and for layers and downloads
// that nothing needs.
type PruneOptions struct {
	All    bool      `json:"all,omitempty"`     // images with a name as well, where no VM is made of them, and documents
	DryRun bool      `json:"dry_run,omitempty"` // remove nothing, and say what would be
	Until  time.Time `json:"until,omitzero"`    // spare what was made or used since; the zero time spares nothing
}

// PrunedImages is what PruneImages has removed. Sizes are bytes on the disk.
type PrunedImages struct {
	Images    []PrunedImage `json:"images"`
	Layers    []PrunedItem  `json:"layers"`
	Partial   []PrunedItem  `json:"partial"`   // downloads and builds that have not come to their end
	Documents []PrunedItem  `json:"documents"` // manifests and configurations of registries
	Reclaimed int64         `json:"reclaimed"`
}

// PrunedImage is an image that is gone.
type PrunedImage struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
	Size  int64    `json:"size"`
}

// PrunedItem is a layer, by its diff_id, a piece of work or a document that is gone, by the name below tmp/ or documents/.
type PrunedItem struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// errInUseMeanwhile is why an image stays that was unused a moment ago.
var errInUseMeanwhile = errors.New("it is used")

// PruneImages removes images that nobody needs, the layers that no image is made of, and what pulls have left behind that
// were interrupted. An image that a VM is made of, and what a pull works with, stays. What could not be removed or read is
// in the error, beside what was removed.
func (e *Engine) PruneImages(ctx context.Context, options PruneOptions) (PrunedImages, error) {
	p := &prune{engine: e, options: options, gone: map[string]bool{}}
	p.result = PrunedImages{
		Images: []PrunedImage{}, Layers: []PrunedItem{}, Partial: []PrunedItem{}, Documents: []PrunedItem{},
	}
	// The work first: whoever begins a piece of work, as a removal does, clears away what dead processes left.
	err := errors.Join(p.work(ctx), p.images(ctx), p.layers(ctx), p.documents(ctx))
	return p.result, noSpace(err)
}

// prune is one run of PruneImages.
type prune struct {
	engine  *Engine
	options PruneOptions
	gone    map[string]bool // ids of images that are removed, or would be
	result  PrunedImages
}

func (p *prune) spared(t time.Time) bool {
	return !p.options.Until.IsZero() && t.After(p.options.Until)
}

func (p *prune) images(ctx context.Context) error {
	images, broken := p.engine.images.List()
	names, err := p.engine.images.Names()
	if err != nil {
		return err
	}
	_, brokenVMs := p.engine.vms.List()
	failed := []error{broken, brokenVMs}
	for _, image := range images {
		named := withNames(image, names)
		if p.spared(image.Created) || p.unwanted(image.ID, named.Names) != nil || p.engine.images.Busy(image.ID) {
			continue
		}
		if err := p.image(ctx, named); err != nil && !errors.Is(err, errInUseMeanwhile) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// unwanted returns an error for an image that is to stay.
func (p *prune) unwanted(id string, names []string) error {
	if len(names) > 0 && !p.options.All {
		return errInUseMeanwhile
	}
	vms, err := p.engine.vms.List()
	if err != nil {
		return errInUseMeanwhile // the VM that cannot be read may be made of it
	}
	for _, vm := range vms {
		if vm.ImageID == id {
			return errInUseMeanwhile
		}
	}
	return nil
}

// image removes an image, unless it has come into use.
func (p *prune) image(ctx context.Context, image NamedImage) error {
	m := &meter{seen: map[inode]bool{}}
	pruned := PrunedImage{ID: image.ID, Names: image.Names, Size: m.tree(filepath.Dir(p.engine.DiskOf(image.Image)))}
	if !p.options.DryRun {
		err := p.engine.images.Remove(ctx, image.ID, func(names []string) error {
			pruned.Names = append([]string{}, names...)
			return p.unwanted(image.ID, names)
		})
		if err != nil {
			return err
		}
	}
	p.gone[image.ID] = true
	p.result.Images = append(p.result.Images, pruned)
	p.result.Reclaimed += pruned.Size
	return nil
}

// used tells which layers are those of images that stay.
func (p *prune) used() (func(diffID string) bool, error) {
	images, err := p.engine.images.List()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, image := range images {
		if p.gone[image.ID] && p.options.DryRun {
			continue
		}
		for _, l := range image.Layers {
			used[l.DiffID] = true
		}
	}
	return func(diffID string) bool { return used[diffID] }, nil
}

// layers removes the layers that no image is made of, and downloads that nobody goes on with.
func (p *prune) layers(ctx context.Context) error {
	used, err := p.used()
	if err != nil {
		return nil // an image that cannot be read, which is reported already, may need any of them
	}
	stored, err := p.engine.layers.List(ctx)
	if err != nil {
		return err
	}
	var whole, partial []layer.Stored
	for _, l := range stored {
		switch {
		case l.Busy || p.spared(l.LastUse):
		case l.Partial:
			partial = append(partial, l)
		case !used(l.DiffID):
			whole = append(whole, l)
		}
	}
	if !p.options.DryRun {
		var partialErr error
		whole, err = p.engine.layers.Remove(ctx, whole, p.used)
		partial, partialErr = p.engine.layers.RemovePartial(ctx, partial)
		err = errors.Join(err, partialErr)
	}
	p.result.Layers = p.count(p.result.Layers, whole)
	p.result.Partial = p.count(p.result.Partial, partial)
	return err
}

func (p *prune) count(items []PrunedItem, gone []layer.Stored) []PrunedItem {
	for _, l := range gone {
		items = append(items, PrunedItem{Name: l.DiffID, Size: l.Size})
		p.result.Reclaimed += l.Size
	}
	return items
}

// work removes what processes that have died left of their work.
func (p *prune) work(ctx context.Context) error {
	m := &meter{seen: map[inode]bool{}}
	work, err := p.engine.home.Work(ctx)
	if err != nil {
		return err
	}
	var dead []store.Work
	for _, w := range work {
		if !w.Alive {
			dead = append(dead, w)
		}
	}
	for _, w := range dead {
		item := PrunedItem{Name: filepath.Base(w.Dir), Size: m.tree(w.Dir)}
		p.result.Partial = append(p.result.Partial, item)
		p.result.Reclaimed += item.Size
	}
	if p.options.DryRun || len(dead) == 0 {
		return nil
	}
	return p.engine.home.Sweep(ctx)
}
