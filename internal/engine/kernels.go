package engine

import (
	"context"

	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/rootfs"
)

// ImportKernel brings a kernel into the store under a name ("" is the kernel's version). Its modules become a
// read-only disk that VMs see at /lib/modules.
func (e *Engine) ImportKernel(ctx context.Context, name string, source kernel.Source) (*kernel.Kernel, error) {
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

// ListKernels returns all kernels, sorted by name.
func (e *Engine) ListKernels() ([]*kernel.Kernel, error) { return e.kernels.List() }

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
