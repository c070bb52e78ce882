package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/exec"
)

func newVM(a *app) *cobra.Command {
	return group("vm", "Run images as virtual machines, and live with them",
		newVMRun(a), newVMCreate(a), newVMStart(a), newVMStop(a), newVMRestart(a), newVMKill(a), newVMRemove(a),
		newVMList(a), newVMInspect(a), newVMWait(a), newVMPrune(a), newVMExec(a), newVMShell(a), newVMSSH(a), newVMLogs(a), newVMStats(a),
		newVMCopy(a), newVMPort(a), newVMMonitor(a), newVMSSHProxy(a))
}

// vmFlags are the flags that make a VM.
type vmFlags struct {
	engine.VMOptions
	memory, disk     string
	entrypoint       string
	envFiles         []string
	interactive, tty bool
	detach           bool
	quiet            bool
}

func newVMRun(a *app) *cobra.Command {
	var flags vmFlags
	cmd := &cobra.Command{
		Use:                   "run [FLAGS] IMAGE [[--] COMMAND…]",
		DisableFlagsInUseLine: true,

		Short: "Boot a VM from an image and run a command in it",
		Long: `Boot a VM from an image and run a command in it. The VM ends with the command, and --rm removes it then.

Standard input, output, error and the exit code are the command's own, but for the steps that banger shows on standard
error (-q leaves them out); banger's own failures exit with 125, as docker's do. An image that is not here is pulled.

An image that boots with systemd is a machine: without a command, it runs until it is stopped or powers off, and its
console is shown; with -t, there is a shell in it; with a command, that runs once the system is up, and the machine ends
with it. The VM works on a disk of its own: the image never changes. As with docker, what follows IMAGE belongs to the
command.`,
		Example: `  banger vm run --rm debian:bookworm -- cat /etc/os-release
  banger vm run --rm -it alpine -- sh
  banger vm run -d --name web -e MODE=test debian:bookworm
  tar c . | banger vm run --rm -i debian:bookworm -- tar t`,
		Args: andCommand("an IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.vmRun(cmd, args, flags) },
	}
	a.vmFlags(cmd, &flags)
	cmd.Flags().BoolVarP(&flags.detach, "detach", "d", false, "leave the VM running, and print its name")
	return cmd
}

func newVMCreate(a *app) *cobra.Command {
	var flags vmFlags
	cmd := &cobra.Command{
		Use:                   "create [FLAGS] IMAGE [[--] COMMAND…]",
		DisableFlagsInUseLine: true,

		Short:   "Make a VM from an image, to be started later",
		Long:    "Make a VM from an image, to be started later. The flags are those of vm run. The name of the VM is printed.",
		Example: "  banger vm create --name web debian:bookworm",
		Args:    andCommand("an IMAGE"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.vmCreate(cmd, args, flags) },
	}
	a.vmFlags(cmd, &flags)
	return cmd
}

func (a *app) vmFlags(cmd *cobra.Command, f *vmFlags) {
	flags, standard := cmd.Flags(), engine.DefaultVMOptions()
	// What follows the image belongs to the command, with or without "--".
	flags.SetInterspersed(false)
	flags.BoolVar(&f.Remove, "rm", false, "remove the VM when it has ended")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input to the command")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.StringVar(&f.Name, "name", "", "name of the VM (default: made up)")
	flags.StringVar(&f.Hostname, "hostname", "", "host name (default: the VM's name)")
	flags.IntVar(&f.CPUs, "cpus", standard.CPUs, "virtual CPUs")
	flags.StringVar(&f.memory, "memory", units.BytesSize(float64(standard.Memory)), "memory")
	flags.StringVar(&f.disk, "disk", "", "size of the disk, such as 20GiB, to which its file system grows (default: the image's)")
	flags.StringVar(&f.Kernel, "kernel", "", "kernel to boot (default: the newest import)")
	flags.StringVar(&f.Init, "init", standard.Init, "process 1: auto (the image's systemd, or banger's agent), guest (the agent), or a path")
	flags.StringVar(&f.Pull, "pull", standard.Pull, "when to pull the image: missing, always or never")
	flags.StringVar(&f.Network, "network", standard.Network, "user (the host's network, without privileges) or none")
	flags.StringArrayVarP(&f.Ports, "publish", "p", nil, "[IP:][HOST:]GUEST[/udp]: publish a port of the VM on this host (default IP: 127.0.0.1)")
	flags.StringVar(&f.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint and command")
	flags.StringArrayVarP(&f.Env, "env", "e", nil, "KEY=VALUE for commands, or KEY to take the value from here")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "file with a KEY=VALUE or KEY on each line")
	flags.StringVarP(&f.User, "user", "u", "", "user[:group] of commands (default: the image's)")
	flags.StringVarP(&f.WorkDir, "workdir", "w", "", "working directory of commands (default: the image's)")
	flags.DurationVar(&f.Timeout, "boot-timeout", standard.Timeout, "how long the VM may take to come up")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "do not show the steps")
}

