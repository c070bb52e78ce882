package engine

import (
	"context"
	"fmt"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/rootfs"
)

// KernelSource says where a kernel comes from: packages, the host, or files. Exactly one of them is given. Paths are of
// this host.
type KernelSource struct {
	Debs     []string `json:"debs,omitempty"`      // package files; more than one where the modules have their own
	FromHost bool     `json:"from_host,omitempty"` // the kernel that this host runs
	Vmlinuz  string   `json:"vmlinuz,omitempty"`   // bzImage or ELF
	Modules  string   `json:"modules,omitempty"`   // with Vmlinuz: directory of its modules; "" where all drivers are built in
}

// Check refuses, as a fault.Usage, anything but one source.
func (s KernelSource) Check() error {
	_, err := s.open()
	return err
}

func (s KernelSource) open() (kernel.Source, error) {
	var sources []kernel.Source
	if len(s.Debs) > 0 {
		sources = append(sources, kernel.FromDeb(s.Debs...))
	}
	if s.FromHost {
		sources = append(sources, kernel.FromHost("/"))
	}
	if s.Vmlinuz != "" || s.Modules != "" {
		sources = append(sources, kernel.FromFiles(s.Vmlinuz, s.Modules))
	}
	if len(sources) != 1 || s.Vmlinuz == "" && s.Modules != "" {
		err := fmt.Errorf("importing a kernel: exactly one source is needed, and %d are given", len(sources))
		return nil, fault.New(fault.Usage, err, "pass --deb FILE, or --from-host, or --vmlinuz FILE with --modules DIR")
	}
	return sources[0], nil
}

// ImportKernel brings a kernel into the store under a name ("" is the kernel's version). Its modules become a
// read-only disk that VMs see at /lib/modules.
func (e *Engine) ImportKernel(ctx context.Context, name string, from KernelSource) (*kernel.Kernel, error) {
	source, err := from.open()
	if err != nil {
		return nil, err
	}
	stage, err := e.home.NewStage(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stage.Close() }()
	builder, err := e.builder("")
	if err != nil {
		return nil, err
	}
	build := func(ctx context.Context, modules *rootfs.Tree, outFile string) error {
		_, err := builder.Build(ctx, imagepull.Work{
			Tree: modules, Usage: modules.Usage(), Dir: stage.Dir, OutFile: outFile,
			Size: func(usage rootfs.Usage) (int64, error) { return builder.MinSize(usage), nil },
		}, e.steps())
		return err
	}
	imported, err := e.kernels.Import(ctx, name, source, build, e.config.Now())
	return imported, noSpace(err)
}

// ListKernels returns all kernels, sorted by name. Those that cannot be read are reported in the error, beside the rest.
func (e *Engine) ListKernels(context.Context) ([]*kernel.Kernel, error) { return e.kernels.List() }

// InspectKernel returns the kernel of that name.
func (e *Engine) InspectKernel(_ context.Context, name string) (*kernel.Kernel, error) {
	return e.kernels.Get(name)
}

// FindKernel returns a kernel by name; "" is the default one.
func (e *Engine) FindKernel(name string) (*kernel.Kernel, error) {
	if name == "" {
		return e.kernels.Default()
	}
	return e.kernels.Get(name)
}

// RemoveKernel removes a kernel. VMs that run with it go on.
func (e *Engine) RemoveKernel(ctx context.Context, name string) error {
	return e.kernels.Remove(ctx, name)
}
