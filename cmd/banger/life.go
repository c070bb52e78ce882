package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

// onEach is the body of a command that does the same to each of the VMs that are named.
func (a *app) onEach(do func(ctx context.Context, e verbs, name string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, names []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		return a.each(names, func(name string) (string, error) { return name, do(cmd.Context(), e, name) })
	}
}

func newVMStart(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "start VM…", Short: "Start VMs that do not run",
		Long: `Start VMs that do not run, each with the command that it was made with, which is left to itself. A VM is started when
its command runs or, where it has none, when it has booted.`,
		Example: "  banger vm start web", Args: atLeast("a VM"),
		RunE: a.onEach(func(ctx context.Context, e verbs, name string) error { return e.StartVM(ctx, name) }),
	}
	a.quietFlag(cmd)
	return cmd
}

// stopLimit is how long a VM may take to stop before it is killed.
const stopLimit = 30 * time.Second

func newVMStop(a *app) *cobra.Command {
	limit := stopLimit
	cmd := &cobra.Command{
		Use: "stop VM…", Short: "Stop VMs in good order",
		Long: `Stop VMs in good order: the command gets the image's stop signal, the file systems are written to the disk and
unmounted, and the machine powers off. What was written before stop returns is there at the next start. A VM that does
not stop within the time limit has its disks synced, and is killed.`,
		Example: "  banger vm stop web\n  banger vm stop --time 5s web db", Args: atLeast("a VM"),
		RunE: a.onEach(func(ctx context.Context, e verbs, name string) error { return e.StopVM(ctx, name, limit) }),
	}
	limitFlag(cmd, &limit)
	return cmd
}

func limitFlag(cmd *cobra.Command, limit *time.Duration) {
	cmd.Flags().VarP((*limitValue)(limit), "time", "t", "how long a VM may take to stop, in seconds or like 1m30s")
}

// limitValue is a flag for a duration that also takes docker's plain numbers.
type limitValue time.Duration

// String returns the duration as Go writes it.
func (s *limitValue) String() string { return time.Duration(*s).String() }

// Set parses 90, or 1m30s.
func (s *limitValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, number := strconv.ParseUint(text, 10, 31); number == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return fmt.Errorf("%q is not a time", text)
	}
	*s = limitValue(d)
	return nil
}

// Type is what help shows.
func (s *limitValue) Type() string { return "duration" }

func newVMRestart(a *app) *cobra.Command {
	limit := stopLimit
	cmd := &cobra.Command{
		Use: "restart VM…", Short: "Stop VMs, if they run, and start them",
		Example: "  banger vm restart web", Args: atLeast("a VM"),
		RunE: a.onEach(func(ctx context.Context, e verbs, name string) error { return e.RestartVM(ctx, name, limit) }),
	}
	limitFlag(cmd, &limit)
	a.quietFlag(cmd)
	return cmd
}

func newVMKill(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use: "kill VM…", Short: "End VMs at once, or send a signal to their commands",
		Long: `End VMs at once, as if their power was cut. With --signal, the VM's command gets that signal instead; KILL ends the
VM.`,
		Example: "  banger vm kill web\n  banger vm kill --signal HUP web", Args: atLeast("a VM"),
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "signal for the VM's command, such as HUP")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		number, err := engine.ParseSignal(signal)
		if err != nil {
			return err
		}
		return a.onEach(func(ctx context.Context, e verbs, name string) error {
			if number == syscall.SIGKILL {
				return e.KillVM(ctx, name)
			}
			return e.SignalVM(ctx, name, number)
		})(cmd, args)
	}
	return cmd
}

func newVMRemove(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm VM…", Aliases: []string{"remove"}, Short: "Remove VMs with their disks",
		Example: "  banger vm rm web\n  banger vm rm --force web db", Args: atLeast("a VM"),
		RunE: a.onEach(func(ctx context.Context, e verbs, name string) error { return e.RemoveVM(ctx, name, force) }),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill VMs that run")
	return cmd
}

