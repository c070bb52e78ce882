package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/port"
)

func newVMPort(a *app) *cobra.Command {
	return group("port", "Publish ports of running VMs on addresses of the host", newVMPortAdd(a), newVMPortRemove(a), newVMPortList(a))
}

// The form of a published port, for the help of commands.
const portForm = `SPEC is [IP:][HOST:]GUEST[/tcp|/udp], as for docker's -p: a port of the guest, and the port and address of the host where
it can be reached. Without HOST a free port is chosen. Without IP it is 127.0.0.1, which only this host can reach; 0.0.0.0
is all addresses. HOST and GUEST may be ranges, such as 8000-8009.`

func newVMPortAdd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "add VM SPEC…", Short: "Publish ports of a running VM", Args: vmAndSpecs,
		Long: "Publish ports of a running VM, until it stops, and print the addresses.\n\n" + portForm + `

A service is reached wherever it listens in the guest, on its 127.0.0.1 as well, and without a network.`,
		Example: "  banger vm port add web 8080:80\n  banger vm port add dns 5353:53/udp 0.0.0.0:5353:53/tcp\n  banger vm port add web 80",
		RunE:    a.changePorts(verbs.AddPorts),
	}
}

func newVMPortRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm VM SPEC…", Aliases: []string{"remove"}, Short: "Stop publishing ports of a VM", Args: vmAndSpecs,
		Long: `Stop publishing ports of a VM. Their connections end.

SPEC is written as for add. What it leaves out may be anything: 80 are all addresses on which TCP port 80 is published.`,
		Example: "  banger vm port rm web 8080:80\n  banger vm port rm dns 53/udp",
		RunE:    a.changePorts(verbs.RemovePorts),
	}
}

// vmAndSpecs demands a VM and a port at least.
func vmAndSpecs(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return exactly("a VM", "a SPEC or more")(cmd, args[:2])
	}
	return exactly("a VM", "a SPEC or more")(cmd, args)
}

// vmAtMost allows a VM.
func vmAtMost(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return exactly("a VM at most")(cmd, args)
}

// changePorts is the body of add and rm, which print what they have changed.
func (a *app) changePorts(change func(verbs, context.Context, string, []string) ([]port.Published, error),
) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		e, err := a.engine()
		if err != nil {
			return err
		}
		ports, err := change(e, cmd.Context(), args[0], args[1:])
		for _, p := range ports {
			_, _ = fmt.Fprintln(a.stdout, p)
		}
		return err
	}
}

func newVMPortList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls [VM]", Aliases: []string{"list"}, Short: "List the published ports of a VM, or of all",
		Args:    vmAtMost,
		Example: "  banger vm port ls\n  banger vm port ls web --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			vm := ""
			if len(args) > 0 {
				vm = args[0]
			}
			return a.portList(cmd.Context(), vm, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) portList(ctx context.Context, vm string, asJSON bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	ports, err := e.Ports(ctx, vm)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(struct {
			Schema int             `json:"schema"`
			Ports  []engine.VMPort `json:"ports"`
		}{1, ports})
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "VM\tHOST\tGUEST")
	for _, p := range ports {
		_, _ = fmt.Fprintf(w, "%s\t%v\t%d/%s\n", p.VM, p.Address, p.Guest, p.Protocol)
	}
	return w.Flush()
}
