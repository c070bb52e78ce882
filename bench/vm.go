package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/bench/machine"
	"github.com/banger-vm/banger/bench/race"
)

// vmBench are the flags of the measurements of virtual machines.
type vmBench struct {
	banger machine.Banger
	dir    string
	kernel string
	image  string
	vm     string
	rounds int
	size   int64
}

// benchVM measures one thing of virtual machines, and writes its table.
func benchVM(ctx context.Context, args []string) error {
	var b vmBench
	set := flag.NewFlagSet("vm", flag.ContinueOnError)
	set.StringVar(&b.banger.Program, "banger", "", "banger's program")
	set.StringVar(&b.dir, "dir", "", "an empty directory to work in")
	set.StringVar(&b.kernel, "kernel", "", "the kernel, a bzImage")
	set.StringVar(&b.image, "image", "", "the image of new VMs")
	set.StringVar(&b.vm, "vm", "", "a VM that runs, with openssh-server")
	set.IntVar(&b.rounds, "runs", 5, "how often each runs")
	set.Int64Var(&b.size, "size", 1<<30, "bytes of a transfer")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	b.banger.Home = os.Getenv("BANGER_HOME")
	tables := map[string]func(context.Context) error{
		"boot": b.boot, "exec": b.exec, "cp": b.cp, "streams": b.streams, "many": b.many,
	}
	table, ok := tables[args[0]]
	if !ok {
		return errors.New(usage)
	}
	return table(ctx)
}

func (b vmBench) race(ctx context.Context, runners ...race.Runner) error {
	results, err := race.Race(ctx, b.rounds, runners...)
	if err != nil {
		return err
	}
	return race.Write(os.Stdout, results)
}

// plain is a runner whose time is that of the call.
func plain(name string, do func(context.Context) error) race.Runner {
	return race.Runner{Name: name, Run: func(ctx context.Context) (time.Duration, error) { return 0, do(ctx) }}
}

func (b vmBench) boot(ctx context.Context) error {
	bare := machine.Bare{Kernel: b.kernel, Dir: b.dir, CPUs: 2, MemoryMiB: 512}
	if err := bare.Prepare(); err != nil {
		return err
	}
	return b.race(ctx,
		plain("`banger vm run --rm "+b.image+" true`", func(ctx context.Context) error {
			return b.banger.Run(ctx, "vm", "run", "--quiet", "--rm", b.image, "--", "true")
		}),
		race.Runner{Name: "QEMU, the kernel, an init that powers off", Run: bare.Boot},
	)
}

// connected calls do with a connection of ssh to the VM.
func (b vmBench) connected(ctx context.Context, do func(*machine.SSH) error) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ssh := &machine.SSH{Banger: b.banger, VM: b.vm, Dir: b.dir, Helper: self}
	if err := ssh.Connect(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ssh.Close()) }()
	return do(ssh)
}

func (b vmBench) exec(ctx context.Context) error {
	return b.connected(ctx, func(ssh *machine.SSH) error {
		return b.race(ctx,
			plain("`banger vm exec VM true`", func(ctx context.Context) error {
				return b.banger.Run(ctx, "vm", "exec", b.vm, "--", "true")
			}),
			plain("`ssh` by an established master, `true`", func(ctx context.Context) error { return ssh.Exec(ctx, "true") }),
		)
	})
}

func (b vmBench) cp(ctx context.Context) error {
	local, back := filepath.Join(b.dir, "data"), filepath.Join(b.dir, "back")
	if err := machine.RandomFile(local, b.size); err != nil {
		return err
	}
	return b.connected(ctx, func(ssh *machine.SSH) error {
		fmt.Printf("Into the guest, %d MiB:\n\n", b.size>>20)
		err := b.race(ctx,
			plain("`banger vm cp FILE VM:`", func(ctx context.Context) error {
				return b.banger.Run(ctx, "vm", "cp", "-q", local, b.vm+":/var/tmp/banger")
			}),
			plain("`scp FILE VM:`", func(ctx context.Context) error { return ssh.Copy(ctx, local, "guest:/var/tmp/scp") }),
		)
		if err != nil {
			return err
		}
		fmt.Printf("\nOut of the guest:\n\n")
		return b.race(ctx,
			plain("`banger vm cp VM: FILE`", func(ctx context.Context) error {
				return b.banger.Run(ctx, "vm", "cp", "-q", b.vm+":/var/tmp/banger", back)
			}),
			plain("`scp VM: FILE`", func(ctx context.Context) error { return ssh.Copy(ctx, "guest:/var/tmp/scp", back+".scp") }),
		)
	})
}

func (b vmBench) streams(ctx context.Context) error {
	return machine.Streams{Banger: b.banger, VM: b.vm, Streams: 16, Bytes: b.size}.Run(ctx, os.Stdout)
}

func (b vmBench) many(ctx context.Context) error {
	return machine.Many{Banger: b.banger, Image: b.image, VMs: 10, Memory: "128MiB"}.Run(ctx, os.Stdout)
}