func newVMPrune(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "Remove all VMs that do not run", Example: "  banger vm prune", Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			removed, failed := e.PruneVMs(cmd.Context())
			return errors.Join(a.printLines(removed), failed)
		},
	}
}

func newVMWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "wait VM…", Short: "Wait until VMs have ended, and print their exit codes",
		Example: "  banger vm wait web", Args: atLeast("a VM"),
		RunE: func(cmd *cobra.Command, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(names, func(name string) (string, error) {
				code, err := e.WaitVM(cmd.Context(), name)
				return strconv.Itoa(code), err
			})
		},
	}
}

// listing are the flags of `vm ls`.
type listing struct{ json, quiet bool }

func newVMList(a *app) *cobra.Command {
	var flags listing
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the VMs", Args: exactly(),
		Example: "  banger vm ls\n  banger vm rm -f $(banger vm ls -q)\n  banger vm ls --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.vmList(cmd.Context(), flags) },
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print the names alone")
	return cmd
}

func newShortList(a *app) *cobra.Command {
	cmd := newVMList(a)
	cmd.Use, cmd.Aliases = "ps", nil
	return cmd
}

func (a *app) vmList(ctx context.Context, f listing) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	vms, broken := e.ListVMs(ctx)
	if broken != nil && vms == nil { // not even a part of it is known
		return broken
	}
	switch {
	case f.json:
		err = a.printJSON(struct {
			Schema int         `json:"schema"`
			VMs    []engine.VM `json:"vms"`
		}{1, vms})
	case f.quiet:
		var names []string
		for _, vm := range vms {
			names = append(names, vm.Name)
		}
		err = a.printLines(names)
	default:
		err = a.printVMs(vms)
	}
	return errors.Join(err, broken)
}

func (a *app) printVMs(vms []engine.VM) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tIMAGE\tSTATE\tCREATED\tCPUS\tMEMORY\tCOMMAND")
	for _, vm := range vms {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", vm.Name, vm.Image, stateOf(vm), age(vm.Created), vm.CPUs,
			units.BytesSize(float64(vm.MemoryMiB)*units.MiB), shorten(commandOf(vm), 40))
	}
	return w.Flush()
}

// stateOf is a VM's state with how long it has lasted and how it came about.
func stateOf(vm engine.VM) string {
	switch {
	case vm.Status != nil && vm.Status.Silent != nil:
		return vm.State + " (its agent does not answer)"
	case vm.Status != nil:
		return vm.State + " " + units.HumanDuration(time.Since(vm.Status.Started))
	case vm.State == engine.StateStopped && vm.Last.Ended != nil:
		return fmt.Sprintf("%s (%d) %s", vm.State, vm.Last.ExitCode, age(*vm.Last.Ended))
	}
	return vm.State
}

// commandOf is the VM's command on one line.
func commandOf(vm engine.VM) string {
	switch {
	case vm.Workload == nil:
		return "(machine)"
	case vm.Workload.Login:
		return "(shell)"
	}
	return strings.Join(vm.Workload.Argv, " ")
}

// shorten cuts a line that the guest or the user chose to n characters, and makes all of them visible.
func shorten(line string, n int) string {
	shown := []rune(visible(line))
	if len(shown) <= n {
		return string(shown)
	}
	return string(shown[:n-1]) + "…"
}

// visible replaces what a terminal would obey or not show.
func visible(line string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, line)
}

func newVMInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect VM…", Short: "Show all that is known of VMs, as JSON", Args: atLeast("a VM"),
		Example: "  banger vm inspect web",
		RunE: func(cmd *cobra.Command, names []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			vms := []engine.VM{}
			failed := a.each(names, func(name string) (string, error) {
				vm, err := e.FindVM(cmd.Context(), name)
				if err == nil {
					vms = append(vms, vm)
				}
				return "", err
			})
			return errors.Join(a.printJSON(vms), failed)
		},
	}
}

func (a *app) quietFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&a.progress.quiet, "quiet", "q", false, "do not show the steps")
}
