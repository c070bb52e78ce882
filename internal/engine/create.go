package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// The networks of a VM.
const (
	NetworkUser = "user" // the host's, without privileges
	NetworkNone = "none"
)

// The choices of a VM's init besides a path.
const (
	InitAuto  = "auto"  // the image's systemd, or the agent
	InitGuest = "guest" // the agent
)

// VMOptions say what a VM is made of. DefaultVMOptions has what the zero value lacks.
type VMOptions struct {
	Image      string        `json:"image"`                // a name, an id, or a reference
	Args       []string      `json:"args,omitempty"`       // replace the image's Cmd
	Entrypoint *string       `json:"entrypoint,omitempty"` // replaces Entrypoint, and drops Cmd; nil leaves them
	Kernel     string        `json:"kernel,omitempty"`     // "" is the default one
	Name       string        `json:"name,omitempty"`       // "" makes one up
	Hostname   string        `json:"hostname,omitempty"`   // "" is the name
	CPUs       int           `json:"cpus"`
	Memory     int64         `json:"memory"`          // bytes
	Disk       int64         `json:"disk,omitempty"`  // bytes, rounded down to whole blocks; 0 is the image's size
	Pull       string        `json:"pull"`            // PullMissing, PullAlways or PullNever
	Network    string        `json:"network"`         // NetworkUser or NetworkNone
	Ports      []string      `json:"ports,omitempty"` // published on the host, as package port writes them
	Init       string        `json:"init,omitempty"`  // InitAuto, InitGuest or a path; "" is InitAuto
	Timeout    time.Duration `json:"boot_timeout"`
	Remove     bool          `json:"remove,omitempty"` // with the end of the VM

	Env      []string `json:"env,omitempty"`      // added to the image's
	User     string   `json:"user,omitempty"`     // "" is the image's
	WorkDir  string   `json:"workdir,omitempty"`  // "" is the image's
	Terminal bool     `json:"terminal,omitempty"` // the command gets a terminal
	Input    bool     `json:"input,omitempty"`    // the command gets an input, where somebody is attached
}

// MinMemory is the least memory that a VM boots with, in bytes.
const MinMemory = vm.MinMemoryMiB << 20

// create makes a VM, which the caller holds the start's lock of. One that is to run at once has begun its run: should that
// come to nothing, nobody takes it for one that waits to be started.
func (e *Engine) create(ctx context.Context, options VMOptions, run bool) (*instance.Instance, *lock.Lock, error) {
	linux, err := e.readyToMake(ctx, options)
	if err != nil {
		return nil, nil, err
	}
	image, err := e.imageToRun(ctx, options)
	if err != nil {
		return nil, nil, err
	}
	using, err := e.useImage(ctx, options.Image, image.ID)
	if err != nil {
		return nil, nil, noSpace(err)
	}
	defer using.Release()
	config, err := e.configOf(options, image, linux)
	if err != nil {
		return nil, nil, err
	}
	stage, err := e.home.NewStage(ctx)
	if err != nil {
		return nil, nil, noSpace(err)
	}
	defer func() { _ = stage.Close() }()
	prepared := stage.Path("vm")
	starting, err := lockStart(ctx, prepared)
	if err != nil {
		return nil, nil, noSpace(err)
	}
	if run {
		err = (&instance.Instance{Dir: prepared}).SetState(instance.State{Started: e.config.Now()})
	}
	if err != nil {
		starting.Release()
		return nil, nil, noSpace(err)
	}
	i, err := e.vms.Publish(prepared, config)
	if err != nil {
		starting.Release()
		return nil, nil, noSpace(err)
	}
	return i, starting, nil
}

// readyToMake checks what a VM needs besides its image, before a pull that may take long, and returns the kernel.
func (e *Engine) readyToMake(ctx context.Context, options VMOptions) (*kernel.Kernel, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	e.sweep(ctx)
	if options.Name != "" {
		if _, err := e.vms.Get(options.Name); !errors.Is(err, fs.ErrNotExist) {
			return nil, instance.NameTaken(options.Name)
		}
	}
	if err := e.checkHost(options.Memory); err != nil {
		return nil, err
	}
	return e.FindKernel(options.Kernel)
}

// imageToRun finds the image, and pulls it if the options allow.
func (e *Engine) imageToRun(ctx context.Context, options VMOptions) (store.Image, error) {
	if options.Pull != PullAlways {
		found, err := e.FindImage(options.Image)
		if err == nil {
			return found.Image, bootable(found.Image, options.Image)
		}
		if options.Pull == PullNever || fault.KindOf(err) != fault.NotFound {
			return store.Image{}, err
		}
	}
	pulled, err := e.PullImage(ctx, options.Image, PullOptions{})
	if err != nil {
		return store.Image{}, err
	}
	return pulled.Image, bootable(pulled.Image, options.Image)
}

// useImage keeps an image that was found from being removed until a VM is made of it.
func (e *Engine) useImage(ctx context.Context, query, id string) (*lock.Lock, error) {
	using, err := e.images.Use(ctx, id)
	if err != nil {
		return nil, err
	}
	_, err = e.images.Get(id)
	if errors.Is(err, fs.ErrNotExist) {
		err = fault.New(fault.NotFound, fmt.Errorf("running %q: the image has just been removed", query), "pull it again")
	}
	if err != nil {
		using.Release()
		return nil, err
	}
	return using, nil
}

