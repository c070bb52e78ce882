package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm"
	"github.com/banger-vm/banger/internal/vm/qemu"
)

// RunOptions say what to run in a new VM, and how.
type RunOptions struct {
	Image   string   // a name, an id, or a reference
	Args    []string // replaces the image's Cmd
	Kernel  string   // "" is the default one
	Name    string   // of the VM, and its host name; "" makes one up
	CPUs    int
	Memory  int64  // bytes
	Disk    int64  // bytes of the VM's disk, rounded down to whole blocks; 0 is the image's size
	Pull    string // "missing", "always" or "never"
	Network bool
	Timeout time.Duration // for the boot

	Env     []string // added to the image's
	User    string   // "" is the image's
	WorkDir string   // "" is the image's

	TTY     *exec.Size // nil runs without a terminal
	Stdin   io.Reader  // nil gives the command an empty input
	Stdout  io.Writer
	Stderr  io.Writer
	Resize  <-chan exec.Size
	Signals <-chan syscall.Signal // passed on to the command
	Started func() error          // called when the VM is up and the command is about to start
}

// Run boots a VM from an image, runs one command in it, and removes the VM. It returns the command's exit code.
func (e *Engine) Run(ctx context.Context, options RunOptions) (code int, err error) {
	linux, err := e.readyToRun(options)
	if err != nil {
		return 0, err
	}
	image, err := e.imageToRun(ctx, options)
	if err != nil {
		return 0, err
	}
	if options.Disk, err = diskSize(options.Disk, image); err != nil {
		return 0, err
	}
	command, err := runCommand(image, options)
	if err != nil {
		return 0, err
	}
	dir, err := store.NewPrivate(ctx, e.home.Path("vms"), orDefault(options.Name, vmName(options.Image)))
	if err != nil {
		return 0, vmNameTaken(err, options.Name)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	machine, cleanup, err := e.boot(ctx, dir, image, linux, options)
	if err != nil {
		return 0, noSpace(err)
	}
	defer cleanup()
	return e.runIn(ctx, machine, command, options)
}

// MinMemory is the least memory that a VM boots with, in bytes.
const MinMemory = vm.MinMemoryMiB << 20

// readyToRun checks what a run needs besides its image, before a pull that may take long, and returns the kernel.
func (e *Engine) readyToRun(options RunOptions) (*kernel.Kernel, error) {
	for _, program := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := e.runner.Find(program); err != nil {
			return nil, err
		}
	}
	return e.FindKernel(options.Kernel)
}

// imageToRun finds the image, and pulls it if the options allow.
func (e *Engine) imageToRun(ctx context.Context, options RunOptions) (store.Image, error) {
	if options.Pull != "always" {
		found, err := e.FindImage(options.Image)
		if err == nil {
			return found.Image, bootable(found.Image, options.Image)
		}
		if options.Pull == "never" || fault.KindOf(err) != fault.NotFound {
			return store.Image{}, err
		}
	}
	pulled, err := e.PullImage(ctx, options.Image, PullOptions{})
	if err != nil {
		return store.Image{}, err
	}
	return pulled.Image, bootable(pulled.Image, options.Image)
}

func bootable(image store.Image, query string) error {
	if image.Platform != bootPlatform {
		err := fmt.Errorf("running %q: the image is for %s", query, image.Platform)
		return fault.New(fault.Platform, err, "pull the "+bootPlatform+" variant")
	}
	if image.Guest == "" {
		err := fmt.Errorf("running %q: the image was pulled without the guest agent", query)
		return fault.New(fault.Unsupported, err, "pull it again without --no-guest, under another --name")
	}
	return nil
}

// runCommand puts the command together by docker's rules: the entrypoint stays, arguments replace Cmd.
func runCommand(image store.Image, options RunOptions) (exec.Command, error) {
	var config ocispec.Image
	if err := json.Unmarshal(image.Config, &config); err != nil {
		return exec.Command{}, fmt.Errorf("reading the image's configuration: %w", err)
	}
	args := options.Args
	if len(args) == 0 {
		args = config.Config.Cmd
	}
	argv := append(append([]string{}, config.Config.Entrypoint...), args...)
	if image.Init == string(guest.Systemd) && len(argv) > 0 && isInit(argv[0]) {
		// The init runs already, as process 1: the arguments alone are the command.
		argv = orShell(options.Args)
	}
	if len(argv) == 0 {
		err := errors.New("choosing the command: the image names none")
		return exec.Command{}, fault.New(fault.Usage, err, "give one: banger vm run IMAGE -- COMMAND")
	}
	return exec.Command{
		Argv: argv, Env: options.Env, Dir: options.WorkDir, User: options.User,
		TTY: options.TTY, Stdin: options.Stdin != nil,
	}, nil
}

