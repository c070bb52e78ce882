// Package imagepull turns a container image into a directly bootable ext4 disk, as an ordinary user: nothing is
// mounted, nothing runs as root, no daemon is asked. It is the recipe, and the first package of banger to read.
//
// Its five steps are
//
//	Pull → Flatten → BuildExt4 → ApplyOwnership → InjectGuestAgents
//
// Pull brings the image's layers, uncompressed and checked against both of their digests, into the layer store.
// Flatten merges them by the rules of the OCI image specification into a tree in memory. The other three make an ext4
// file of the tree and of what banger adds to it: the guest agent, the image's configuration and, where systemd boots
// the image, the agent's unit. They are the work of a Builder. There are two, and what they make is the same.
//
// Native is the default. It has InjectGuestAgents first, which adds the agent's files to the tree; BuildExt4 then writes
// the whole file system by package ext4, with every owner, mode, time, extended attribute and device node. Nothing is
// changed afterwards, so that there is no ApplyOwnership.
//
// Mkfs is the reference, and works with the programs of e2fsprogs. BuildExt4 stages the tree as a directory which
// belongs to the calling user, and has mkfs.ext4 copy the directory into a sparse file. The files in it still belong to
// the caller, so ApplyOwnership sets every owner, mode, time, extended attribute and device node of the tree by one batch
// of debugfs. InjectGuestAgents writes the agent's files by another batch.
//
// What comes out boots with any kernel that has ext4: where the image has systemd as its init, that stays process 1; any
// other image, even an empty one, has the agent as its init.
package imagepull

import (
	"context"
	"errors"
	"fmt"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Puller has what the recipe works with.
type Puller struct {
	Builder Builder
	Layers  *layer.Store
	Steps
}

// Agent is what InjectGuestAgents puts into the image.
type Agent struct {
	Binary  []byte
	Version string
}

// Request says what to build and where.
type Request struct {
	Image   *oci.Image
	Agent   *Agent                            // nil leaves the image as it is
	Size    func(rootfs.Usage) (int64, error) // decides the size of the disk, in bytes
	WorkDir string                            // an existing directory of the caller's, for what the builder needs meanwhile
	OutFile string                            // the ext4 file to make
}

// Built describes the disk that was made.
type Built struct {
	Size  int64        // bytes of the file system
	Usage rootfs.Usage // of the image, without the agent
	Init  guest.Init   // "" without an agent
}

// Pull runs the recipe for a resolved image. Nothing but r.OutFile and the layer store is left behind, and on failure
// not even the file. A layer that turns out to be damaged in the store is fetched again, and the recipe is run anew.
func (p *Puller) Pull(ctx context.Context, r Request) (Built, error) {
	for attempt := 1; ; attempt++ {
		built, repaired, err := p.pull(ctx, r)
		switch {
		case !repaired || ctx.Err() != nil:
			return built, err
		case attempt == attempts:
			hint := "look at the health of the disk that holds banger's home directory"
			return Built{}, fault.New(fault.Corrupt, fmt.Errorf("pulling %q: %w", r.Image.Reference, err), hint)
		}
	}
}

// attempts is how often in a row the layer store may turn out to be damaged.
const attempts = 3

// pull runs the recipe once. repaired says that it failed because of a layer which is out of the store.
func (p *Puller) pull(ctx context.Context, r Request) (built Built, repaired bool, err error) {
	layers, err := p.pullLayers(ctx, r.Image)
	if err != nil {
		return Built{}, false, err
	}
	defer closeAll(layers)
	built, err = p.build(ctx, r, layers)
	damaged := culprit(layers, err)
	if damaged == nil {
		return built, false, err
	}
	discardErr := damaged.Discard(ctx)
	return Built{}, discardErr == nil, errors.Join(err, discardErr)
}

// culprit returns the layer whose contents could not be read, or were not what they should be.
func culprit(layers []*layer.Layer, err error) *layer.Layer {
	var content *rootfs.ContentError
	if !errors.As(err, &content) {
		return nil
	}
	for _, l := range layers {
		if l.Blob == content.Source {
			return l
		}
	}
	return nil
}

// build runs what follows the step Pull.
func (p *Puller) build(ctx context.Context, r Request, layers []*layer.Layer) (Built, error) {
	tree, usage, err := p.flatten(ctx, r.Image, layers)
	if err != nil {
		return Built{}, err
	}
	work := Work{Tree: tree, Usage: usage, Size: r.Size, Dir: r.WorkDir, OutFile: r.OutFile}
	init, err := addAgent(&work, r)
	if err != nil {
		return Built{}, err
	}
	size, err := p.Builder.Build(ctx, work, p.Steps)
	if err != nil {
		return Built{}, err
	}
	return Built{Size: size, Usage: usage, Init: init}, nil
}

// addAgent chooses what InjectGuestAgents is to add.
func addAgent(work *Work, r Request) (guest.Init, error) {
	if r.Agent == nil {
		return "", nil
	}
	assets, init, err := guest.Assets(work.Tree, r.Image.RawConfig, r.Image.Digest, r.Agent.Version, r.Agent.Binary)
	if err != nil {
		return "", fmt.Errorf("preparing the guest agent for %q: %w", r.Image.Reference, err)
	}
	work.Assets, work.Guest = assets, fmt.Sprintf("agent %s, init %s", r.Agent.Version, init)
	return init, nil
}