func bootable(image store.Image, query string) error {
	if !boots(image.Platform) {
		err := fmt.Errorf("running %q: the image is for %s, which needs a host of that kind or its emulation, and VMs here are %s",
			query, image.Platform, bootPlatform)
		hint := "pull the variant for this host, if there is one: banger image pull --platform " + bootPlatform + " REFERENCE"
		return fault.New(fault.Platform, err, hint)
	}
	if image.Guest == "" {
		err := fmt.Errorf("running %q: the image was pulled without the guest agent", query)
		return fault.New(fault.Unsupported, err, "pull it again without --no-guest, under another --name")
	}
	return nil
}

func (e *Engine) configOf(options VMOptions, image store.Image, linux *kernel.Kernel) (instance.Config, error) {
	for _, spec := range options.Ports {
		if _, err := port.Parse(spec); err != nil {
			return instance.Config{}, err
		}
	}
	disk, err := diskSize(options.Disk, image)
	if err != nil {
		return instance.Config{}, err
	}
	boot, err := bootOf(options.Init, image.Init)
	if err != nil {
		return instance.Config{}, err
	}
	workload, err := workloadOf(options, image, boot.systemd)
	if err != nil {
		return instance.Config{}, err
	}
	name := orDefault(options.Name, vmName(options.Image))
	return instance.Config{
		Name: name, Created: e.config.Now(), Image: options.Image, ImageID: image.ID, Kernel: linux.Name,
		CPUs: options.CPUs, MemoryMiB: int(options.Memory / mib), DiskSize: disk,
		Hostname: orDefault(options.Hostname, name), Network: orDefault(options.Network, NetworkUser),
		Init: boot.program, Systemd: boot.systemd, SpawnAgent: boot.spawn, BootTimeout: options.Timeout, Ports: options.Ports,
		Workload: workload, User: options.User, Dir: options.WorkDir, Env: options.Env, Remove: options.Remove,
	}, nil
}

// workloadOf puts the command together by docker's rules: the entrypoint stays, arguments replace Cmd. Where systemd
// runs, an image whose command is just that, or a bare shell, is a machine: nil, or a shell for who has a terminal.
func workloadOf(options VMOptions, image store.Image, systemd bool) (*instance.Workload, error) {
	var config ocispec.Image
	if err := json.Unmarshal(image.Config, &config); err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	stop, err := stopSignal(config.Config.StopSignal)
	if err != nil {
		return nil, err
	}
	workload := &instance.Workload{TTY: options.Terminal, Stdin: options.Input, StopSignal: int(stop)}
	workload.Argv = argumentsOf(options, config.Config)
	chosen := len(options.Args) > 0 || options.Entrypoint != nil
	if systemd && startsInit(workload.Argv) {
		workload.Argv = options.Args // the init runs already, as process 1
		if startsInit(workload.Argv) {
			workload.Argv = nil
		}
		chosen = len(workload.Argv) > 0
	}
	switch {
	case systemd && !chosen && isBareShell(workload.Argv):
		if !options.Terminal {
			return nil, nil
		}
		workload.Argv, workload.Login = nil, true
	case len(workload.Argv) == 0:
		err := errors.New("choosing the command: the image names none")
		return nil, fault.New(fault.Usage, err, "give one: banger vm run IMAGE -- COMMAND")
	}
	return workload, nil
}

func argumentsOf(options VMOptions, config ocispec.ImageConfig) []string {
	entrypoint, args := config.Entrypoint, options.Args
	if options.Entrypoint != nil {
		entrypoint = nil
		if *options.Entrypoint != "" {
			entrypoint = []string{*options.Entrypoint}
		}
	} else if len(args) == 0 {
		args = config.Cmd
	}
	return append(append([]string{}, entrypoint...), args...)
}

func startsInit(argv []string) bool { return len(argv) > 0 && isInit(argv[0]) }

func isInit(program string) bool {
	return program == "/sbin/init" || program == "/usr/sbin/init" || strings.HasSuffix(program, "/systemd/systemd")
}

// isBareShell reports whether argv is nothing, or a shell without anything to do.
func isBareShell(argv []string) bool {
	if len(argv) == 0 {
		return true
	}
	switch path.Base(argv[0]) {
	case "sh", "bash", "dash", "ash", "zsh":
		return len(argv) == 1
	}
	return false
}

// stopSignal reads the image's StopSignal, a name or a number (image-spec, config.md).
func stopSignal(text string) (syscall.Signal, error) {
	if text == "" {
		return syscall.SIGTERM, nil
	}
	s, err := ParseSignal(text)
	if err != nil {
		return 0, fmt.Errorf("reading the image's StopSignal: %w", err)
	}
	return s, nil
}

// The C library's real-time signals (signal(7)).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal as kill(1) and docker do: 9, KILL, SIGKILL, RTMIN+3.
func ParseSignal(text string) (syscall.Signal, error) {
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if number, err := strconv.Atoi(text); err == nil && number > 0 && number <= sigRTMax {
		return syscall.Signal(number), nil
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	for base, from := range map[string]int{"SIGRTMIN": sigRTMin, "SIGRTMAX": sigRTMax} {
		offset, found := strings.CutPrefix(name, base)
		if !found {
			continue
		}
		n, err := strconv.Atoi(orDefault(offset, "0"))
		if err == nil && from+n >= sigRTMin && from+n <= sigRTMax {
			return syscall.Signal(from + n), nil
		}
	}
	err := fmt.Errorf("%q is not a signal", text)
	return 0, fault.New(fault.Usage, err, "write it like TERM, SIGTERM or 15")
}

// vmName makes a name from what the user called the image: "debian-3f2a91".
func vmName(image string) string {
	base, _, _ := strings.Cut(path.Base(image), ":")
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(base))
	return orDefault(clean[:min(len(clean), 24)], "vm") + "-" + randomName()
}

// randomName returns six characters that nothing else has been named.
func randomName() string {
	random := make([]byte, 3)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return hex.EncodeToString(random)
}