func isInit(program string) bool {
	return program == "/sbin/init" || program == "/usr/sbin/init" || strings.HasSuffix(program, "/systemd/systemd")
}

func orShell(argv []string) []string {
	if len(argv) > 0 {
		return argv
	}
	return []string{"/bin/sh", "-l"}
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

func vmNameTaken(err error, name string) error {
	if errors.Is(err, os.ErrExist) {
		err = fmt.Errorf("making the VM %q: there is one of that name", name)
		return fault.New(fault.Conflict, err, "choose another --name")
	}
	return err
}

// boot starts the machine, and returns it with what ends it and removes its sockets.
func (e *Engine) boot(ctx context.Context, dir *store.Stage, image store.Image, linux *kernel.Kernel,
	options RunOptions) (*qemu.Machine, func(), error) {
	sockets, err := e.sockets(ctx)
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = sockets.Close() }
	spec := e.spec(dir, sockets, image, linux, options)
	if err := writeInitramfs(linux, spec.Initramfs); err != nil {
		remove()
		return nil, nil, err
	}
	var machine *qemu.Machine
	err = e.steps().Run("Boot", func() (detail string, err error) {
		machine, err = qemu.Start(ctx, e.runner, spec, rand.Reader)
		if err == nil && image.Init == string(guest.Systemd) {
			waitBoot(ctx, machine, options.Timeout)
		}
		return "kernel " + linux.Version, e.keepLog(err)
	})
	if err != nil {
		remove()
		return nil, nil, err
	}
	return machine, func() { machine.Kill(); <-machine.Done(); remove() }, nil
}

func (e *Engine) spec(dir, sockets *store.Stage, image store.Image, linux *kernel.Kernel, options RunOptions) vm.Spec {
	name := filepath.Base(dir.Dir)
	return vm.Spec{
		Name: name, Hostname: name, Dir: dir.Dir, RuntimeDir: sockets.Dir,
		Vmlinuz: linux.Vmlinuz(), Initramfs: dir.Path("initramfs.cpio"), ModulesImage: linux.ModulesImage(),
		RootImage: e.images.Disk(image.ID), DiskSize: options.Disk, Init: guest.InitPath(guest.Init(image.Init)),
		CPUs: options.CPUs, MemoryMiB: int(options.Memory / mib), Network: options.Network,
		BootTimeout: options.Timeout,
	}
}

// waitBoot waits until systemd has started everything, for limit at most. The command then runs in any case: a unit that
// never starts is the image's business, and the command may be there to look at it.
func waitBoot(ctx context.Context, machine *qemu.Machine, limit time.Duration) {
	stream, err := machine.Open(ctx)
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	_ = exec.WaitBoot(ctx, stream, limit)
}

func (e *Engine) runIn(ctx context.Context, machine *qemu.Machine, command exec.Command, options RunOptions) (int, error) {
	stream, err := machine.Open(ctx)
	if err != nil {
		return 0, fmt.Errorf("reaching the guest agent: %w", err)
	}
	defer func() { _ = stream.Close() }()
	if err := options.Started(); err != nil {
		return 0, err
	}
	code, err := exec.Run(ctx, stream, command, options.Stdin, options.Stdout, options.Stderr,
		options.Resize, options.Signals)
	if errors.Is(err, frame.ErrDisconnected) {
		err = whyGone(machine, err)
	}
	if err != nil {
		return code, fmt.Errorf("running %q in the VM: %w", strings.Join(command.Argv, " "), err)
	}
	return code, nil
}

// lastWords is how long a machine whose agent has gone may take to end.
const lastWords = 2 * time.Second

// whyGone adds to the error of a lost connection what the machine's end says: a panic of its kernel, or QEMU's words.
func whyGone(machine *qemu.Machine, err error) error {
	select {
	case <-machine.Done():
	case <-time.After(lastWords):
		return err
	}
	if why := machine.Wait(); why != nil {
		return fmt.Errorf("%w: %w", err, why)
	}
	return fmt.Errorf("%w: the machine powered off", err)
}
