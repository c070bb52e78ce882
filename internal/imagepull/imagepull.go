// Package imagepull turns a container image into a directly bootable ext4 disk, as an ordinary user: nothing is
// mounted, nothing runs as root, no daemon is asked. It is the recipe, and the first package of banger to read.
//
// Its five steps, each a function of this package, are
//
//	Pull → Flatten → BuildExt4 → ApplyOwnership → InjectGuestAgents
//
// Pull brings the image's layers, uncompressed and checked against both of their digests, into the layer store.
// Flatten merges them by the rules of the OCI image specification into a tree in memory, and stages that tree as a
// directory which belongs to the calling user. BuildExt4 has mkfs.ext4 copy the directory into a sparse file. The
// files in it still belong to the caller, so ApplyOwnership sets every owner, mode, time, extended attribute and
// device node of the tree by one batch of debugfs. InjectGuestAgents writes the guest agent, the image's
// configuration and, where systemd boots the image, the agent's unit, by another batch.
//
// What comes out boots with any kernel that has ext4: where the image has systemd as its init, that stays process 1; any
// other image, even an empty one, has the agent as its init.
package imagepull

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// Puller has what the recipe works with.
type Puller struct {
	Runner *system.CommandRunner
	Layers *layer.Store
	Now    func() time.Time
	// Report is told when a step begins (Elapsed is 0, Done false), now and then how far it is, and when it has ended.
	Report func(Step)
}

// Step is one step of the recipe, for showing progress.
type Step struct {
	Name    string        // one of the five, or what the caller of Step calls it
	Detail  string        // what the step made or, while it runs, how far it is
	Done    bool          // whether the step has ended
	Elapsed time.Duration // how long it took
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
	WorkDir string                            // an existing directory of the caller's, for the staged tree
	OutFile string                            // the ext4 file to make
}

// Built describes the disk that was made.
type Built struct {
	Size  int64 // bytes of the file system
	Usage rootfs.Usage
	Init  guest.Init // "" without an agent
}

// Pull runs the recipe for a resolved image. Nothing but r.OutFile and the layer store is left behind, and on failure
// not even the file.
func (p *Puller) Pull(ctx context.Context, r Request) (Built, error) {
	layers, err := p.pullLayers(ctx, r.Image)
	if err != nil {
		return Built{}, err
	}
	defer closeAll(layers)

	tree, usage, err := p.flatten(r.Image, layers)
	if err != nil {
		return Built{}, err
	}
	size, err := r.Size(usage)
	if err != nil {
		return Built{}, err
	}
	if err := p.Build(ctx, tree, usage, r.WorkDir, r.OutFile, size); err != nil {
		return Built{}, err
	}
	init, err := p.injectAgents(ctx, tree, r)
	if err != nil {
		_ = os.Remove(r.OutFile)
		return Built{}, err
	}
	return Built{Size: size, Usage: usage, Init: init}, nil
}

// Step runs one step, of the recipe or of what follows it, and reports its beginning and end. run returns what the step
// made, in words.
func (p *Puller) Step(name string, run func() (string, error)) error {
	start := p.Now()
	p.Report(Step{Name: name})
	detail, err := run()
	if err != nil {
		return err
	}
	p.Report(Step{Name: name, Detail: detail, Done: true, Elapsed: p.Now().Sub(start)})
	return nil
}

func (p *Puller) injectAgents(ctx context.Context, tree *rootfs.Tree, r Request) (guest.Init, error) {
	if r.Agent == nil {
		return "", nil
	}
	assets, init, err := guest.Assets(tree, r.Image.RawConfig, r.Image.Digest, r.Agent.Version, r.Agent.Binary)
	if err != nil {
		return "", fmt.Errorf("preparing the guest agent for %q: %w", r.Image.Reference, err)
	}
	err = p.Step("InjectGuestAgents", func() (string, error) {
		return fmt.Sprintf("agent %s, init %s", r.Agent.Version, init),
			InjectGuestAgents(ctx, p.Runner, assets, r.OutFile)
	})
	return init, err
}
