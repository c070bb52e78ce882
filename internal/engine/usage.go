package engine

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/store"
)

// The kinds of things that take space.
const (
	UsageImages     = "images"
	UsageLayers     = "layers"
	UsageVMs        = "vms"
	UsageKernels    = "kernels"
	UsageUnfinished = "unfinished" // partial downloads, and what is being built
	UsageDocuments  = "documents"  // manifests and configurations of registries; there is no list of them
)

// DiskUsage says what takes how much space below the home. Sizes are the bytes that files take on the disk, which are
// fewer than a sparse file's length; what several share is counted once.
type DiskUsage struct {
	Totals     []UsageTotal      `json:"totals"` // one for each kind, in the order of the constants
	Images     []ImageUsage      `json:"images"`
	Layers     []LayerUsage      `json:"layers"` // the least recently used first
	VMs        []VMUsage         `json:"vms"`
	Kernels    []KernelUsage     `json:"kernels"`
	Unfinished []UnfinishedUsage `json:"unfinished"`
}

// UsageTotal is the sum of one kind.
type UsageTotal struct {
	Kind        string `json:"kind"`
	Count       int    `json:"count"`
	Active      int    `json:"active"` // those that are in use
	Size        int64  `json:"size"`
	Reclaimable int64  `json:"reclaimable"` // of those that are not in use
}

// ImageUsage is what an image takes. It is in use by the VMs that are made of it.
type ImageUsage struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names"`
	Created time.Time `json:"created,omitzero"` // zero for an image that cannot be read
	Disk    int64     `json:"disk"`             // its ext4 file and what is kept beside it
	Shared  int64     `json:"shared"`           // its layers that other images are made of, too
	Unique  int64     `json:"unique"`           // Disk and its other layers
	VMs     []string  `json:"vms"`
}

// LayerUsage is what a layer takes. It is in use by the images that are made of it.
type LayerUsage struct {
	DiffID  string    `json:"diff_id"`
	Size    int64     `json:"size"`
	LastUse time.Time `json:"last_use"` // by a pull
	Images  []string  `json:"images"`   // their ids
	Busy    bool      `json:"busy"`     // a pull works with it
}

// VMUsage is what a VM takes. It is in use while it runs.
type VMUsage struct {
	Name  string `json:"name"`
	Image string `json:"image"`
	Size  int64  `json:"size"`
	Runs  bool   `json:"runs"`
}

// KernelUsage is what a kernel takes. It is in use by the VMs that boot with it, and the newest is also by those to come.
type KernelUsage struct {
	Name    string   `json:"name"`
	Size    int64    `json:"size"`
	VMs     []string `json:"vms"`
	Default bool     `json:"default"`
}

// UnfinishedUsage is what a pull, or other work, has not finished.
type UnfinishedUsage struct {
	Name string `json:"name"` // a layer's diff_id, or a directory below tmp/
	Size int64  `json:"size"`
	Busy bool   `json:"busy"` // somebody works on it
}

// meter measures what files take on the disk. A file with several names counts once.
type meter struct {
	seen map[inode]bool
}

type inode struct{ device, number uint64 }

// tree returns the bytes of all that is at and below path. What vanishes meanwhile takes none.
func (m *meter) tree(path string) (size int64) {
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			size += m.file(info)
		}
		return nil
	})
	return size
}

func (m *meter) file(info fs.FileInfo) int64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	if !info.IsDir() && stat.Nlink > 1 {
		id := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // Dev is narrower on some architectures
		if m.seen[id] {
			return 0
		}
		m.seen[id] = true
	}
	return stat.Blocks * 512 // the unit of st_blocks (stat(2))
}

// DiskUsage measures what there is. What cannot be read is reported in the error, beside the rest.
func (e *Engine) DiskUsage(ctx context.Context) (DiskUsage, error) {
	m := &meter{seen: map[inode]bool{}}
	usage := DiskUsage{
		Images: []ImageUsage{}, Layers: []LayerUsage{}, VMs: []VMUsage{}, Kernels: []KernelUsage{}, Unfinished: []UnfinishedUsage{},
	}
	failed := errors.Join(
		e.measureVMs(m, &usage), e.measureImages(m, &usage), e.measureLayers(ctx, &usage), e.measureKernels(m, &usage),
		e.measureWork(ctx, m, &usage))
	documents, err := e.measureDocuments(m)
	usage.Totals = append(usage.totals(), documents)
	return usage, errors.Join(failed, err)
}

