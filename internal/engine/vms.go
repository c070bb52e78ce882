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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/instance"
	"github.com/banger-vm/banger/internal/vm/monitor"
)

// The states of a VM that does not run. One that does is in a phase of its monitor.
const (
	StateCreated = "created" // never started
	StateStopped = "stopped" // its command or the machine ended in order
	StateCrashed = "crashed" // its kernel, the VMM or the monitor ended without order
	StateFailed  = "failed"  // it did not come up
	StateUnknown = "unresponsive"
)

// VM is a VM and how it is.
type VM struct {
	instance.Config
	State  string          `json:"state"`
	Dir    string          `json:"dir"`
	Status *monitor.Status `json:"status,omitempty"` // while it runs
	Last   *instance.State `json:"last,omitempty"`   // what became of its last run
}

// Runs reports whether the VM has a living monitor.
func (v VM) Runs() bool {
	return v.State == string(monitor.Starting) || v.State == string(monitor.Running) ||
		v.State == string(monitor.Stopping) || v.State == StateUnknown
}

// statusLimit is how long a monitor may take to say how it is.
const statusLimit = 3 * time.Second

// FindVM returns the VM of that name.
func (e *Engine) FindVM(ctx context.Context, name string) (VM, error) {
	i, err := e.instance(name)
	if err != nil {
		return VM{}, err
	}
	return e.look(ctx, i), nil
}

// ListVMs returns all VMs by name. Those that cannot be read are reported in the error, beside the rest.
func (e *Engine) ListVMs(ctx context.Context) ([]VM, error) {
	instances, broken := e.vms.List()
	list := make([]VM, 0, len(instances))
	for _, i := range instances {
		list = append(list, e.look(ctx, i))
	}
	return list, broken
}

// instance returns the VM of that name, or a fault.NotFound that names those that are called alike.
func (e *Engine) instance(name string) (*instance.Instance, error) {
	if name != "" && validVMName(name) { // any other may lead out of the directory of the VMs
		i, err := e.vms.Get(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return i, err
		}
	}
	names, _ := e.vms.Names()
	err := fmt.Errorf("finding the VM %q: there is none of that name", name)
	return nil, fault.New(fault.NotFound, err, suggest(name, names, "`banger vm ls` lists the VMs"))
}

// look derives the state of a VM from its monitor's lock and, while that is held, from the monitor itself.
func (e *Engine) look(ctx context.Context, i *instance.Instance) VM {
	v := VM{Config: i.Config, Dir: i.Dir}
	for v.State == "" && i.Runs() {
		v.Status, v.State = e.ask(ctx, i)
	}
	// Only now: the last thing that a monitor does under its lock is to write down what became of the run.
	if last, ran := i.State(); ran {
		v.Last = &last
	}
	if v.State == "" {
		v.restingState(i)
	}
	return v
}

// restingState finds the state of a VM that does not run.
func (v *VM) restingState(i *instance.Instance) {
	switch {
	case v.Last == nil:
		v.State = StateCreated
	case v.Last.Ended == nil && i.BeingStarted():
		v.State = string(monitor.Starting)
	case v.Last.Ended == nil:
		v.State = StateCrashed
		v.Last.Reason, v.Last.Error = instance.Crashed, "its monitor was killed"
	case v.Last.Reason == instance.Crashed:
		v.State = StateCrashed
	case v.Last.Reason == instance.Failed:
		v.State = StateFailed
	default:
		v.State = StateStopped
	}
}

// ask asks a monitor how its VM is. The state is empty if it has ended meanwhile.
func (e *Engine) ask(ctx context.Context, i *instance.Instance) (*monitor.Status, string) {
	limited, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	status, err := e.client(i).Status(limited)
	switch {
	case err == nil:
		return &status, string(status.Phase)
	case limited.Err() != nil:
		return nil, StateUnknown
	case !i.Runs():
		return nil, ""
	}
	return nil, string(monitor.Starting) // it has the lock, and no socket yet
}

// client talks to the monitor of a VM that runs.
func (e *Engine) client(i *instance.Instance) monitor.Client {
	return monitor.Client{Name: i.Name, Socket: filepath.Join(e.currentSockets(i), monitor.ControlSocket)}
}

// currentSockets is the directory of the sockets of the VM's last run, which may have been started with another runtime
// directory than this one's.
func (e *Engine) currentSockets(i *instance.Instance) string {
	usual := e.socketsOf(i)
	m, err := i.Monitor()
	if dir := filepath.Dir(m.Control); err == nil && filepath.IsAbs(dir) && filepath.Base(dir) == filepath.Base(usual) {
		return dir
	}
	return usual
}

