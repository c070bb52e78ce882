package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/kernel"
)

func newKernel(a *app) *cobra.Command {
	return group("kernel", "Import, list and remove the kernels that VMs boot with",
		newKernelImport(a), newKernelList(a), newKernelInspect(a), newKernelRemove(a))
}

// kernelImport are the flags of `kernel import`; exactly one source is given.
type kernelImport struct {
	engine.KernelSource
	name string
}

func newKernelImport(a *app) *cobra.Command {
	var flags kernelImport
	cmd := &cobra.Command{
		Use:   "import (--deb FILE… | --from-host | --vmlinuz FILE --modules DIR)",
		Short: "Import a kernel with its modules",
		Long: `Import a kernel with its modules from a Debian or Ubuntu package, from this host, or from files.

banger says which of the drivers that it uses the kernel lacks. A kernel's modules are a read-only disk that a VM sees
at /lib/modules, so containers, firewalls and file systems work inside.`,
		Example: `  banger kernel import --deb linux-image-6.1.0-37-cloud-amd64_6.1.140-1_amd64.deb
  banger kernel import --from-host
  banger kernel import --vmlinuz bzImage --modules /lib/modules/6.12.1 --name mine`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.kernelImport(cmd.Context(), flags) },
	}
	cmd.Flags().StringArrayVar(&flags.Debs, "deb", nil, "package file; repeat it where the modules have a package of their own")
	cmd.Flags().BoolVar(&flags.FromHost, "from-host", false, "the kernel that this host runs")
	cmd.Flags().StringVar(&flags.Vmlinuz, "vmlinuz", "", "kernel image (bzImage or ELF)")
	cmd.Flags().StringVar(&flags.Modules, "modules", "", "directory of the kernel's modules, as below /lib/modules")
	cmd.Flags().StringVar(&flags.name, "name", "", "name of the kernel here (default: its version)")
	return cmd
}

func (a *app) kernelImport(ctx context.Context, flags kernelImport) error {
	if err := flags.Check(); err != nil {
		return err
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	imported, err := e.ImportKernel(ctx, flags.name, flags.KernelSource)
	if err != nil {
		return err
	}
	a.progress.clear()
	if imported.Modules == 0 {
		_, _ = fmt.Fprintln(a.stderr, "banger: note: without --modules, every driver that a VM needs has to be built in")
	}
	if lacks := imported.Lacks(); lacks != "" {
		_, _ = fmt.Fprintf(a.stderr, "banger: note: this kernel lacks %s\n", lacks)
	}
	_, err = fmt.Fprintf(a.stdout, "%s  %s  %d modules\n", imported.Name, imported.Version, imported.Modules)
	return err
}

func newKernelList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the kernels", Args: exactly(),
		Example: "  banger kernel ls",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.kernelList(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) kernelList(ctx context.Context, asJSON bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	kernels, broken := e.ListKernels(ctx)
	if broken != nil && kernels == nil { // not even a part of it is known
		return broken
	}
	if asJSON {
		err = a.printJSON(struct {
			Schema  int              `json:"schema"`
			Kernels []*kernel.Kernel `json:"kernels"`
		}{1, kernels})
	} else {
		err = a.printKernels(kernels)
	}
	if err != nil {
		return err
	}
	return broken
}

func (a *app) printKernels(kernels []*kernel.Kernel) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tVERSION\tMODULES\tIMPORTED\tSOURCE")
	for _, k := range kernels {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", k.Name, k.Version, k.Modules, age(k.Created), k.Source)
	}
	return w.Flush()
}

func newKernelInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "inspect KERNEL", Short: "Show what is known of a kernel, as JSON", Args: exactly("a KERNEL"),
		Example: "  banger kernel inspect 6.1.0-37-cloud-amd64",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			found, err := e.InspectKernel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printJSON(found)
		},
	}
}

func newKernelRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "rm KERNEL…", Aliases: []string{"remove"}, Short: "Remove kernels", Args: atLeast("a KERNEL"),
		Example: "  banger kernel rm 6.1.0-37-cloud-amd64",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			return a.each(args, removeKernel(cmd.Context(), e))
		},
	}
}

func removeKernel(ctx context.Context, e verbs) func(string) (string, error) {
	return func(name string) (string, error) { return name, e.RemoveKernel(ctx, name) }
}
