// Package agent is the program that runs inside a VM, in four roles:
//
//   - initramfs (initramfs.go): the kernel's first program. It loads modules, mounts the root disk and hands over.
//   - init (init.go): process 1 of an image without an init of its own. It mounts what every program expects, keeps the
//     agent running, reaps, and powers the VM off.
//   - agent (this file): it sets up the network and answers the host on the channel. Under systemd it is a service.
//   - sftp: it serves files to one client of SSH, as a command that the host runs.
//
// ARCHITECTURE.md, "What a guest sees", is the agreement with the host. Nothing here fails a boot that can go on: what
// does not work is a line on the console, which the host keeps.
package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/channel"
	"github.com/banger-vm/banger/internal/guest/exec"
	"github.com/banger-vm/banger/internal/guest/files"
	"github.com/banger-vm/banger/internal/guest/forward"
	"github.com/banger-vm/banger/internal/guest/frame"
	"github.com/banger-vm/banger/internal/guest/machine"
	"github.com/banger-vm/banger/internal/guest/sftp"
)

const (
	// agentPath is where the host puts the agent.
	agentPath = "/usr/lib/banger/banger-guest"
	// imagePath is where the host puts what it knows of the image.
	imagePath = "/usr/lib/banger/image.json"
	// memoryLimit is what Go's runtime may take in bytes before it collects more eagerly and gives memory back to the
	// kernel. The guest's memory is for what the guest is there for.
	memoryLimit = 17 << 20
	// runtimeDir is for files that the agent makes while the VM runs.
	runtimeDir = "/run/banger"
)

// Main runs the role that fits args and the process id, and returns the exit code. Two of the roles never return.
func Main(args []string, pid int) int {
	out := console{os.Stderr}
	role := ""
	if len(args) > 1 {
		role = args[1]
	}
	switch {
	case isModprobe(args):
		return modprobe(args)
	case pid == 1 && role != "init" && exists(moduleList):
		runInitramfs()
	case pid == 1:
		runInit()
	case role == "agent":
		debug.SetMemoryLimit(memoryLimit)
		out = openConsole("/dev/console")
		out.say("%v", serve(out, gateOf(args)))
		return 1
	case role == "sftp":
		return serveFiles()
	default:
		out.say("this is the agent of a banger VM; it runs as process 1, or as %q under another init", agentPath+" agent")
		return 2
	}
	return 1
}

