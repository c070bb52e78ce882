package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/bench/contender"
	"github.com/banger-vm/banger/bench/table"
)

// entrant is a contender with the size of the file system that it makes.
type entrant struct {
	name contender.Name
	size int64 // bytes
}

// parseEntrant reads CONTENDER@SIZE.
func parseEntrant(text string) (entrant, error) {
	name, size, _ := strings.Cut(text, "@")
	bytes, err := units.RAMInBytes(size)
	if err != nil {
		return entrant{}, fmt.Errorf("reading the contender %q: %w", text, err)
	}
	return entrant{contender.Name(name), bytes}, nil
}

func (e entrant) label() string {
	labels := map[contender.Name]string{
		contender.Native:   "banger",
		contender.Mkfs:     "`mkfs.ext4 -d`",
		contender.Builder:  "stage, `mkfs.ext4 -d`, debugfs",
		contender.Tar2ext4: "hcsshim's tar2ext4",
	}
	return fmt.Sprintf("%s, %s", labels[e.name], units.BytesSize(float64(e.size)))
}

// comparison is a series of interleaved runs.
type comparison struct {
	job      contender.Job
	runs     int
	once     []string // contenders that take too long to run more than once
	entrants []entrant
	rows     []table.Row
	verdicts []string // of e2fsck
}

// compare measures every entrant in turn, runs times, and writes the table. It fails in the end if an entrant did.
func compare(ctx context.Context, args []string) error {
	c, err := parseComparison(args)
	if err != nil {
		return err
	}
	if err := contender.Fill(ctx, c.job); err != nil {
		return err
	}
	for round := range c.runs {
		for i := range c.entrants {
			if err := c.measure(ctx, i, round); err != nil {
				c.rows[i].Err = err
			}
		}
	}
	if err := table.Write(os.Stdout, c.rows); err != nil {
		return err
	}
	for _, verdict := range c.verdicts {
		fmt.Println(verdict)
	}
	return c.failure()
}

func parseComparison(args []string) (*comparison, error) {
	set := flag.NewFlagSet("compare", flag.ContinueOnError)
	job := jobFlags(set)
	c := &comparison{}
	set.IntVar(&c.runs, "runs", 5, "how often to run each contender")
	once := set.String("once", "", "contenders to run only once, separated by commas")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	c.job, c.once = *job, strings.Split(*once, ",")
	for _, arg := range set.Args() {
		e, err := parseEntrant(arg)
		if err != nil {
			return nil, err
		}
		c.entrants = append(c.entrants, e)
		c.rows = append(c.rows, table.Row{Label: e.label()})
	}
	return c, nil
}

// measure runs an entrant, and mkfs.ext4 once more without its syncing. The last file that banger makes is checked.
func (c *comparison) measure(ctx context.Context, i, round int) error {
	e := c.entrants[i]
	once := slices.Contains(c.once, string(e.name))
	if c.rows[i].Err != nil || once && round > 0 {
		return nil
	}
	if err := c.run(ctx, i, false); err != nil {
		return err
	}
	if e.name == contender.Native && (once || round == c.runs-1) {
		c.verdicts = append(c.verdicts, check(ctx, e, c.job.Out))
	}
	if _, err := exec.LookPath("eatmydata"); err != nil || e.name != contender.Mkfs || once {
		return nil
	}
	return c.run(ctx, i, true)
}

// run runs an entrant in a process of its own and keeps what it measured. Its file stays until the next run.
func (c *comparison) run(ctx context.Context, i int, noSync bool) error {
	if err := os.Remove(c.job.Out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	e := c.entrants[i]
	cmd := exec.CommandContext(ctx, self, "run", "-input", c.job.Input, "-store", c.job.Store, "-out", c.job.Out,
		fmt.Sprintf("-no-sync=%t", noSync), fmt.Sprintf("%s@%d", e.name, e.size))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	var m contender.Measurement
	if err := json.Unmarshal(out, &m); err != nil {
		return fmt.Errorf("reading what %s measured: %w", e.name, err)
	}
	c.rows[i].Runs = append(c.rows[i].Runs, m)
	fmt.Fprintf(os.Stderr, "%s: ready %v, synced %v, CPU %v\n", e.label(), m.Ready, m.Synced, m.CPU)
	return nil
}

// check returns what e2fsck says of a file.
func check(ctx context.Context, e entrant, file string) string {
	out, err := exec.CommandContext(ctx, "e2fsck", "-fn", file).CombinedOutput()
	verdict := "clean"
	if err != nil {
		verdict = fmt.Sprintf("%v\n%s", err, out)
	}
	return fmt.Sprintf("e2fsck -fn of %s: %s", e.label(), verdict)
}

// failure returns the errors of all entrants.
func (c *comparison) failure() error {
	var errs []error
	for _, row := range c.rows {
		errs = append(errs, row.Err)
	}
	return errors.Join(errs...)
}