func (e *Engine) measureVMs(m *meter, usage *DiskUsage) error {
	vms, broken := e.vms.List()
	for _, vm := range vms {
		usage.VMs = append(usage.VMs, VMUsage{Name: vm.Name, Image: vm.ImageID, Size: m.tree(vm.Dir), Runs: vm.Runs()})
	}
	return broken
}

// measureImages measures the images; measureLayers adds what their layers take.
func (e *Engine) measureImages(m *meter, usage *DiskUsage) error {
	ids, err := e.images.IDs()
	names, namesErr := e.images.Names()
	broken := errors.Join(err, namesErr)
	for _, id := range ids {
		size := m.tree(filepath.Dir(e.images.Disk(id)))
		image, err := e.images.Get(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		broken = errors.Join(broken, err)
		usage.Images = append(usage.Images, ImageUsage{
			ID: id, Created: image.Created, Disk: size, Unique: size,
			Names: withNames(store.Image{ID: id}, names).Names, VMs: usage.vmsOf(id),
		})
	}
	return broken
}

// vmsOf returns the names of the VMs that are made of an image.
func (u *DiskUsage) vmsOf(image string) []string {
	names := []string{}
	for _, vm := range u.VMs {
		if vm.Image == image {
			names = append(names, vm.Name)
		}
	}
	return names
}

func (e *Engine) measureLayers(ctx context.Context, usage *DiskUsage) error {
	stored, err := e.layers.List(ctx)
	users := map[string][]string{}
	for _, image := range usage.Images {
		for diffID := range e.layersOf(image.ID) {
			users[diffID] = append(users[diffID], image.ID)
		}
	}
	for _, l := range stored {
		if l.Partial {
			usage.Unfinished = append(usage.Unfinished, UnfinishedUsage{Name: l.DiffID, Size: l.Size, Busy: l.Busy})
			continue
		}
		images := append([]string{}, users[l.DiffID]...)
		usage.Layers = append(usage.Layers, LayerUsage{
			DiffID: l.DiffID, Size: l.Size, LastUse: l.LastUse.UTC(), Images: images, Busy: l.Busy,
		})
		usage.shareOut(l.Size, images)
	}
	return err
}

// shareOut adds a layer to what its images take.
func (u *DiskUsage) shareOut(size int64, images []string) {
	for _, id := range images {
		for i := range u.Images {
			if u.Images[i].ID != id {
				continue
			}
			if len(images) > 1 {
				u.Images[i].Shared += size
			} else {
				u.Images[i].Unique += size
			}
		}
	}
}

func (e *Engine) measureKernels(m *meter, usage *DiskUsage) error {
	kernels, broken := e.kernels.List()
	newest, err := e.kernels.Default()
	vms, _ := e.vms.List() // those that cannot be read have been reported
	for _, k := range kernels {
		used := KernelUsage{Name: k.Name, Size: m.tree(filepath.Dir(k.Vmlinuz())), VMs: []string{}}
		used.Default = err == nil && newest.Name == k.Name
		for _, vm := range vms {
			if vm.Kernel == k.Name {
				used.VMs = append(used.VMs, vm.Name)
			}
		}
		usage.Kernels = append(usage.Kernels, used)
	}
	return broken
}

func (e *Engine) measureWork(ctx context.Context, m *meter, usage *DiskUsage) error {
	work, err := e.home.Work(ctx)
	for _, w := range work {
		usage.Unfinished = append(usage.Unfinished, UnfinishedUsage{
			Name: filepath.Base(w.Dir), Size: m.tree(w.Dir), Busy: w.Alive,
		})
	}
	return err
}

// totals sums up the kinds that are listed.
func (u *DiskUsage) totals() []UsageTotal {
	images, layers, vms := UsageTotal{Kind: UsageImages}, UsageTotal{Kind: UsageLayers}, UsageTotal{Kind: UsageVMs}
	kernels, unfinished := UsageTotal{Kind: UsageKernels}, UsageTotal{Kind: UsageUnfinished}
	for _, i := range u.Images {
		images.add(i.Disk, len(i.VMs) > 0)
	}
	for _, l := range u.Layers {
		layers.add(l.Size, l.Busy || len(l.Images) > 0)
	}
	for _, vm := range u.VMs {
		vms.add(vm.Size, vm.Runs)
	}
	for _, k := range u.Kernels {
		kernels.add(k.Size, k.Default || len(k.VMs) > 0)
	}
	for _, w := range u.Unfinished {
		unfinished.add(w.Size, w.Busy)
	}
	return []UsageTotal{images, layers, vms, kernels, unfinished}
}

func (t *UsageTotal) add(size int64, active bool) {
	t.Count++
	t.Size += size
	if active {
		t.Active++
	} else {
		t.Reclaimable += size
	}
}