// serveFiles serves sftp on standard input and output, as the user that it runs as, to a host that runs it like any command.
func serveFiles() int {
	if err := sftp.Serve(os.Stdin, os.Stdout); err != nil {
		console{os.Stderr}.say("%v", err)
		return 1
	}
	return 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serve sets the guest up and answers the host until the channel fails. What needs no file system comes before the gate.
// The handshake with the host goes on while the guest is set up; requests wait until it is.
func serve(out console, gate func()) error {
	line, err := readCommandLine("/proc/cmdline")
	if err != nil {
		return err
	}
	requests := router(out)
	gate()
	if line.spawn {
		awaitInit()
	}
	magic, err := parseMagic(line.magic)
	if err != nil {
		// The disk runs without banger's host: nobody will ever call.
		configure(out, line)
		out.say("no channel: %v", err)
		waitForever()
	}
	ready := make(chan struct{})
	go func() {
		configure(out, line)
		close(ready)
	}()
	port, err := channel.OpenPort(waitForPort("/sys/class/virtio-ports", "/dev"))
	if err != nil {
		return err
	}
	out.step("agent")
	return channel.Serve(port, magic, func(stream net.Conn) {
		<-ready
		requests.Serve(stream)
	})
}

// outlived is how long an init that does not know the agent has to run before the agent calls the host, with which the boot
// is over: one that cannot run ends sooner, and then the boot has failed.
const outlived = 500 * time.Millisecond

// awaitInit waits until process 1, which still is the initramfs's program, is the image's init and has run for a while.
func awaitInit() {
	for sameFile("/proc/1/exe", "/proc/self/exe") {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(outlived)
}

// router answers the requests of every service of the agent.
func router(out console) frame.Router {
	all := frame.Router{}
	for _, service := range []frame.Router{
		newGuest(out).Handlers(),
		files.Handlers(),
		forward.Handlers(),
		machine.NewGuest().Handlers(),
	} {
		maps.Copy(all, service)
	}
	return all
}

// waitForever keeps the agent alive, so that nobody restarts it. Go takes a program that only waits for itself, as in an
// empty select, for a deadlock and ends it.
func waitForever() {
	for {
		time.Sleep(time.Hour)
	}
}

func parseMagic(text string) (magic [channel.MagicSize]byte, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(magic) {
		err = fmt.Errorf("%d bytes instead of %d", len(b), len(magic))
	}
	if err != nil {
		return magic, fmt.Errorf("reading banger.magic=%q of the kernel's command line: %w", text, err)
	}
	return [channel.MagicSize]byte(b), nil
}

// waitForPort waits until the kernel has found the channel's port, and returns its device.
func waitForPort(sysfs, dev string) string {
	for try := 0; ; try++ {
		device, err := channel.FindPort(sysfs, dev, channel.PortName)
		if err == nil && exists(device) {
			return device
		}
		if try < 500 {
			time.Sleep(10 * time.Millisecond)
		} else {
			time.Sleep(time.Second)
		}
	}
}

// imageFile is the part of image.json that the agent reads.
type imageFile struct {
	Agent  string      `json:"agent"`
	Config exec.Config `json:"config"`
}

// newGuest describes this guest to package exec. Without a readable image.json the image's defaults are missing.
func newGuest(out console) *exec.Guest {
	var image imageFile
	text, err := os.ReadFile(imagePath)
	if err == nil {
		err = json.Unmarshal(text, &image)
	}
	if err != nil {
		out.say("reading %q: %v", imagePath, err)
	}
	init := initOf("/proc/1")
	guest := &exec.Guest{
		Info:     exec.Info{Protocol: frame.Version, Agent: image.Agent, Init: string(init)},
		Config:   image.Config,
		Etc:      os.DirFS("/etc"),
		Poweroff: init.poweroff,
	}
	if init == initSystemd {
		guest.WaitBoot = waitForSystemd
	}
	return guest
}

// initKind is what runs as process 1.
type initKind string

const (
	initGuest   initKind = "guest"
	initSystemd initKind = "systemd"
	initOther   initKind = "other"
)

// initOf tells what process 1 is, from its directory in /proc.
func initOf(proc string) initKind {
	link := filepath.Join(proc, "exe")
	if exe, err := os.Readlink(link); err == nil && filepath.Base(exe) == filepath.Base(agentPath) || sameFile(link, "/proc/self/exe") {
		return initGuest
	}
	if comm, err := os.ReadFile(filepath.Join(proc, "comm")); err == nil && strings.TrimSpace(string(comm)) == "systemd" {
		return initSystemd
	}
	return initOther
}

// signalPoweroff asks systemd to start poweroff.target: SIGRTMIN+4 (systemd(1), "Signals"), where the C library's
// SIGRTMIN is 34 (signal(7)).
const signalPoweroff = syscall.Signal(34 + 4)

// poweroff asks process 1 to shut down.
func (k initKind) poweroff() error {
	switch k {
	case initGuest:
		return syscall.Kill(1, syscall.SIGTERM)
	case initSystemd:
		return syscall.Kill(1, signalPoweroff)
	}
	return powerOffBeside()
}

// otherLimit is how long processes have to end by themselves where process 1 is an init that banger does not know, which
// may start them again.
const otherLimit = 2 * time.Second

// powerOffBeside powers the VM off without process 1, which knows nothing of it: every process is asked to end, and the
// root is left clean.
func powerOffBeside() error {
	_ = syscall.Kill(-1, syscall.SIGTERM) // all but process 1 and this one (kill(2))
	time.Sleep(otherLimit)
	unix.Sync()
	return errors.Join(freezeRoot("/"), unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// waitForSystemd returns when systemd has no more jobs of the boot, however they went. Versions before 240 do not know
// how to wait, and are asked again.
func waitForSystemd(ctx context.Context) {
	for ctx.Err() == nil {
		text, _ := osexec.CommandContext(ctx, "systemctl", "is-system-running", "--wait").Output()
		state := strings.TrimSpace(string(text))
		if state != "starting" && state != "initializing" {
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// missing reports whether err says that there is no such file.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
