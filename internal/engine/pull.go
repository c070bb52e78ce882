package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/embedded"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/store"
)

// PullOptions are the choices of a pull. The zero value pulls linux/amd64 under the reference's own name, with the
// agent, on a disk that banger sizes.
type PullOptions struct {
	Name     string `json:"name,omitempty"`     // "" is the name that the reference gives
	Size     int64  `json:"size,omitempty"`     // bytes of the disk; 0 lets banger choose
	Platform string `json:"platform,omitempty"` // "" is linux/amd64
	Builder  string `json:"builder,omitempty"`  // "" is the default
	NoGuest  bool   `json:"no_guest,omitempty"` // leave the image as it is
	RegistryOptions

	// Input is what "-" stands for in the place of a FILE; nil refuses such a reference.
	Input io.Reader `json:"-"`
}

// Pulled is the result of a pull.
type Pulled struct {
	Image store.Image `json:"image"`
	Name  string      `json:"name"`
	Fresh bool        `json:"fresh"` // false when the same image was there already
}

// PullImage brings an image into the store and gives it a name. The same image with the same options is made once.
func (e *Engine) PullImage(ctx context.Context, reference string, options PullOptions) (pulled Pulled, err error) {
	// Where archives are unpacked: they may be large, so not in the system's directory for temporary files.
	temp, err := e.home.NewStage(ctx)
	if err != nil {
		return Pulled{}, noSpace(err)
	}
	defer func() { err = noSpace(errors.Join(err, temp.Close())) }()
	found := e.steps().Announce("Resolve", reference)
	plan, err := e.planPull(ctx, reference, temp.Dir, options)
	found()
	if err != nil {
		return Pulled{}, err
	}
	defer func() { _ = plan.image.Close() }()
	if err := e.images.CheckName(plan.name()); err != nil {
		return Pulled{}, err
	}
	return e.ensureImage(ctx, plan)
}

// pullPlan is a resolved reference with the options that decide what is built from it.
type pullPlan struct {
	image   *oci.Image
	options PullOptions
	builder imagepull.Builder
	agent   *imagepull.Agent // nil without one
	wanted  string           // the name to give
}

func (e *Engine) planPull(ctx context.Context, reference, tempDir string, options PullOptions) (*pullPlan, error) {
	builder, err := e.builder(options.Builder)
	if err != nil {
		return nil, err
	}
	platform, err := oci.ParsePlatform(orDefault(options.Platform, bootPlatform))
	if err != nil {
		return nil, err
	}
	if options.Name != "" { // before an image is read that may be large
		if err := checkName(options.Name); err != nil {
			return nil, err
		}
	}
	image, err := oci.Resolve(ctx, reference, oci.Options{
		Platform: platform, TempDir: tempDir, Stdin: options.Input, Documents: e.documentsDir(),
		Access: options.access(e.reportRegistry), Unpacking: e.unpacking(),
	})
	if err != nil {
		return nil, err
	}
	plan := &pullPlan{image: image, options: options, builder: builder, wanted: orDefault(options.Name, image.Name)}
	if err := checkName(plan.wanted); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	if plan.agent, err = agentFor(image, options); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	return plan, nil
}

// refresh is how often a step says how far it is.
const refresh = 200 * time.Millisecond

// unpacking returns what reports how much of an archive has been unpacked, as the step Unpack.
func (e *Engine) unpacking() func(bytes int64, done bool) {
	begun := e.config.Now()
	last := begun
	return func(bytes int64, done bool) {
		now := e.config.Now()
		if !done && now.Sub(last) < refresh {
			return
		}
		last = now
		step := imagepull.Step{Name: "Unpack", Detail: units.HumanSize(float64(bytes)), Done: done}
		if done {
			step.Elapsed = now.Sub(begun)
		}
		e.config.Report(step)
	}
}

// bootPlatform is the only platform that the agent is for, and that VMs run, in any variant.
const bootPlatform = "linux/amd64"

// boots reports whether VMs run what is for a platform. Whether the processor has what a variant needs, the image's own
// programs say, as in a container.
func boots(platform string) bool {
	return platform == bootPlatform || strings.HasPrefix(platform, bootPlatform+"/")
}

func agentFor(image *oci.Image, options PullOptions) (*imagepull.Agent, error) {
	if options.NoGuest || !boots(image.Platform.String()) {
		return nil, nil
	}
	binary, err := embedded.Agent()
	if err != nil {
		return nil, err
	}
	return &imagepull.Agent{Binary: binary, Version: embedded.Version()}, nil
}

// maxName is the longest name, in bytes, that a file can be named after, with the suffix (NAME_MAX in linux/limits.h).
const maxName = 240

