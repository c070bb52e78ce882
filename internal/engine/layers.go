package engine

import (
	"context"
	"slices"

	"github.com/banger-vm/banger/internal/layer"
)

// DefaultLayerLimit is how many bytes the layers that no image is made of may take where the user says nothing. Such
// layers are what pulls that were interrupted have fetched whole, and what their next attempt begins with.
const DefaultLayerLimit = 4 << 30

// LayerCache says what becomes of layers that no image is made of. The zero value keeps none.
type LayerCache struct {
	Limit       int64 // bytes that they may take on the disk; beyond that, the least recently used go
	KeepRemoved bool  // whether the layers of an image stay, within the limit, when it is removed
}

// layersOf returns the diff_ids of an image's layers; none for one that cannot be read.
func (e *Engine) layersOf(id string) map[string]bool {
	ids := map[string]bool{}
	image, err := e.images.Get(id)
	if err != nil {
		return ids
	}
	for _, l := range image.Layers {
		ids[l.DiffID] = true
	}
	return ids
}

// usedLayers tells which layers images are made of. An image that cannot be read may need any: it is an error.
func (e *Engine) usedLayers() (func(diffID string) bool, error) {
	images, err := e.images.List()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, image := range images {
		for _, l := range image.Layers {
			used[l.DiffID] = true
		}
	}
	return func(diffID string) bool { return used[diffID] }, nil
}

// unusedLayers returns the whole layers that no image is made of.
func (e *Engine) unusedLayers(ctx context.Context) ([]layer.Stored, error) {
	used, err := e.usedLayers()
	if err != nil {
		return nil, err
	}
	stored, err := e.layers.List(ctx)
	var unused []layer.Stored
	for _, l := range stored {
		if !l.Partial && !used(l.DiffID) {
			unused = append(unused, l)
		}
	}
	return unused, err
}

// releaseLock is held by whoever removes the layers of an image that is gone.
const releaseLock = "release"

// releaseLayers removes those of the layers that no image is made of any more or, where they are kept, those beyond the
// limit.
func (e *Engine) releaseLayers(ctx context.Context, released map[string]bool) error {
	if e.config.LayerCache.KeepRemoved {
		return e.trimLayers(ctx)
	}
	// One at a time: whoever looks at a layer is in another's way for a moment, and the last has to remove it.
	held, err := e.home.Lock(ctx, releaseLock)
	if err != nil {
		return err
	}
	defer held.Release()
	unused, err := e.unusedLayers(ctx)
	if err != nil {
		return nil // an image that cannot be read may need any of them
	}
	var gone []layer.Stored
	for _, l := range unused {
		if released[l.DiffID] { // also one that seems busy: Remove looks again
			gone = append(gone, l)
		}
	}
	_, err = e.layers.Remove(ctx, gone, e.usedLayers)
	return err
}

// trimLayers removes, of the layers that no image is made of, the least recently used ones beyond the limit.
func (e *Engine) trimLayers(ctx context.Context) error {
	unused, err := e.unusedLayers(ctx)
	if err != nil {
		return nil
	}
	unused = slices.DeleteFunc(unused, func(l layer.Stored) bool { return l.Busy })
	_, err = e.layers.Remove(ctx, layer.Excess(unused, e.config.LayerCache.Limit), e.usedLayers)
	return err
}
