package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/engine"
)

func newSystem(a *app) *cobra.Command {
	return group("system", "See what banger keeps", newSystemDF(a))
}

func newSystemDF(a *app) *cobra.Command {
	var verbose, asJSON bool
	cmd := &cobra.Command{
		Use: "df", Short: "Show what takes how much disk space", Args: exactly(),
		Long: `Show what takes how much disk space: images, layers, VMs, kernels, and pulls that were not finished.

Sizes are what files take on the disk, not their length. Layers that several images are made of count once. Active is what
is in use: images by VMs, layers by images, VMs while they run, kernels by VMs and, the newest, by VMs to come. The rest
is reclaimable: image prune, vm prune and kernel rm remove it.`,
		Example: "  banger system df\n  banger system df -v\n  banger system df --json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.systemDF(cmd.Context(), verbose, asJSON) },
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show each image, layer, VM and kernel")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with all that -v shows")
	return cmd
}

func (a *app) systemDF(ctx context.Context, verbose, asJSON bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	used, broken := e.DiskUsage(ctx)
	switch {
	case used.Totals == nil:
		return broken
	case asJSON:
		err = a.printJSON(struct {
			Schema int `json:"schema"`
			engine.DiskUsage
		}{1, used})
	case verbose:
		err = a.printUsage(used)
	default:
		err = a.printTotals(used.Totals)
	}
	return errors.Join(err, broken)
}

func (a *app) printTotals(totals []engine.UsageTotal) error {
	names := map[string]string{
		engine.UsageImages: "Images", engine.UsageLayers: "Layers", engine.UsageVMs: "VMs",
		engine.UsageKernels: "Kernels", engine.UsageUnfinished: "Unfinished pulls", engine.UsageDocuments: "Manifests",
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TYPE\tTOTAL\tACTIVE\tSIZE\tRECLAIMABLE")
	for _, t := range totals {
		reclaimable := humanSize(t.Reclaimable)
		if t.Size > 0 {
			reclaimable += fmt.Sprintf(" (%d%%)", t.Reclaimable*100/t.Size)
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", names[t.Kind], t.Count, t.Active, humanSize(t.Size), reclaimable)
	}
	return w.Flush()
}

func humanSize(bytes int64) string { return units.HumanSize(float64(bytes)) }

// printUsage prints a table for each kind.
func (a *app) printUsage(used engine.DiskUsage) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	section := func(title, columns string) { _, _ = fmt.Fprintf(w, "%s:\n\n%s\n", title, columns) }
	section("Images", "NAME\tID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tVMS")
	for _, i := range used.Images {
		created := "-"
		if !i.Created.IsZero() {
			created = age(i.Created)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", orNone(strings.Join(i.Names, ", ")), shortID(i.ID), created,
			humanSize(i.Shared+i.Unique), humanSize(i.Shared), humanSize(i.Unique), len(i.VMs))
	}
	section("\nLayers", "LAYER\tLAST USED\tSIZE\tIMAGES")
	for _, l := range used.Layers {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d%s\n", shortDigest(l.DiffID), age(l.LastUse), humanSize(l.Size), len(l.Images), inUse(l.Busy))
	}
	section("\nVMs", "NAME\tIMAGE\tSIZE\tRUNS")
	for _, vm := range used.VMs {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%t\n", vm.Name, shortID(vm.Image), humanSize(vm.Size), vm.Runs)
	}
	section("\nKernels", "NAME\tSIZE\tVMS\tDEFAULT")
	for _, k := range used.Kernels {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%t\n", k.Name, humanSize(k.Size), len(k.VMs), k.Default)
	}
	section("\nUnfinished pulls", "WHAT\tSIZE")
	for _, u := range used.Unfinished {
		_, _ = fmt.Fprintf(w, "%s\t%s%s\n", shortDigest(u.Name), humanSize(u.Size), inUse(u.Busy))
	}
	return w.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

// inUse marks what a pull works with.
func inUse(busy bool) string {
	if busy {
		return " (in use)"
	}
	return ""
}

// shortDigest is the form of a digest that people read.
func shortDigest(digest string) string {
	_, hex, found := strings.Cut(digest, ":")
	if !found {
		return digest
	}
	return shortID(hex)
}

// prune are the flags of `image prune`.
type prune struct {
	engine.PruneOptions
	filters     []string
	force, json bool
}

func newImagePrune(a *app) *cobra.Command {
	var flags prune
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove images without a name, and layers that nothing needs", Args: exactly(),
		Long: `Remove images without a name, layers that no image is made of, and what pulls have left that were interrupted.

An image loses its name when a newer one is pulled under it. With --all, images with a name go as well, unless a VM is made
of them, and so do the manifests that spare a pull its requests. Images of VMs, and what a pull works with, stay. On a
terminal banger asks first.`,
		Example: `  banger image prune
  banger image prune --all --filter until=240h
  banger image prune --all --dry-run`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.imagePrune(cmd.Context(), flags) },
	}
	cmd.Flags().BoolVarP(&flags.All, "all", "a", false, "remove all images that no VM is made of, and manifests")
	cmd.Flags().BoolVarP(&flags.force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&flags.DryRun, "dry-run", false, "remove nothing, and print what would be")
	cmd.Flags().StringArrayVar(&flags.filters, "filter", nil,
		"until=TIME: spare what was made or used since, such as until=2026-01-02T15:04:05Z or until=24h")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON")
	return cmd
}

