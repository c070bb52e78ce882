package contender

import (
	"context"
	"errors"
	"fmt"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Fill brings the layers of the job's image into the layer store, so that no run has to.
func Fill(ctx context.Context, job Job) error {
	_, release, err := openTree(ctx, job)
	if err != nil {
		return fmt.Errorf("filling the layer store: %w", err)
	}
	release()
	return nil
}

// openTree opens the layers of the job's image in the layer store, which verifies and so reads them, and merges them.
// The caller calls release when the tree is not read any more.
func openTree(ctx context.Context, job Job) (tree *rootfs.Tree, release func(), err error) {
	platform, err := oci.ParsePlatform("linux/amd64")
	if err != nil {
		return nil, nil, err
	}
	image, err := oci.Resolve(ctx, job.layout(), oci.Options{Platform: platform})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	var layers []*layer.Layer
	release = func() {
		for _, l := range layers {
			_ = l.Close()
		}
	}
	store := layer.NewStore(job.Store)
	for _, blob := range image.Blobs {
		l, err := store.Ensure(ctx, layer.Blob(blob))
		if err != nil {
			release()
			return nil, nil, err
		}
		layers = append(layers, l)
	}
	if tree, err = rootfs.Flatten(ctx, layers); err != nil {
		release()
		return nil, nil, err
	}
	return tree, release, nil
}