// checkAnswers refuses to wait for a monitor that does not answer.
func (e *Engine) checkAnswers(ctx context.Context, i *instance.Instance, doing string) error {
	if _, state := e.ask(ctx, i); state != StateUnknown || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := fmt.Errorf("%s the VM %q: its monitor does not answer", doing, i.Name)
	return fault.New(fault.Failure, err, "end it: banger vm kill "+i.Name)
}

// socketsOf is the directory of a VM's sockets. A socket's path has to fit into 108 bytes (unix(7)), so the home, which
// may be anywhere, will not do.
func (e *Engine) socketsOf(i *instance.Instance) string {
	sum := sha256.Sum256([]byte(i.Dir))
	return filepath.Join(e.config.RuntimeDir, hex.EncodeToString(sum[:6]))
}

// notRunning is the error for what needs a VM that runs.
func notRunning(doing, name, state string) error {
	err := fmt.Errorf("%s the VM %q: it does not run (%s)", doing, name, state)
	return fault.New(fault.NotRunning, err, "start it: banger vm start "+name)
}

// CreateVM makes a VM and does not start it.
func (e *Engine) CreateVM(ctx context.Context, options VMOptions) (VM, error) {
	i, starting, err := e.create(ctx, options, false)
	if err != nil {
		return VM{}, err
	}
	starting.Release()
	return e.look(ctx, i), nil
}

// StartVM starts a VM that does not run, and returns when its command runs or, where it has none, when it has booted.
func (e *Engine) StartVM(ctx context.Context, name string) error {
	i, err := e.instance(name)
	if err != nil {
		return err
	}
	starting, err := i.LockStart(ctx)
	if err != nil {
		return err
	}
	defer starting.Release()
	attachment, err := e.launch(ctx, i, monitor.Start{})
	if err != nil {
		return err
	}
	return attachment.Started(ctx)
}

// StopVM stops a VM in good order, and kills it if that takes longer than limit. A VM that does not run is left alone.
func (e *Engine) StopVM(ctx context.Context, name string, limit time.Duration) error {
	i, err := e.instance(name)
	if err != nil || !i.Runs() {
		return err
	}
	if err := e.checkAnswers(ctx, i, "stopping"); err != nil {
		return err
	}
	_, err = e.client(i).Stop(ctx, limit)
	return e.unlessEnded(i, fmt.Sprintf("stopping the VM %q", name), err)
}

// RestartVM stops a VM, if it runs, and starts it.
func (e *Engine) RestartVM(ctx context.Context, name string, limit time.Duration) error {
	i, err := e.instance(name)
	if err != nil {
		return err
	}
	if i.Remove && i.Runs() {
		err := fmt.Errorf("restarting the VM %q: it is removed when it ends", name)
		return fault.New(fault.Usage, err, "start VMs that are to stay without --rm")
	}
	if err := e.StopVM(ctx, name, limit); err != nil {
		return err
	}
	return e.StartVM(ctx, name)
}

// KillVM ends a VM at once, as if its power was cut.
func (e *Engine) KillVM(ctx context.Context, name string) error {
	i, err := e.instance(name)
	if err != nil {
		return err
	}
	if !i.Runs() {
		return notRunning("killing", name, e.look(ctx, i).State)
	}
	return e.kill(ctx, i)
}

// killLimit is how long a monitor may take to kill its VM before it is killed itself.
const killLimit = 10 * time.Second

