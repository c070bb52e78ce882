package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

// vmStats are the flags of `vm stats`.
type vmStats struct{ json, once bool }

func newVMStats(a *app) *cobra.Command {
	var flags vmStats
	cmd := &cobra.Command{
		Use: "stats [VM…]", Short: "Show what VMs use",
		Long: `Show what VMs use, those that run unless some are named: the guest's own figures, and the memory that the VM takes of the
host. On a terminal the figures are renewed every two seconds until Ctrl-C; otherwise they are printed once.`,
		Example: "  banger vm stats\n  banger vm stats --no-stream web\n  banger vm stats --json",
		RunE: func(cmd *cobra.Command, names []string) error {
			flags.once = flags.once || flags.json || !a.progress.terminal
			return a.vmStats(cmd.Context(), names, flags)
		},
	}
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON, once")
	cmd.Flags().BoolVar(&flags.once, "no-stream", false, "print the figures once")
	return cmd
}

// statsInterval is how long CPU use is measured, and how often figures are renewed.
const statsInterval = 2 * time.Second

func (a *app) vmStats(ctx context.Context, names []string, f vmStats) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	before, err := e.Stats(ctx, names)
	if err != nil {
		return err
	}
	wait := statsInterval / 4 // the first figures come sooner
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		after, err := e.Stats(ctx, names)
		if err := errors.Join(err, a.printStats(before, after, f)); err != nil || f.once {
			return err
		}
		before, wait = after, statsInterval
	}
}

func (a *app) printStats(before, after []engine.Stats, f vmStats) error {
	if f.json {
		return a.printJSON(struct {
			Schema int            `json:"schema"`
			VMs    []engine.Stats `json:"vms"`
		}{1, after})
	}
	if !f.once {
		_, _ = fmt.Fprint(a.stdout, "\x1b[H\x1b[J") // home, and clear
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tCPU\tMEMORY\tON HOST\tDISK FREE\tNET IN / OUT\tDISK READ / WRITTEN\tPROCESSES")
	for _, s := range after {
		g := s.Guest
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s / %s\t%s\t%s / %s\t%s / %s\t%s / %s\t%d\n", s.Name, cpuUse(before, s),
			size(g.MemoryUsed), size(g.MemoryTotal), size(s.HostMemory), size(g.RootFree), size(g.RootSize),
			size(g.NetReceived), size(g.NetSent), size(g.DiskRead), size(g.DiskWritten), g.Processes)
	}
	return w.Flush()
}

// cpuUse is how much of one CPU the guest used between two looks, as in docker: 200% are two CPUs.
func cpuUse(before []engine.Stats, now engine.Stats) string {
	for _, b := range before {
		total := now.Guest.CPUTotal - b.Guest.CPUTotal
		if b.Name != now.Name || total <= 0 {
			continue
		}
		busy := float64(now.Guest.CPUBusy-b.Guest.CPUBusy) / float64(total) * float64(now.Guest.CPUs)
		return fmt.Sprintf("%.1f%%", 100*max(busy, 0))
	}
	return "-"
}

func size(n uint64) string { return units.BytesSize(float64(n)) }
