// Package engine has one function per verb of banger: pull, list, export, remove, import a kernel, run. It puts the
// packages of the pipeline together, and adds what none of them should know: sizes, names, locks, and publishing.
//
// An Engine is safe for concurrent use, and several processes may work on one home at the same time.
package engine

import (
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/system"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// Config is what an Engine needs of its surroundings.
type Config struct {
	Home       string // BANGER_HOME
	RuntimeDir string // for sockets: a short path, private to the user; made when first needed
	Path       string // as in $PATH: where programs are looked for
	// Gunzip is the program that decompresses layers in gzip, or "go" for none. "" is the fastest that there is.
	Gunzip string
	Now    func() time.Time
	// Settle is how this program is started to call SettleImage with an id, which is added. None has PullImage do so itself.
	Settle []string
	// Monitor is how this program is started as the monitor of a VM, whose directory is added.
	Monitor    []string
	LayerCache LayerCache
	// Report is told of the steps of what takes long. It is called from one goroutine at a time.
	Report func(imagepull.Step)
}

// Engine carries out banger's verbs.
type Engine struct {
	config  Config
	home    *store.Home
	images  *store.Images
	layers  *layer.Store
	kernels *kernel.Store
	vms     *instance.Store
	runner  *system.CommandRunner
}

// New opens the home, making it if it does not exist.
func New(config Config) (*Engine, error) {
	home, err := store.OpenHome(config.Home)
	if err != nil {
		return nil, err
	}
	config.Report = oneAtATime(config.Report)
	e := &Engine{
		config:  config,
		home:    home,
		images:  home.Images(),
		layers:  layer.NewStore(home.Path("layers")),
		kernels: kernel.NewStore(home.Path("kernels")),
		vms:     instance.NewStore(home.Path("vms")),
		runner:  system.NewCommandRunner(config.Path),
	}
	if e.layers.Gunzip, err = e.gunzip(); err != nil {
		return nil, err
	}
	return e, nil
}

// Reporting returns the same engine with another one to be told of the steps, see Config.
func (e *Engine) Reporting(report func(imagepull.Step)) *Engine {
	reporting := *e
	reporting.config.Report = oneAtATime(report)
	return &reporting
}

// oneAtATime has report called by one goroutine at a time: layers, and what is done about a registry, are reported by many.
func oneAtATime(report func(imagepull.Step)) func(imagepull.Step) {
	var mu sync.Mutex
	return func(step imagepull.Step) {
		mu.Lock()
		defer mu.Unlock()
		report(step)
	}
}

// steps runs and reports the steps of what takes long.
func (e *Engine) steps() imagepull.Steps {
	return imagepull.Steps{Now: e.config.Now, Report: e.config.Report}
}