func (e *Engine) kill(ctx context.Context, i *instance.Instance) error {
	limited, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	err := e.checkAnswers(limited, i, "killing")
	if err == nil {
		_, err = e.client(i).Kill(limited)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	e.killMonitor(i)
	return e.unlessEnded(i, fmt.Sprintf("killing the VM %q", i.Name), err)
}

// killMonitor kills a monitor that does not answer. The VMM dies with it.
func (e *Engine) killMonitor(i *instance.Instance) {
	m, err := i.Monitor()
	if err != nil {
		return
	}
	// The process of that id may be another one by now.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID))
	if err == nil && slices.Contains(strings.Split(string(line), "\x00"), i.Dir) {
		_ = syscall.Kill(m.PID, syscall.SIGKILL)
	}
}

// unlessEnded returns nil if the VM has ended, however that went: a monitor that was killed gives no answer.
func (e *Engine) unlessEnded(i *instance.Instance, doing string, err error) error {
	if err == nil {
		return nil
	}
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if !i.Runs() {
			return nil
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// SignalVM sends a signal to the VM's command.
func (e *Engine) SignalVM(ctx context.Context, name string, signal syscall.Signal) error {
	i, err := e.instance(name)
	if err != nil {
		return err
	}
	if !i.Runs() {
		return notRunning("signalling", name, e.look(ctx, i).State)
	}
	return e.client(i).Signal(ctx, int(signal))
}

// WaitVM waits for the end of a VM and returns its exit code. One that does not run, and is not about to, has it already.
func (e *Engine) WaitVM(ctx context.Context, name string) (int, error) {
	i, err := e.begunInstance(ctx, name)
	if err != nil {
		return 0, err
	}
	if i.Runs() {
		state, err := e.client(i).Wait(ctx)
		if err == nil || ctx.Err() != nil {
			return state.ExitCode, err
		}
		if err := e.unlessEnded(i, fmt.Sprintf("waiting for the VM %q", name), err); err != nil {
			return 0, err
		}
	}
	last := e.look(ctx, i)
	switch {
	case last.Last == nil:
		return 0, fault.New(fault.NotRunning, fmt.Errorf("waiting for the VM %q: it has never run", name), "start it: banger vm start "+name)
	case last.Last.Ended == nil:
		return 128 + int(syscall.SIGKILL), nil
	}
	return last.Last.ExitCode, nil
}

// lookPause is how often it is looked whether a VM that is being started has a monitor.
const lookPause = 10 * time.Millisecond

// begunInstance is instance, and waits while the VM's first run has been asked for and has no monitor yet.
func (e *Engine) begunInstance(ctx context.Context, name string) (*instance.Instance, error) {
	for {
		i, err := e.instance(name)
		if err != nil {
			return nil, err
		}
		last, asked := i.State()
		if !asked || last.Ended != nil || i.Runs() || !i.BeingStarted() {
			return i, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lookPause):
		}
	}
}

// RemoveVM removes a VM with its disk. One that runs is killed first if force says so, and is an error otherwise.
func (e *Engine) RemoveVM(ctx context.Context, name string, force bool) error {
	i, err := e.instance(name)
	if err != nil {
		if !force || fault.KindOf(err) == fault.NotFound {
			return err
		}
		i = e.vms.Unread(name)
	}
	if force {
		awaitMonitor(ctx, i)
	}
	if i.Runs() {
		if !force {
			err := fmt.Errorf("removing the VM %q: it runs", name)
			return fault.New(fault.NotRunning, err, "stop it first, or pass --force")
		}
		if err := e.kill(ctx, i); err != nil {
			return err
		}
	}
	return e.discard(ctx, i)
}

// awaitMonitor waits while the VM is being started and has no monitor that could be told to end it.
func awaitMonitor(ctx context.Context, i *instance.Instance) {
	limited, cancel := context.WithTimeout(ctx, discardLimit)
	defer cancel()
	for limited.Err() == nil && i.BeingStarted() && !i.Runs() {
		time.Sleep(lookPause)
	}
}

// discardLimit is how long a monitor that ends may take to do so, or somebody who is about to start the VM to fail.
const discardLimit = 20 * time.Second

var errInUse = errors.New("it runs, or is being started")

// discard removes a VM that does not run.
func (e *Engine) discard(ctx context.Context, i *instance.Instance) error {
	limited, cancel := context.WithTimeoutCause(ctx, discardLimit, errInUse)
	defer cancel()
	err := e.discardLocked(limited, i)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // it has removed itself
	case errors.Is(err, errInUse):
		err = fault.New(fault.NotRunning, fmt.Errorf("removing the VM %q: %w", i.Name, errInUse), "stop it first, or pass --force")
	}
	return noSpace(err)
}

func (e *Engine) discardLocked(ctx context.Context, i *instance.Instance) error {
	starting, err := i.LockStart(ctx)
	if err != nil {
		return err
	}
	defer starting.Release()
	held, err := i.Lock(ctx)
	if err != nil {
		return err
	}
	defer held.Release()
	_ = os.RemoveAll(e.currentSockets(i))
	return i.Discard()
}

// PruneVMs removes all VMs that do not run, and returns their names.
func (e *Engine) PruneVMs(ctx context.Context) (removed []string, err error) {
	list, broken := e.vms.List()
	failed := []error{broken, e.vms.Sweep()}
	for _, i := range list {
		if i.Runs() || i.BeingStarted() {
			continue
		}
		if err := e.discard(ctx, i); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, i.Name)
	}
	return removed, errors.Join(failed...)
}

// sweep removes the VMs that were to be removed with their end, which came too suddenly for that.
func (e *Engine) sweep(ctx context.Context) {
	_ = e.vms.Sweep()
	list, _ := e.vms.List()
	for _, i := range list {
		_, begun := i.State()
		if i.Remove && begun && !i.Runs() && !i.BeingStarted() {
			_ = e.discard(ctx, i)
		}
	}
}

