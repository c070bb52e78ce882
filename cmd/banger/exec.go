package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/guest/exec"
)

// vmExec are the flags of `vm exec` and `vm shell`.
type vmExec struct {
	exec.Command
	interactive, tty bool
}

func (a *app) execFlags(cmd *cobra.Command, f *vmExec) {
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.StringArrayVarP(&f.Env, "env", "e", nil, "KEY=VALUE for the command, or KEY to take the value from here")
	flags.StringVarP(&f.User, "user", "u", "", "user[:group] of the command (default: the VM's)")
	flags.StringVarP(&f.Dir, "workdir", "w", "", "working directory of the command (default: the VM's)")
}

func newVMExec(a *app) *cobra.Command {
	var flags vmExec
	cmd := &cobra.Command{
		Use:                   "exec [FLAGS] VM [--] COMMAND…",
		DisableFlagsInUseLine: true,

		Short: "Run a command in a VM that runs",
		Long: `Run a command in a VM that runs. It needs no shell, no sshd and no network in the VM.

User, environment and working directory are the VM's own, unless flags say otherwise. Standard input, output, error and
the exit code are the command's; banger's own failures exit with 125.`,
		Example: `  banger vm exec web -- systemctl status
  banger vm exec -it web bash
  banger vm exec -d web -- sleep 1000`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 && args[1] == "--" {
				return exactly("a VM", "a COMMAND")(cmd, args[:1])
			}
			return andCommand("a VM")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.Argv = args[1:]
			if flags.Argv[0] == "--" {
				flags.Argv = flags.Argv[1:]
			}
			return a.vmExec(cmd, args[0], flags)
		},
	}
	a.execFlags(cmd, &flags)
	cmd.Flags().BoolVarP(&flags.interactive, "interactive", "i", false, "pass standard input to the command")
	cmd.Flags().BoolVarP(&flags.tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().BoolVarP(&flags.Detach, "detach", "d", false, "leave the command running, and print its process id in the VM")
	return cmd
}

func newVMShell(a *app) *cobra.Command {
	flags := vmExec{interactive: true}
	cmd := &cobra.Command{
		Use: "shell [FLAGS] VM", Short: "Get a shell in a VM that runs",
		Long: `Get a login shell in a VM that runs: the user's own as the VM's passwd names it, or one that is there. Without a
terminal on standard input, the shell reads its commands from there.`,
		Example: "  banger vm shell web\n  banger vm shell -u postgres web", Args: exactly("a VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags.Login, flags.tty = true, a.onTerminal()
			return a.vmExec(cmd, args[0], flags)
		},
	}
	a.execFlags(cmd, &flags)
	return cmd
}

func (a *app) vmExec(cmd *cobra.Command, name string, f vmExec) error {
	e, err := a.engine()
	if err != nil {
		return codedError{error: err, code: exitOfRun}
	}
	options := engine.ExecOptions{Command: f.Command}
	if options.Env, err = a.environment(f.Env); err != nil {
		return err
	}
	if f.Detach {
		pid, err := e.ExecDetached(cmd.Context(), name, options.Command)
		if err != nil {
			return startOrRunError(err)
		}
		return a.printOfRun(strconv.Itoa(pid))
	}
	terminal, err := a.attach(&options.Streams, f.tty, f.interactive)
	if err != nil {
		return startOrRunError(err)
	}
	defer terminal.restore()
	code, err := e.Exec(cmd.Context(), name, options)
	if err != nil {
		return startOrRunError(err)
	}
	return exitOf(code)
}

// vmLogs are the flags of `vm logs`.
type vmLogs struct {
	engine.LogOptions
	tail, since string
}

func newVMLogs(a *app) *cobra.Command {
	var flags vmLogs
	cmd := &cobra.Command{
		Use: "logs VM", Short: "Show what a VM's command, or its console, has printed",
		Long: `Show what a VM's command has printed, on standard output and standard error as it was. --console shows what the
machine printed on its serial port: the kernel, the init and the agent.`,
		Example: "  banger vm logs web\n  banger vm logs -f --tail 20 web\n  banger vm logs --since 10m web\n  banger vm logs --console web",
		Args:    exactly("a VM"),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, err := flags.options()
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			return e.Logs(cmd.Context(), args[0], options, a.stdout, a.stderr)
		},
	}
	cmd.Flags().BoolVarP(&flags.Follow, "follow", "f", false, "go on until the VM ends")
	cmd.Flags().StringVarP(&flags.tail, "tail", "n", "all", "lines from the end")
	cmd.Flags().StringVar(&flags.since, "since", "", "a time such as 2026-01-02T15:04:05Z, or how long ago, such as 10m")
	cmd.Flags().BoolVar(&flags.Console, "console", false, "what the machine printed on its serial port")
	return cmd
}

func (f vmLogs) options() (engine.LogOptions, error) {
	options := f.LogOptions
	options.Tail = -1
	if f.tail != "all" {
		n, err := strconv.Atoi(f.tail)
		if err != nil || n < 0 {
			return options, usage(fmt.Errorf("--tail %q is not a number of lines", f.tail), "pass a number, or all")
		}
		options.Tail = n
	}
	if f.since == "" {
		return options, nil
	}
	if ago, err := time.ParseDuration(f.since); err == nil {
		options.Since = time.Now().Add(-ago)
		return options, nil
	}
	at, err := time.Parse(time.RFC3339, f.since)
	if err != nil {
		return options, usage(fmt.Errorf("--since %q is not a time", f.since), "write it like 2026-01-02T15:04:05Z or 10m")
	}
	options.Since = at
	return options, nil
}
