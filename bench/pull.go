package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/banger-vm/banger/bench/puller"
	"github.com/banger-vm/banger/bench/race"
)

// pullBench are the flags of the measurements of pulls.
type pullBench struct {
	puller puller.Puller
	image  string // in a registry
	base   string // the image whose layers are there already
	layout string // OCI layout with the same image
	rounds int
}

// benchPull measures one thing of pulls, and writes its table.
func benchPull(ctx context.Context, args []string) error {
	var b pullBench
	set := flag.NewFlagSet("pull", flag.ContinueOnError)
	set.StringVar(&b.puller.Program, "banger", "", "banger's program")
	set.StringVar(&b.puller.Dir, "dir", "", "an empty directory to work in")
	set.StringVar(&b.image, "image", "", "the image to pull, in a registry")
	set.StringVar(&b.base, "base", "", "an image that has all but the topmost layer of it")
	set.StringVar(&b.layout, "layout", "", "OCI layout with the same image, and no other")
	set.IntVar(&b.rounds, "runs", 5, "how often each runs")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	tables := map[string]func(context.Context) error{
		"igzip": b.igzip, "go": b.inGo, "zstd": b.zstd, "rivals": b.rivals, "shared": b.shared,
	}
	table, ok := tables[args[0]]
	if !ok {
		return errors.New(usage)
	}
	return table(ctx)
}

// race writes the table of a race and the memory that banger needed.
func (b *pullBench) race(ctx context.Context, runners ...race.Runner) error {
	results, err := race.Race(ctx, b.rounds, runners...)
	if err != nil {
		return err
	}
	if err := race.Write(os.Stdout, results); err != nil {
		return err
	}
	fmt.Printf("\nPeak memory of banger: %d MiB.\n", b.puller.Memory>>20)
	return nil
}

func (b *pullBench) cold(words string) race.Runner {
	return race.Runner{Name: words, Run: func(ctx context.Context) (time.Duration, error) { return b.puller.Cold(ctx, b.image) }}
}

// decompressing is a runner that decompresses the layers and does nothing else.
func (b *pullBench) decompressing(name string, words ...string) (race.Runner, error) {
	layers, err := layersOf(b.layout)
	return race.Runner{Name: name, Run: func(ctx context.Context) (time.Duration, error) {
		return b.puller.Decompress(ctx, layers, words...)
	}}, err
}

func (b *pullBench) against(ctx context.Context, ours string, name string, words ...string) error {
	rival, err := b.decompressing(name, words...)
	if err != nil {
		return err
	}
	return b.race(ctx, b.cold(ours), rival)
}

func (b *pullBench) igzip(ctx context.Context) error {
	return b.against(ctx, "`banger image pull`, cold, with igzip", "`igzip -dc` of the layers into files", "igzip", "-dc")
}

func (b *pullBench) zstd(ctx context.Context) error {
	return b.against(ctx, "`banger image pull`, cold", "`zstd -dc` of the layers into files", "zstd", "-dcq")
}

func (b *pullBench) inGo(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.puller.Env = []string{"BANGER_GUNZIP=go"}
	return b.against(ctx, "`banger image pull`, cold, without igzip", "Go's best inflate of the layers into files", self, "gunzip")
}

func (b *pullBench) rivals(ctx context.Context) error {
	return b.race(ctx, b.cold("`banger image pull`, cold"), race.Runner{
		Name: "`skopeo copy`, `umoci unpack`, `mkfs.ext4 -d`",
		Run:  func(ctx context.Context) (time.Duration, error) { return b.puller.Rivals(ctx, b.image) },
	})
}

// shared pulls an image of which the other layers are there, and the same image again.
func (b *pullBench) shared(ctx context.Context) error {
	return b.race(ctx, b.cold("`banger image pull`, cold"),
		race.Runner{Name: "the same, all but the topmost layer there", Run: func(ctx context.Context) (time.Duration, error) {
			if err := b.puller.Prepare(ctx, b.base); err != nil {
				return 0, err
			}
			return b.puller.Timed(ctx, b.image)
		}},
		race.Runner{Name: "the same image again", Run: func(ctx context.Context) (time.Duration, error) {
			return b.puller.Timed(ctx, b.image)
		}},
	)
}

// descriptors are what manifests and indexes are read for.
type descriptors struct {
	Manifests, Layers []struct{ Digest string }
}

// layersOf returns the files of the layers of a layout's only image.
func layersOf(layout string) ([]string, error) {
	blob := func(digest string) string {
		return filepath.Join(layout, "blobs", strings.Replace(digest, ":", "/", 1))
	}
	var index, manifest descriptors
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("reading the layout %q: it has %d images", layout, len(index.Manifests))
	}
	if err := readJSON(blob(index.Manifests[0].Digest), &manifest); err != nil {
		return nil, err
	}
	var files []string
	for _, l := range manifest.Layers {
		files = append(files, blob(l.Digest))
	}
	return files, nil
}

func readJSON(path string, value any) error {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, value)
	}
	return err
}

// gunzip writes what is in a gzip file to standard output, as fast as Go does it.
func gunzip(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	content, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{os.Stdout}, struct{ io.Reader }{content}, make([]byte, 1<<20))
	return err
}