// launch starts the VM's monitor. The caller holds the start's lock.
func (e *Engine) launch(ctx context.Context, i *instance.Instance, start monitor.Start) (*monitor.Attachment, error) {
	if i.Runs() {
		return nil, fault.New(fault.Conflict, fmt.Errorf("starting the VM %q: it runs already", i.Name), "")
	}
	linux, err := e.readyToBoot(i)
	if err != nil {
		return nil, err
	}
	if err := e.makeRuntimeDir(); err != nil {
		return nil, err
	}
	start.Dir, start.Spec = i.Dir, e.spec(i, linux)
	_ = os.Remove(start.Spec.Initramfs)
	if err := writeInitramfs(linux, start.Spec.Initramfs); err != nil {
		return nil, noSpace(err)
	}
	var attachment *monitor.Attachment
	err = e.steps().Run("Boot", func() (detail string, err error) {
		command := append(append([]string{}, e.config.Monitor...), i.Dir)
		attachment, err = monitor.Launch(ctx, e.runner, command, i, start)
		return "kernel " + linux.Version, noSpace(err)
	})
	return attachment, err
}

// readyToBoot checks what the VM needs of the host, and returns its kernel.
func (e *Engine) readyToBoot(i *instance.Instance) (*kernel.Kernel, error) {
	if err := e.checkHost(int64(i.MemoryMiB) * mib); err != nil {
		return nil, err
	}
	if _, err := os.Stat(e.images.Disk(i.ImageID)); err != nil {
		err := fmt.Errorf("starting the VM %q: the disk of its image %q is gone: %w", i.Name, i.Image, err)
		return nil, fault.New(fault.Corrupt, err, "pull the same image again")
	}
	_, err := e.images.Get(i.ImageID)
	if err == nil {
		err = e.settle(i.ImageID)
	}
	if err != nil {
		return nil, fmt.Errorf("starting the VM %q: %w", i.Name, err)
	}
	return e.FindKernel(i.Kernel)
}

// checkHost checks that there are the programs and the memory for a VM.
func (e *Engine) checkHost(memory int64) error {
	for _, program := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := e.runner.Find(program); err != nil {
			return err
		}
	}
	return checkMemory("/proc/meminfo", memory)
}

func (e *Engine) makeRuntimeDir() error {
	if err := os.MkdirAll(e.config.RuntimeDir, 0o700); err != nil {
		return fmt.Errorf("making the runtime directory: %w", err)
	}
	return CheckPrivate(e.config.RuntimeDir)
}

func (e *Engine) spec(i *instance.Instance, linux *kernel.Kernel) vm.Spec {
	return vm.Spec{
		Name: i.Name, Hostname: i.Hostname, Dir: i.Dir, RuntimeDir: e.socketsOf(i),
		Vmlinuz: linux.Vmlinuz(), Vmlinux: linux.Vmlinux(), Initramfs: i.Path(instance.Initramfs), ModulesImage: linux.ModulesImage(),
		RootImage: e.images.Disk(i.ImageID), DiskSize: i.DiskSize, Volatile: i.Remove, Init: i.Init, SpawnAgent: i.SpawnAgent,
		CPUs: i.CPUs, MemoryMiB: i.MemoryMiB, Network: i.Network == NetworkUser, BootTimeout: i.BootTimeout,
	}
}

// lockStart is held while a VM is made and started, by the process that does it.
func lockStart(ctx context.Context, dir string) (*lock.Lock, error) {
	return lock.Acquire(ctx, filepath.Join(dir, instance.StartLock))
}

// boot is how a VM is booted.
type boot struct {
	program string // that becomes process 1
	systemd bool   // it is systemd
	spawn   bool   // it does not start the agent
}

// bootOf returns how a VM is booted, for a choice of VMOptions.Init and the init that its image was made for.
func bootOf(choice, image string) (boot, error) {
	made := image == string(guest.Systemd) // the agent is a service
	switch {
	case choice == "" || choice == InitAuto:
		return boot{program: guest.InitPath(guest.Init(image)), systemd: made}, nil
	case choice == InitGuest:
		return boot{program: guest.InitPath(guest.Guest)}, nil
	case filepath.IsAbs(choice):
		return boot{program: choice, systemd: isInit(choice), spawn: !made || !isInit(choice)}, nil
	}
	err := fmt.Errorf("choosing the init: %q is neither %q, %q nor an absolute path", choice, InitAuto, InitGuest)
	return boot{}, fault.New(fault.Usage, err, "")
}