func (a *app) imagePrune(ctx context.Context, flags prune) (err error) {
	for _, filter := range flags.filters {
		if flags.Until, err = parseUntil(filter); err != nil {
			return err
		}
	}
	if !flags.force && !flags.DryRun && a.onTerminal() {
		yes, err := a.confirmPrune(ctx, flags.All)
		if err != nil || !yes {
			return err
		}
	}
	e, err := a.engine()
	if err != nil {
		return err
	}
	pruned, failed := e.PruneImages(ctx, flags.PruneOptions)
	if pruned.Images == nil {
		return failed
	}
	if flags.json {
		err = a.printJSON(struct {
			Schema int  `json:"schema"`
			DryRun bool `json:"dry_run"`
			engine.PrunedImages
		}{1, flags.DryRun, pruned})
	} else {
		err = a.printPruned(pruned, flags.DryRun)
	}
	return errors.Join(err, failed)
}

// parseUntil reads the one filter that there is.
func parseUntil(filter string) (time.Time, error) {
	value, isUntil := strings.CutPrefix(filter, "until=")
	if !isUntil {
		return time.Time{}, usage(fmt.Errorf("--filter %q is not known", filter), "there is until=TIME")
	}
	if ago, err := time.ParseDuration(value); err == nil {
		return time.Now().Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if at, err := time.ParseInLocation(form, value, time.Local); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usage(fmt.Errorf("--filter until: %q is not a time", value), "write it like 2026-01-02T15:04:05Z or 24h")
}

// confirmPrune asks the user on the terminal.
func (a *app) confirmPrune(ctx context.Context, all bool) (bool, error) {
	what := "all images without a name"
	if all {
		what = "all images that no VM is made of, the manifests that are kept"
	}
	_, _ = fmt.Fprintf(a.stderr, "WARNING! This will remove %s, and layers and downloads that nothing needs.\n"+
		"Are you sure you want to continue? [y/N] ", what)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		_, _ = fmt.Fprintln(a.stderr)
		return false, context.Cause(ctx)
	}
}

func (a *app) printPruned(pruned engine.PrunedImages, dryRun bool) error {
	verb, total := "Deleted", "Total reclaimed space"
	if dryRun {
		verb, total = "Would delete", "Total reclaimable space"
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	for n, image := range pruned.Images {
		heading(w, n, verb+" images:")
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", orNone(strings.Join(image.Names, ", ")), shortID(image.ID), humanSize(image.Size))
	}
	printItems(w, verb+" layers:", pruned.Layers)
	printItems(w, verb+" unfinished pulls:", pruned.Partial)
	printDocuments(w, verb, pruned.Documents)
	_, _ = fmt.Fprintf(w, "%s: %s\n", total, humanSize(pruned.Reclaimed))
	_ = w.Flush()
	_, err := io.WriteString(a.stdout, out.String())
	return err
}

func printItems(w io.Writer, title string, items []engine.PrunedItem) {
	for n, item := range items {
		heading(w, n, title)
		_, _ = fmt.Fprintf(w, "%s\t%s\n", item.Name, humanSize(item.Size))
	}
}

// printDocuments prints the number of the documents, whose names say little.
func printDocuments(w io.Writer, verb string, documents []engine.PrunedItem) {
	var size int64
	for _, d := range documents {
		size += d.Size
	}
	if n := len(documents); n > 0 {
		_, _ = fmt.Fprintf(w, "%s manifests and configurations:\n%d\t%s\n", verb, n, humanSize(size))
	}
}

func heading(w io.Writer, n int, title string) {
	if n == 0 {
		_, _ = fmt.Fprintln(w, title)
	}
}