func (a *app) vmRun(cmd *cobra.Command, args []string, f vmFlags) error {
	if f.detach && f.interactive && f.tty {
		f.interactive = false // as docker's -dit: the command gets a terminal that nobody writes to
	}
	vm, err := a.vmOptions(cmd, args, f)
	if err != nil {
		return startOrRunError(err)
	}
	e, err := a.engine()
	if err != nil {
		return codedError{error: err, code: exitOfRun}
	}
	options := engine.RunOptions{VMOptions: vm, Detach: f.detach}
	var name string
	options.Created = func(made string) { name = made }
	if f.detach && f.tty {
		options.TTY = &exec.Size{Rows: 24, Columns: 80}
	} else {
		terminal, err := a.attach(&options.Streams, f.tty, f.interactive)
		if err != nil {
			return startOrRunError(err)
		}
		defer terminal.restore()
	}
	code, err := e.Run(cmd.Context(), options)
	if err != nil {
		return startOrRunError(err)
	}
	if f.detach {
		a.progress.clear()
		return a.printOfRun(name)
	}
	return exitOf(code)
}

func (a *app) vmCreate(cmd *cobra.Command, args []string, f vmFlags) error {
	options, err := a.vmOptions(cmd, args, f)
	if err != nil {
		return err
	}
	options.Terminal, options.Input = f.tty, f.interactive
	e, err := a.engine()
	if err != nil {
		return err
	}
	made, err := e.CreateVM(cmd.Context(), options)
	if err != nil {
		return err
	}
	a.progress.clear()
	_, err = fmt.Fprintln(a.stdout, made.Name)
	return err
}

// vmOptions checks the flags and turns them into the engine's options.
func (a *app) vmOptions(cmd *cobra.Command, args []string, f vmFlags) (engine.VMOptions, error) {
	options := f.VMOptions
	memory, err := parseSize("--memory", f.memory)
	if err != nil {
		return options, err
	}
	if options.Disk, err = parseSize("--disk", f.disk); err != nil {
		return options, err
	}
	if cmd.Flags().Changed("entrypoint") {
		options.Entrypoint = &f.entrypoint
	}
	options.Image, options.Args, options.Memory = args[0], args[1:], memory
	if len(options.Args) > 0 && options.Args[0] == "--" {
		options.Args = options.Args[1:]
	}
	if options.Env, err = a.environmentFiles(f.envFiles); err != nil {
		return options, err
	}
	own, err := a.environment(f.Env)
	if err != nil {
		return options, err
	}
	options.Env = append(options.Env, own...)
	a.progress.quiet = a.progress.quiet || f.quiet
	return options, options.Check()
}

// environmentFiles reads files of the form of docker's --env-file: KEY=VALUE or KEY on each line, # begins a comment.
func (a *app) environmentFiles(paths []string) ([]string, error) {
	var vars []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fault.New(fault.NotFound, fmt.Errorf("reading the environment file: %w", err), "")
		}
		for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
			line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
			if line == "" || line[0] == '#' {
				continue
			}
			if key, _, _ := strings.Cut(line, "="); key == "" || strings.ContainsAny(key, " \t") {
				return nil, usage(fmt.Errorf("reading the environment file %q: the line %q has no variable's name", path, line), "write KEY=VALUE")
			}
			if _, set := a.lookupEnv(line); !set && !strings.Contains(line, "=") {
				continue // unlike with -e, it takes nothing away
			}
			vars = append(vars, line)
		}
	}
	return a.environment(vars)
}

// environment completes KEY to KEY=VALUE from banger's own environment, as docker does. A KEY that is not set stays as it
// is, which takes the image's own away.
func (a *app) environment(vars []string) ([]string, error) {
	var env []string
	for _, v := range vars {
		if v == "" || v[0] == '=' {
			return nil, usage(fmt.Errorf("setting a variable: %q has no variable's name", v), "write KEY=VALUE")
		}
		if !strings.Contains(v, "=") {
			if value, ok := a.lookupEnv(v); ok {
				v += "=" + value
			}
		}
		env = append(env, v)
	}
	return env, nil
}