// nameForm is the form of docker's names, [HOST[:PORT]/]PATH[:TAG][@DIGEST], with capitals allowed.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+/[A-Za-z0-9][A-Za-z0-9._-]*)?` +
	`(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?$`)

func checkName(name string) error {
	if !nameForm.MatchString(name) || len(url.PathEscape(name)) > maxName {
		err := fmt.Errorf("naming the image %q: not a name for an image", name)
		return fault.New(fault.Usage, err, "pass --name in the form name:tag, with letters, digits and . _ -")
	}
	return nil
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
		p.builder.Name(), p.builder.Version(), agent,
	} {
		_, _ = fmt.Fprintf(hash, "%d:%s", len(input), input)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// size decides the size of the disk for an image of this usage.
func (p *pullPlan) size(usage rootfs.Usage) (int64, error) {
	return chooseSize(p.options.Size, p.builder.MinSize(usage))
}

func (p *pullPlan) name() store.Name {
	return store.Name{Name: p.wanted, ID: p.id(), Digest: p.image.Digest, Reference: p.image.Reference}
}

// layers returns the diff_ids of the image's layers, each once.
func (p *pullPlan) layers() []string {
	var ids []string
	for _, blob := range p.image.Blobs {
		if !slices.Contains(ids, blob.DiffID) {
			ids = append(ids, blob.DiffID)
		}
	}
	return ids
}

// ensureImage names the planned image, which it builds if it is not there. Whoever comes second waits for the first.
func (e *Engine) ensureImage(ctx context.Context, plan *pullPlan) (Pulled, error) {
	begun := e.steps().Announce("Wait", "another process makes or removes this image")
	held, err := e.images.LockImage(ctx, plan.id())
	begun()
	if err != nil {
		return Pulled{}, err
	}
	defer held.Release()
	// Until the image is there, nobody knows that its layers are needed.
	using, err := e.layers.Use(ctx, plan.layers())
	if err != nil {
		return Pulled{}, err
	}
	defer using.Release()
	pulled := Pulled{Name: plan.wanted}
	pulled.Image, err = e.images.Get(plan.id())
	if rebuild(err) {
		pulled.Fresh = true
		pulled.Image, err = e.makeImage(ctx, plan)
	}
	if err != nil {
		return Pulled{}, err
	}
	if err := e.images.Tag(ctx, plan.name()); err != nil {
		return Pulled{}, err
	}
	return pulled, e.settle(plan.id()) // the last, since whatever else is synced meanwhile waits for this
}

// rebuild tells whether building the image anew mends what reading it said.
func rebuild(err error) bool {
	kind := fault.KindOf(err)
	return errors.Is(err, fs.ErrNotExist) || err != nil && (kind == fault.Corrupt || kind == fault.Unsupported)
}

// makeImage builds an image that is not there, or cannot be used. The disk of a VM is built on the bytes of the one before.
func (e *Engine) makeImage(ctx context.Context, plan *pullPlan) (store.Image, error) {
	if _, same := plan.builder.(imagepull.Native); !same {
		vm, err := e.madeOf(plan.id())
		if err != nil {
			return store.Image{}, err
		}
		if vm != "" {
			err := fmt.Errorf("making the image %q anew: the VM %q is made of the one before, and the builder %s makes another disk each time",
				plan.wanted, vm, plan.builder.Name())
			return store.Image{}, fault.New(fault.Conflict, err, "remove the VM first: banger vm rm "+vm)
		}
	}
	return e.buildImage(ctx, plan)
}

func (e *Engine) buildImage(ctx context.Context, plan *pullPlan) (image store.Image, err error) {
	if err := e.trimLayers(ctx); err != nil {
		return store.Image{}, err
	}
	stage, err := e.home.NewStage(ctx)
	if err != nil {
		return store.Image{}, err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	disk := store.StagedDisk(stage)
	if err := os.Mkdir(filepath.Dir(disk), 0o700); err != nil {
		return store.Image{}, fmt.Errorf("staging the image: %w", err)
	}
	puller := imagepull.Puller{Builder: plan.builder, Layers: e.layers, Steps: e.steps()}
	built, err := puller.Pull(ctx, imagepull.Request{
		Image: plan.image, Agent: plan.agent, WorkDir: stage.Dir, OutFile: disk, Size: plan.size,
	})
	if err != nil {
		return store.Image{}, err
	}
	image = e.describe(plan, built)
	return image, e.images.Publish(ctx, stage, image)
}

func (e *Engine) describe(plan *pullPlan, built imagepull.Built) store.Image {
	image := store.Image{
		ID: plan.id(), Reference: plan.image.Reference, Digest: plan.image.Digest,
		Platform: plan.image.Platform.String(), Created: e.config.Now().UTC(),
		Size: built.Size, Content: built.Usage.Bytes, Inodes: built.Usage.Inodes, Builder: plan.builder.Name(),
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
