package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

func newVM(a *app) *cobra.Command {
	return group("vm", "Run images as virtual machines", newVMRun(a), newVMCopy(a))
}

// vmRun are the flags of `vm run`.
type vmRun struct {
	engine.RunOptions
	memory, disk     string
	network          string
	interactive, tty bool
	quiet            bool
}

func newVMRun(a *app) *cobra.Command {
	var flags vmRun
	cmd := &cobra.Command{
		Use:                   "run [FLAGS] IMAGE [[--] COMMAND…]",
		DisableFlagsInUseLine: true,

		Short: "Boot a VM from an image and run a command in it",
		Long: `Boot a VM from an image, run a command in it, and remove the VM when the command has ended.

Standard input, output, error and the exit code are the command's own, but for the steps that banger shows on standard
error (-q leaves them out); banger's own failures exit with 125, as docker's do. An image that is not here is pulled.
Where the image boots with systemd, the command runs once the system is up. The VM works on a disk of its own: the image
never changes. As with docker, what follows IMAGE belongs to the command.`,
		Example: `  banger vm run --rm debian:bookworm -- cat /etc/os-release
  banger vm run --rm -it alpine -- sh
  tar c . | banger vm run --rm -i debian:bookworm -- tar t`,
		Args: atLeast("an IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.vmRun(cmd.Context(), args, flags) },
	}
	a.vmRunFlags(cmd, &flags)
	return cmd
}

func (a *app) vmRunFlags(cmd *cobra.Command, f *vmRun) {
	flags := cmd.Flags()
	// What follows the image belongs to the command, with or without "--".
	flags.SetInterspersed(false)
	flags.Bool("rm", true, "remove the VM when the command has ended; in this version every VM is removed")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input to the command")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.StringVar(&f.Name, "name", "", "name of the VM, and its host name (default: made up)")
	flags.IntVar(&f.CPUs, "cpus", 2, "virtual CPUs")
	flags.StringVar(&f.memory, "memory", "512MiB", "memory")
	flags.StringVar(&f.disk, "disk", "", "size of the disk, such as 20GiB, to which its file system grows (default: the image's)")
	flags.StringVar(&f.Kernel, "kernel", "", "kernel to boot (default: the newest import)")
	flags.StringVar(&f.Pull, "pull", "missing", "when to pull the image: missing, always or never")
	flags.StringVar(&f.network, "network", "user", "user (the host's network, without privileges) or none")
	flags.StringArrayVarP(&f.Env, "env", "e", nil, "KEY=VALUE for the command, or KEY to take the value from here")
	flags.StringVarP(&f.User, "user", "u", "", "user[:group] of the command (default: the image's)")
	flags.StringVarP(&f.WorkDir, "workdir", "w", "", "working directory of the command (default: the image's)")
	flags.DurationVar(&f.Timeout, "boot-timeout", 2*time.Minute, "how long the VM may take to come up")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "do not show the steps")
}

func (a *app) vmRun(ctx context.Context, args []string, f vmRun) error {
	options, err := a.runOptions(args, f)
	if err != nil {
		return err
	}
	a.progress.quiet = f.quiet
	e, err := a.engine()
	if err != nil {
		return codedError{error: err, code: exitOfRun}
	}
	terminal, err := a.attach(&options, f.tty, f.interactive)
	if err != nil {
		return err
	}
	defer terminal.restore()
	code, err := e.Run(ctx, options)
	if err != nil {
		return startOrRunError(err)
	}
	return exitOf(code)
}

// runOptions checks the flags and turns them into the engine's options.
func (a *app) runOptions(args []string, f vmRun) (engine.RunOptions, error) {
	options := f.RunOptions
	memory, err := parseSize("--memory", f.memory)
	if err != nil {
		return options, err
	}
	if options.Disk, err = parseSize("--disk", f.disk); err != nil {
		return options, err
	}
	options.Image, options.Args, options.Memory = args[0], args[1:], memory
	if len(options.Args) > 0 && options.Args[0] == "--" {
		options.Args = options.Args[1:]
	}
	options.Network = f.network == "user"
	options.Env = a.environment(f.Env)
	options.Stdout, options.Stderr = a.stdout, a.stderr
	if f.interactive {
		options.Stdin = a.stdin
	}
	return options, checkRun(f, options)
}

func checkRun(f vmRun, options engine.RunOptions) error {
	switch {
	case f.network != "user" && f.network != "none":
		return usage(fmt.Errorf("--network %q is not known", f.network), "pass user or none")
	case f.Pull != "missing" && f.Pull != "always" && f.Pull != "never":
		return usage(fmt.Errorf("--pull %q is not known", f.Pull), "pass missing, always or never")
	case f.CPUs < 1:
		return usage(fmt.Errorf("--cpus %d is too few", f.CPUs), "pass 1 or more")
	case options.Memory < engine.MinMemory:
		return usage(fmt.Errorf("--memory %s is too little to boot", f.memory), fmt.Sprintf("pass %dMiB or more", engine.MinMemory>>20))
	case f.Timeout <= 0:
		return usage(fmt.Errorf("--boot-timeout %v is no time", f.Timeout), "pass a duration such as 2m")
	case !validVMName(f.Name):
		return usage(fmt.Errorf("--name %q is not a host name", f.Name), "use up to 63 of a-z, 0-9 and -")
	}
	return nil
}

// validVMName accepts what is both a file name and a host name (RFC 1123, section 2.1), and "".
func validVMName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return len(name) <= 63
}

// environment completes KEY to KEY=VALUE from banger's own environment, as docker does. A KEY that is not set stays as it
// is, which takes the image's own away.
func (a *app) environment(vars []string) []string {
	var env []string
	for _, v := range vars {
		if !strings.Contains(v, "=") {
			if value, ok := a.lookupEnv(v); ok {
				v += "=" + value
			}
		}
		env = append(env, v)
	}
	return env
}
