package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/embedded"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/store"
)

// builderMkfs is the builder that mkfs.ext4 and debugfs make up; its version changes when its results do.
const (
	builderMkfs        = "mkfs"
	builderMkfsVersion = "1"
)

// PullOptions are the choices of a pull. The zero value pulls linux/amd64 under the reference's own name, with the
// agent, on a disk that banger sizes.
type PullOptions struct {
	Name     string // "" is the name that the reference gives
	Size     int64  // bytes of the disk; 0 lets banger choose
	Platform string // "" is linux/amd64
	Builder  string // "" is the default
	NoGuest  bool   // leave the image as it is
}

// Pulled is the result of a pull.
type Pulled struct {
	Image store.Image
	Name  string
	Fresh bool // false when the same image was there already
}

// PullImage brings an image into the store and gives it a name. The same image with the same options is made once.
func (e *Engine) PullImage(ctx context.Context, reference string, options PullOptions) (Pulled, error) {
	plan, err := e.planPull(ctx, reference, options)
	if err != nil {
		return Pulled{}, err
	}
	defer func() { _ = plan.image.Close() }()
	if err := e.images.CheckName(plan.name()); err != nil {
		return Pulled{}, err
	}
	image, fresh, err := e.ensureImage(ctx, plan)
	if err != nil {
		return Pulled{}, err
	}
	if err := e.images.Tag(ctx, plan.name()); err != nil {
		return Pulled{}, err
	}
	return Pulled{Image: image, Name: plan.wanted, Fresh: fresh}, nil
}

// pullPlan is a resolved reference with the options that decide what is built from it.
type pullPlan struct {
	image   *oci.Image
	options PullOptions
	agent   *imagepull.Agent // nil without one
	wanted  string           // the name to give
}

func (e *Engine) planPull(ctx context.Context, reference string, options PullOptions) (*pullPlan, error) {
	if err := checkBuilder(options.Builder); err != nil {
		return nil, err
	}
	platform, err := oci.ParsePlatform(orDefault(options.Platform, "linux/amd64"))
	if err != nil {
		return nil, err
	}
	agent, err := agentFor(options)
	if err != nil {
		return nil, err
	}
	wanted, err := imageName(reference, options.Name)
	if err != nil {
		return nil, err
	}
	image, err := oci.Resolve(ctx, reference, oci.Options{Platform: platform})
	if err != nil {
		return nil, err
	}
	return &pullPlan{image: image, options: options, agent: agent, wanted: wanted}, nil
}

func checkBuilder(builder string) error {
	switch builder {
	case "", builderMkfs:
		return nil
	case "native":
		err := errors.New(`choosing the builder: "native" is not part of this version`)
		return fault.New(fault.Unsupported, err, "leave --builder out, or pass --builder mkfs")
	}
	return fault.New(fault.Usage, fmt.Errorf("choosing the builder: there is no %q", builder), "pass --builder mkfs")
}

func agentFor(options PullOptions) (*imagepull.Agent, error) {
	if options.NoGuest {
		return nil, nil
	}
	binary, err := embedded.Agent()
	if err != nil {
		return nil, err
	}
	return &imagepull.Agent{Binary: binary, Version: embedded.Version()}, nil
}

// maxName keeps the name's file below NAME_MAX, whatever its characters are escaped to.
const maxName = 240

func imageName(reference, wanted string) (string, error) {
	name := wanted
	if name == "" {
		var err error
		if name, err = oci.DefaultName(reference); err != nil {
			return "", err
		}
	}
	bad := strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' })
	if name == "" || len(name) > maxName || bad || strings.HasPrefix(name, "-") {
		err := fmt.Errorf("naming the image %q: not a name for an image", name)
		return "", fault.New(fault.Usage, err, "pass --name with letters, digits and . _ - / :")
	}
	return name, nil
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// id is a function of all that decides the bytes of the disk.
func (p *pullPlan) id() string {
	agent := "none"
	if p.agent != nil {
		agent = p.agent.Version
	}
	hash := sha256.New()
	for _, input := range []string{
		"image-1", p.image.Digest, p.image.Platform.String(), fmt.Sprint(p.options.Size),
		builderMkfs, builderMkfsVersion, agent,
	} {
		_, _ = fmt.Fprintf(hash, "%d:%s", len(input), input)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func (p *pullPlan) name() store.Name {
	return store.Name{Name: p.wanted, ID: p.id(), Digest: p.image.Digest, Reference: p.image.Reference}
}

// ensureImage returns the planned image, and whether it had to be built. Whoever comes second waits for the first.
func (e *Engine) ensureImage(ctx context.Context, plan *pullPlan) (store.Image, bool, error) {
	held, err := e.images.LockImage(ctx, plan.id())
	if err != nil {
		return store.Image{}, false, err
	}
	defer held.Release()
	image, err := e.images.Get(plan.id())
	if err == nil {
		return image, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && fault.KindOf(err) != fault.Corrupt {
		return store.Image{}, false, err
	}
	image, err = e.buildImage(ctx, plan)
	return image, err == nil, noSpace(err)
}

func (e *Engine) buildImage(ctx context.Context, plan *pullPlan) (image store.Image, err error) {
	stage, err := e.home.NewStage(ctx)
	if err != nil {
		return store.Image{}, err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	disk := store.StagedDisk(stage)
	if err := os.Mkdir(filepath.Dir(disk), 0o700); err != nil {
		return store.Image{}, fmt.Errorf("staging the image: %w", err)
	}
	built, err := e.puller().Pull(ctx, imagepull.Request{
		Image: plan.image, Agent: plan.agent, WorkDir: stage.Dir, OutFile: disk,
		Size: func(usage rootfs.Usage) (int64, error) { return chooseSize(plan.options.Size, usage) },
	})
	if err != nil {
		return store.Image{}, err
	}
	image = e.describe(plan, built)
	return image, e.images.Publish(stage, image)
}

func (e *Engine) describe(plan *pullPlan, built imagepull.Built) store.Image {
	image := store.Image{
		ID: plan.id(), Reference: plan.image.Reference, Digest: plan.image.Digest,
		Platform: plan.image.Platform.String(), Created: e.config.Now().UTC(),
		Size: built.Size, Content: built.Usage.Bytes, Inodes: built.Usage.Inodes, Builder: builderMkfs,
		Init: string(built.Init), Config: plan.image.RawConfig, Schema: store.Schema,
	}
	if plan.agent != nil {
		image.Guest = plan.agent.Version
	}
	for _, blob := range plan.image.Blobs {
		image.Layers = append(image.Layers, store.Layer{Digest: blob.Digest, DiffID: blob.DiffID, Size: blob.Size})
	}
	return image
}
