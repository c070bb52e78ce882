package imagepull

import (
	"context"
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
)

// parallelLayers is how many layers are fetched and verified at once. Registries limit a client's connections, and
// beyond a few the disk or the line is the limit.
const parallelLayers = 4

// pullLayers is the step Pull: it brings every layer of the image into the layer store and opens it.
func (p *Puller) pullLayers(ctx context.Context, image *oci.Image) ([]*layer.Layer, error) {
	layers := make([]*layer.Layer, len(image.Blobs))
	err := p.Run("Pull", func() (string, error) {
		arrived, stop := watchArrivals(image, p.Steps)
		defer stop()
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(parallelLayers)
		for i := range image.Blobs {
			group.Go(func() (err error) {
				layers[i], err = p.Layers.Ensure(ctx, arrived.count(i))
				arrived.ended(i, err)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return "", fmt.Errorf("pulling %q: %w", image.Reference, err)
		}
		return fmt.Sprintf("%s, %s", plural(len(image.Blobs), "layer"), arrived.total()), nil
	})
	if err != nil {
		closeAll(layers)
		return nil, err
	}
	return layers, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func closeAll(layers []*layer.Layer) {
	for _, l := range layers {
		if l != nil {
			_ = l.Close()
		}
	}
}

// flatten is the step Flatten: it merges the layers, the lowest first, and measures the result.
func (p *Puller) flatten(ctx context.Context, image *oci.Image, layers []*layer.Layer) (*rootfs.Tree, rootfs.Usage, error) {
	var tree *rootfs.Tree
	var usage rootfs.Usage
	err := p.Run("Flatten", func() (detail string, err error) {
		tree, err = rootfs.Flatten(ctx, layers)
		if err != nil {
			return "", fmt.Errorf("flattening %q: %w", image.Reference, err)
		}
		usage = tree.Usage()
		return fmt.Sprintf("%d files, %s", usage.Inodes, units.HumanSize(float64(usage.Bytes))), nil
	})
	return tree, usage, err
}
