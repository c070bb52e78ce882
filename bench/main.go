// Command bench measures banger's pulls, its writer of ext4 and its virtual machines against their rivals.
// scripts/bench-pull.sh, scripts/bench-ext4.sh and scripts/bench-vm.sh say what of.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"

	"github.com/banger-vm/banger/bench/contender"
	"github.com/banger-vm/banger/bench/fixture"
	"github.com/banger-vm/banger/bench/machine"
)

const usage = `use one of
  bench difference BASE.tar FULL.tar       writes the layer that makes FULL of BASE to standard output
  bench synthesize SHAPE                   writes the tar of a tree: nested, flat or million
  bench run [FLAGS] CONTENDER@SIZE         measures one run: native, mkfs, builder or tar2ext4
  bench compare [FLAGS] CONTENDER@SIZE…    measures several, interleaved, and writes a table of medians
  bench vm TABLE [FLAGS]                   measures virtual machines: boot, exec, cp, streams or many
  bench pull TABLE [FLAGS]                 measures pulls: igzip, go, zstd, rivals or shared
  bench layers LAYOUT                      lists the files of the layers of a layout's image
  bench gunzip FILE                        decompresses to standard output, as Go does it
  bench dial-back FILE                     is a ProxyCommand of vm`

// collectAt is how banger's own main sets the garbage collector, so that the memory is that of banger.
const collectAt = 50

func main() {
	debug.SetGCPercent(collectAt)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "difference":
		return fixture.Difference(args[1], args[2], os.Stdout)
	case len(args) == 2 && args[0] == "synthesize":
		return fixture.Synthetic(fixture.Shape(args[1]), os.Stdout)
	case len(args) > 1 && args[0] == "run":
		return runOne(ctx, args[1:])
	case len(args) > 1 && args[0] == "compare":
		return compare(ctx, args[1:])
	case len(args) > 1 && args[0] == "vm":
		return benchVM(ctx, args[1:])
	case len(args) > 1 && args[0] == "pull":
		return benchPull(ctx, args[1:])
	case len(args) == 2 && args[0] == "layers":
		files, err := layersOf(args[1])
		fmt.Println(strings.Join(files, "\n"))
		return err
	case len(args) == 2 && args[0] == "gunzip":
		return gunzip(args[1])
	case len(args) == 2 && args[0] == "dial-back":
		return machine.DialBack(args[1])
	}
	return errors.New(usage)
}

// jobFlags adds the flags that say what to make and of what.
func jobFlags(set *flag.FlagSet) *contender.Job {
	job := &contender.Job{}
	set.StringVar(&job.Input, "input", "", "directory with oci, rootfs.tar and tree")
	set.StringVar(&job.Store, "store", "", "layer store")
	set.StringVar(&job.Out, "out", "", "the file to make")
	set.BoolVar(&job.NoSync, "no-sync", false, "have mkfs.ext4 not sync the file")
	return job
}

// runOne measures one run and writes it as JSON.
func runOne(ctx context.Context, args []string) error {
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	job := jobFlags(set)
	if err := set.Parse(args); err != nil {
		return err
	}
	e, err := parseEntrant(set.Arg(0))
	if err != nil {
		return err
	}
	job.Size = e.size
	m, err := contender.Run(ctx, e.name, *job)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}
