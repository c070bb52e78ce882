package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/remote"
)

// verbs is what the commands ask for. Package engine says what each does, and does it in this process; package remote
// has a daemon do it.
type verbs interface {
	PullImage(ctx context.Context, reference string, options engine.PullOptions) (engine.Pulled, error)
	ListImages(ctx context.Context) ([]engine.NamedImage, error)
	InspectImage(ctx context.Context, query string) (engine.ImageDetails, error)
	ExportImage(ctx context.Context, query, path string) error
	SaveImages(ctx context.Context, queries []string, format string, to io.Writer) error
	RemoveImage(ctx context.Context, query string) (removed string, err error)
	ListFiles(ctx context.Context, query string, options engine.FileOptions, visit func(engine.File) error) error
	CatFile(ctx context.Context, query, path string, to io.Writer) error
	DiffImages(ctx context.Context, from, to string, options engine.DiffOptions, visit func(engine.Change) error) error
	PruneImages(ctx context.Context, options engine.PruneOptions) (engine.PrunedImages, error)
	DiskUsage(ctx context.Context) (engine.DiskUsage, error)

	ImportKernel(ctx context.Context, name string, from engine.KernelSource) (*kernel.Kernel, error)
	ListKernels(ctx context.Context) ([]*kernel.Kernel, error)
	InspectKernel(ctx context.Context, name string) (*kernel.Kernel, error)
	RemoveKernel(ctx context.Context, name string) error

	CreateVM(ctx context.Context, options engine.VMOptions) (engine.VM, error)
	FindVM(ctx context.Context, name string) (engine.VM, error)
	ListVMs(ctx context.Context) ([]engine.VM, error)
	StartVM(ctx context.Context, name string) error
	StopVM(ctx context.Context, name string, limit time.Duration) error
	RestartVM(ctx context.Context, name string, limit time.Duration) error
	KillVM(ctx context.Context, name string) error
	SignalVM(ctx context.Context, name string, signal syscall.Signal) error
	WaitVM(ctx context.Context, name string) (int, error)
	RemoveVM(ctx context.Context, name string, force bool) error
	PruneVMs(ctx context.Context) (removed []string, err error)
	Stats(ctx context.Context, names []string) ([]engine.Stats, error)

	Ports(ctx context.Context, name string) ([]engine.VMPort, error)
	AddPorts(ctx context.Context, name string, specs []string) ([]port.Published, error)
	RemovePorts(ctx context.Context, name string, specs []string) ([]port.Published, error)

	Run(ctx context.Context, options engine.RunOptions) (int, error)
	Exec(ctx context.Context, name string, options engine.ExecOptions) (int, error)
	ExecDetached(ctx context.Context, name string, command exec.Command) (int, error)
	Stream(ctx context.Context, name string) (net.Conn, error)
	Logs(ctx context.Context, name string, options engine.LogOptions, stdout, stderr io.Writer) error

	Doctor(ctx context.Context) ([]engine.Check, error)
}

// engine returns what does the commands' work: the engine on the user's home or, if --host says so, a daemon.
func (a *app) engine() (verbs, error) {
	if host := a.daemonHost(); host != "" {
		return a.client(host)
	}
	return a.localEngine()
}

// client returns the client of the daemon that a --host names.
func (a *app) client(host string) (*remote.Client, error) {
	socket, err := socketOf(host)
	if err != nil {
		return nil, err
	}
	return remote.New(remote.Config{Socket: socket, Report: a.progress.report}), nil
}

// daemonHost is what the user says of a daemon, or "".
func (a *app) daemonHost() string {
	if a.host != "" {
		return a.host
	}
	return a.getenv("BANGER_HOST")
}

// socketOf returns the path of the socket that a --host names.
func socketOf(host string) (string, error) {
	path, isUnix := strings.CutPrefix(host, "unix://")
	if !isUnix || !filepath.IsAbs(path) {
		err := fmt.Errorf("--host %q is not the socket of a daemon", host)
		return "", usage(err, "write it as unix:///PATH, with an absolute path")
	}
	return path, nil
}

// localEngine opens the engine on the user's home.
func (a *app) localEngine() (*engine.Engine, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	return a.engineOn(home)
}

// engineOn opens the engine on a home, an absolute path: the processes that it starts work elsewhere.
func (a *app) engineOn(home string) (*engine.Engine, error) {
	cache, err := a.layerCache()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding banger's own program: %w", err)
	}
	return engine.New(engine.Config{
		Home: home, RuntimeDir: a.runtimeDir(), Path: a.getenv("PATH"), Gunzip: a.getenv("BANGER_GUNZIP"),
		Now: time.Now, Report: a.progress.report,
		Monitor: []string{program, "vm", "monitor"}, Settle: []string{program, "image", "settle", home}, LayerCache: cache,
	})
}

// layerCache is what BANGER_LAYER_LIMIT says of layers that no image is made of.
func (a *app) layerCache() (engine.LayerCache, error) {
	text := a.getenv("BANGER_LAYER_LIMIT")
	if text == "" {
		return engine.LayerCache{Limit: engine.DefaultLayerLimit}, nil
	}
	limit, err := units.RAMInBytes(text)
	if err != nil || limit < 0 {
		err := fmt.Errorf("BANGER_LAYER_LIMIT %q is not a size", text)
		return engine.LayerCache{}, usage(err, "write it like 20GiB, or 0 to keep no layers that no image is made of")
	}
	return engine.LayerCache{Limit: limit, KeepRemoved: true}, nil
}
