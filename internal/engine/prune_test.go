package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/lock"
	"github.com/banger-vm/banger/internal/store"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// epoch is when the images of the tests were made.
var epoch = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)

// diffID is the diff_id of the layer of that letter.
func diffID(letter string) string {
	return digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat(letter, 64)).String()
}

// shelf is an engine with images whose layers are letters.
type shelf struct {
	*testing.T
	*Engine
	ids map[string]string // of the images
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	return &shelf{T: t, Engine: newEngine(t), ids: map[string]string{}}
}

func (s *shelf) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// layer writes a layer of 64 KiB that was last used some days after the epoch.
func (s *shelf) layer(letter string, days int) {
	s.Helper()
	name := strings.Repeat(letter[:1], 64) + letter[1:]
	path := s.home.Path("layers", "sha256", name)
	s.must("making the layer store", os.MkdirAll(filepath.Dir(path), 0o700))
	s.must("writing a layer", os.WriteFile(path, make([]byte, 64<<10), 0o600))
	at := epoch.AddDate(0, 0, days)
	s.must("dating a layer", os.Chtimes(path, at, at))
}

// image publishes an image that was made some days after the epoch, of layers that are there or not, with names.
func (s *shelf) image(title string, days int, layers string, names ...string) {
	s.Helper()
	ctx := s.Context()
	id := digest.FromString(title).Encoded()
	s.ids[title] = id
	stage, err := s.home.NewStage(ctx)
	s.must("staging an image", err)
	defer func() { _ = stage.Close() }()
	s.must("staging an image", os.Mkdir(stage.Path("image"), 0o700))
	s.must("staging an image", os.WriteFile(store.StagedDisk(stage), make([]byte, 128<<10), 0o600))
	image := store.Image{ID: id, Reference: title, Digest: "sha256:" + id, Size: 128 << 10, Created: epoch.AddDate(0, 0, days)}
	for letter := range strings.SplitSeq(layers, "") {
		image.Layers = append(image.Layers, store.Layer{DiffID: diffID(letter)})
	}
	s.must("publishing an image", s.images.Publish(ctx, stage, image))
	for _, name := range names {
		s.must("naming an image", s.images.Tag(ctx, store.Name{Name: name, ID: id, Digest: image.Digest}))
	}
}

// has returns the titles of the images and the letters of the layers that are there, sorted.
func (s *shelf) has() string {
	s.Helper()
	var found []string
	for title, id := range s.ids {
		if _, err := os.Stat(s.images.Disk(id)); err == nil {
			found = append(found, title)
		}
	}
	slices.Sort(found)
	files, _ := filepath.Glob(s.home.Path("layers", "sha256", "*"))
	letters := ""
	for _, file := range files {
		name := filepath.Base(file)
		letters += " " + name[:1] + name[64:]
	}
	return strings.Join(found, " ") + " |" + letters
}

// stocked has images with and without names, one of a VM, and layers with and without images.
func stocked(t *testing.T) *shelf {
	s := newShelf(t)
	for days, letter := range []string{"a", "b", "c", "d", "e", "f", "a.partial"} {
		s.layer(letter, days)
	}
	s.image("named", 1, "ab", "debian:bookworm")
	s.image("dangling", 2, "ac")
	s.image("old", 0, "ad", "debian:buster", "buster")
	s.image("vm", 3, "e")
	newVM(t, s.Engine, instance.Config{Name: "web", ImageID: s.ids["vm"]})
	return s
}

func TestPruneImages(t *testing.T) {
	const all = "dangling named old vm | a a.partial b c d e f"
	for _, c := range []struct {
		name    string
		options PruneOptions
		left    string // of the images and layers
		bytes   int64  // that are reclaimed, in KiB
	}{
		{"dangling", PruneOptions{}, "named old vm | a b d e", 128 + 3*64},
		{"all", PruneOptions{All: true}, "vm | e", 3*128 + 6*64},
		{"dangling, until", PruneOptions{Until: epoch.AddDate(0, 0, 1)}, all, 0},
		{"all, until", PruneOptions{All: true, Until: epoch.AddDate(0, 0, 4)}, "vm | a.partial e f", 3*128 + 4*64},
		{"unused layers, until", PruneOptions{Until: epoch.AddDate(0, 0, 5)}, "named old vm | a a.partial b d e", 128 + 2*64},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := stocked(t)
			c.options.DryRun = true
			planned, err := s.PruneImages(t.Context(), c.options)
			s.must("a dry run", err)
			if got := s.has(); got != all {
				t.Fatalf("after a dry run there are %s, want %s", got, all)
			}
			before := s.size()
			c.options.DryRun = false
			pruned, err := s.PruneImages(t.Context(), c.options)
			s.must("pruning", err)
			if got := s.has(); got != c.left {
				t.Errorf("left are %s, want %s", got, c.left)
			}
			// An image has its description beside its disk.
			extra := int64(len(pruned.Images)) * 64
			if kib := pruned.Reclaimed >> 10; kib < c.bytes || kib > c.bytes+extra {
				t.Errorf("reclaimed %d KiB, want %d and some KiB for descriptions", kib, c.bytes)
			}
			if freed := before - s.size(); freed != pruned.Reclaimed {
				t.Errorf("said to reclaim %d bytes, du says %d", pruned.Reclaimed, freed)
			}
			if fmt.Sprint(planned) != fmt.Sprint(pruned) {
				t.Errorf("the dry run said\n%+v, removed were\n%+v", planned, pruned)
			}
			again, err := s.PruneImages(t.Context(), c.options)
			if err != nil || again.Reclaimed != 0 || len(again.Images)+len(again.Layers)+len(again.Partial) > 0 {
				t.Errorf("pruning again removed %+v (%v)", again, err)
			}
		})
	}
}

// size is what du says of the images, the layers and the work, in bytes.
func (s *shelf) size() int64 {
	s.Helper()
	var total int64
	for _, dir := range []string{"images", "layers/sha256", "tmp"} {
		path := s.home.Path(dir)
		files, err := filepath.Glob(path + "/*")
		s.must("listing", err)
		if len(files) == 0 {
			continue
		}
		out, err := exec.Command("du", append([]string{"-s", "-B1", "-c", "--exclude=names"}, files...)...).Output()
		s.must("running du", err)
		fields := strings.Fields(strings.TrimSpace(string(out)))
		n, err := strconv.ParseInt(fields[len(fields)-2], 10, 64)
		s.must("reading du's total", err)
		total += n
	}
	return total
}

// TestPruneSparesWork: what somebody works with stays, and what a dead process left goes.
func TestPruneSparesWork(t *testing.T) {
	s := stocked(t)
	use, err := s.layers.Use(t.Context(), []string{diffID("f")}) // a pull that has not published its image
	s.must("using a layer", err)
	making, err := s.images.LockImage(t.Context(), s.ids["dangling"])
	s.must("locking an image", err)
	using, err := s.images.Use(t.Context(), s.ids["old"]) // a VM is being made of it
	s.must("using an image", err)
	alive, err := s.home.NewStage(t.Context())
	s.must("beginning some work", err)
	defer func() { _ = alive.Close() }()
	dead := s.home.Path("tmp", "dead", "image")
	s.must("leaving some work", os.MkdirAll(dead, 0o700))
	s.must("leaving some work", os.WriteFile(filepath.Join(dead, "rootfs.ext4"), make([]byte, 1<<20), 0o600))

	pruned, err := s.PruneImages(t.Context(), PruneOptions{All: true})
	s.must("pruning", err)
	if got, want := s.has(), "dangling old vm | a c d e f"; got != want {
		t.Errorf("left are %s, want %s", got, want)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) || pruned.Reclaimed < 1<<20 {
		t.Errorf("what a dead process left is still there (%v); reclaimed %d bytes", err, pruned.Reclaimed)
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Errorf("the work of a living process: %v", err)
	}
	use.Release()
	making.Release()
	using.Release()
	_, err = s.PruneImages(t.Context(), PruneOptions{All: true})
	if got, want := s.has(), "vm | e"; got != want || err != nil {
		t.Errorf("after the work, left are %s (%v), want %s", got, err, want)
	}
}

// TestPruneWithBroken: where it cannot be known what is needed, it stays, and the error says so.
func TestPruneWithBroken(t *testing.T) {
	s := stocked(t)
	s.must("spoiling an image", os.WriteFile(s.home.Path("images", s.ids["vm"], "image.json"), []byte("{"), 0o600))
	_, err := s.PruneImages(t.Context(), PruneOptions{})
	if got, want := s.has(), "named old vm | a a.partial b c d e f"; got != want || fault.KindOf(err) != fault.Corrupt {
		t.Errorf("with an image that cannot be read, left are %s (%v), want %s", got, err, want)
	}
	s = stocked(t)
	s.must("spoiling a VM", os.WriteFile(s.home.Path("vms", "web", instance.ConfigFile), []byte("{"), 0o600))
	_, err = s.PruneImages(t.Context(), PruneOptions{All: true})
	if got, want := s.has(), "dangling named old vm | a b c d e"; got != want || fault.KindOf(err) != fault.Corrupt {
		t.Errorf("with a VM that cannot be read, left are %s (%v), want %s", got, err, want)
	}
}

// TestNamedMeanwhile: an image that gets a name, or a VM, while it is to be pruned stays.
func TestNamedMeanwhile(t *testing.T) {
	s := stocked(t)
	p := &prune{engine: s.Engine, gone: map[string]bool{}}
	image, err := s.FindImage(s.ids["dangling"])
	s.must("finding the image", err)
	s.must("naming it", s.images.Tag(t.Context(), store.Name{Name: "late", ID: image.ID}))
	if err := p.image(t.Context(), image); !errors.Is(err, errInUseMeanwhile) || len(p.result.Images) > 0 {
		t.Errorf("an image that was named meanwhile: %v, removed %v", err, p.result.Images)
	}
	p.options.All = true
	newVM(t, s.Engine, instance.Config{Name: "late", ImageID: image.ID})
	if err := p.image(t.Context(), image); !errors.Is(err, errInUseMeanwhile) || len(p.result.Images) > 0 {
		t.Errorf("an image of which a VM was made meanwhile: %v, removed %v", err, p.result.Images)
	}
}

// TestRemovedNameOfTwo: an image that gets another name while it is to be removed by its only one loses that name alone.
func TestRemovedNameOfTwo(t *testing.T) {
	for _, c := range []struct {
		name  string
		moved bool // the name stands for another image meanwhile
		left  string
	}{{"named twice", false, "box |"}, {"named anew", true, "box |"}} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf(t)
			s.image("box", 0, "a", "old")
			making, err := s.images.LockImage(t.Context(), s.ids["box"]) // as a pull of it does
			s.must("locking the image", err)
			removed := make(chan error)
			go func() {
				_, err := s.RemoveImage(t.Context(), "old")
				removed <- err
			}()
			select {
			case err := <-removed:
				t.Fatalf("the removal did not wait for the pull: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			s.must("naming the image", s.images.Tag(t.Context(), store.Name{Name: "new", ID: s.ids["box"]}))
			if c.moved {
				s.must("freeing the name", s.images.Untag(t.Context(), "old", s.ids["box"], func([]string) error { return nil }))
				s.image("other", 0, "b", "old")
			}
			making.Release()
			s.must("removing the image", <-removed)
			if got := s.has(); got != c.left {
				t.Errorf("left are %s, want %s", got, c.left)
			}
			found, err := s.FindImage("new")
			if err != nil || !slices.Equal(found.Names, []string{"new"}) {
				t.Errorf("finding the image by its new name: %v with the names %v", err, found.Names)
			}
		})
	}
}

// TestBothNamesRemoved: an image whose two names are removed at once goes with the one that is the last then.
func TestBothNamesRemoved(t *testing.T) {
	s := newShelf(t)
	s.image("box", 0, "a", "old", "new")
	naming, err := s.home.Lock(t.Context(), "names") // as whoever names an image
	s.must("taking the lock of the names", err)
	removed := make(chan error, 2)
	for _, name := range []string{"old", "new"} {
		go func() {
			_, err := s.RemoveImage(t.Context(), name)
			removed <- err
		}()
	}
	time.Sleep(100 * time.Millisecond) // for both to find two names
	naming.Release()
	for range cap(removed) {
		s.must("removing a name", <-removed)
	}
	if got := s.has(); got != " |" {
		t.Errorf("left are %s, want nothing", got)
	}
}

// TestSharedLayerGoes: who removes the last image of a layer removes the layer as well, although somebody else who removes an
// image looks whether it is in use in that moment, and is in the way.
func TestSharedLayerGoes(t *testing.T) {
	s := newShelf(t)
	s.layer("a", 0)
	s.image("box", 0, "a", "box")
	turn, err := s.home.Lock(t.Context(), releaseLock)
	s.must("taking the other's turn", err)
	looking, err := lock.Try(s.home.Path("layers", "used", strings.Repeat("a", 64)))
	s.must("looking at the layer", err)
	removed := make(chan error)
	go func() {
		_, err := s.RemoveImage(t.Context(), "box")
		removed <- err
	}()
	select {
	case err := <-removed:
		t.Fatalf("the removal did not wait for its turn: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	looking.Release()
	turn.Release()
	s.must("removing the image", <-removed)
	if got, want := s.has(), " |"; got != want {
		t.Errorf("left are %s, want nothing", got)
	}
}

// TestImageBecomesVM: from when an image is found until a VM is made of it, it cannot be removed; one that has just been is
// missed.
func TestImageBecomesVM(t *testing.T) {
	s := stocked(t)
	using, err := s.useImage(t.Context(), "old", s.ids["old"])
	s.must("using an image", err)
	removed := make(chan error, 1)
	go func() {
		_, err := s.RemoveImage(context.Background(), s.ids["old"])
		removed <- err
	}()
	time.Sleep(100 * time.Millisecond)
	newVM(t, s.Engine, instance.Config{Name: "late", ImageID: s.ids["old"]})
	using.Release()
	if err := <-removed; fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "late") {
		t.Errorf("removing an image while a VM is made of it: %v, want a conflict with the VM", err)
	}
	_, err = s.RemoveImage(t.Context(), s.ids["dangling"])
	s.must("removing an image", err)
	if _, err := s.useImage(t.Context(), "gone", s.ids["dangling"]); fault.KindOf(err) != fault.NotFound {
		t.Errorf("making a VM of an image that was removed meanwhile: %v", err)
	}
}

// TestLayerCache: which layers stay when an image is removed, and before another is built.
func TestLayerCache(t *testing.T) {
	for _, c := range []struct {
		name           string
		cache          LayerCache
		removed, built string // what is left then; f never had an image
	}{
		{"as it is", LayerCache{Limit: 1 << 30}, "a b c e f", "a b c e f"},
		{"nothing", LayerCache{KeepRemoved: true}, "a b c e", "a b c e"},
		{"some", LayerCache{Limit: 100 << 10, KeepRemoved: true}, "a b c e f", "a b c e f"},
		{"all", LayerCache{Limit: 1 << 30, KeepRemoved: true}, "a b c d e f", "a b c d e f"},
		{"none but those of images", LayerCache{}, "a b c e f", "a b c e"},
	} {
		s := stocked(t)
		s.must("removing a download", os.Remove(s.home.Path("layers", "sha256", strings.Repeat("a", 64)+".partial")))
		s.config.LayerCache = c.cache
		for _, name := range []string{"buster", "debian:buster"} {
			_, err := s.RemoveImage(t.Context(), name)
			s.must("removing an image", err)
		}
		if got, want := s.has(), "dangling named vm | "+c.removed; got != want {
			t.Errorf("%s: after an image was removed there are %s, want %s", c.name, got, want)
		}
		s.must("trimming", s.trimLayers(t.Context()))
		if got, want := s.has(), "dangling named vm | "+c.built; got != want {
			t.Errorf("%s: when another is built there are %s, want %s", c.name, got, want)
		}
	}
}

// TestDiskUsage: the sizes are du's, and what is shared counts once.
func TestDiskUsage(t *testing.T) {
	s := stocked(t)
	use, err := s.layers.Use(t.Context(), []string{diffID("f")})
	s.must("using a layer", err)
	defer use.Release()
	used, err := s.DiskUsage(t.Context())
	s.must("measuring", err)
	var total int64
	got := ""
	for _, sum := range used.Totals {
		got += fmt.Sprintf("%s %d/%d ", sum.Kind, sum.Active, sum.Count)
		total += sum.Size
	}
	if want := "images 1/4 layers 6/6 vms 0/1 kernels 0/0 unfinished 0/1 documents 0/0 "; got != want {
		t.Errorf("active are %s, want %s", got, want)
	}
	vms := (&meter{seen: map[inode]bool{}}).tree(s.home.Path("vms", "web"))
	if want := s.size() + vms; total != want {
		t.Errorf("all takes %d bytes, du says %d", total, want)
	}
	for _, image := range used.Images {
		layers := map[string][2]int64{"named": {64, 64}, "dangling": {64, 64}, "old": {64, 64}, "vm": {0, 64}}
		for title, id := range s.ids {
			want := layers[title]
			if id == image.ID && (image.Shared != want[0]<<10 || image.Unique-image.Disk != want[1]<<10) {
				t.Errorf("%s: %d bytes of layers are shared and %d its own, want %v KiB", title, image.Shared, image.Unique-image.Disk, want)
			}
		}
	}
	pruned, err := s.PruneImages(context.Background(), PruneOptions{All: true, DryRun: true})
	s.must("a dry run", err)
	if reclaimable := used.Totals[0].Reclaimable; reclaimable != sumOf(pruned.Images) {
		t.Errorf("%d bytes of images are said to be reclaimable, and --all would reclaim %d", reclaimable, sumOf(pruned.Images))
	}
}

// TestDocuments: the manifests that are kept are counted, and go with --all, unless they were read since.
func TestDocuments(t *testing.T) {
	s := newShelf(t)
	s.must("making the documents", os.MkdirAll(s.documentsDir(), 0o700))
	for n, name := range []string{"sha256-a", "sha256-b"} {
		path, at := filepath.Join(s.documentsDir(), name), epoch.AddDate(0, 0, n)
		s.must("writing a document", errors.Join(os.WriteFile(path, make([]byte, 8192), 0o600), os.Chtimes(path, at, at)))
	}
	used, err := s.DiskUsage(t.Context())
	s.must("measuring", err)
	want := UsageTotal{Kind: UsageDocuments, Count: 2, Size: 2 * 8192, Reclaimable: 2 * 8192}
	if got := used.Totals[len(used.Totals)-1]; got != want {
		t.Errorf("the documents are %+v, want %+v", got, want)
	}
	a, b := PrunedItem{Name: "sha256-a", Size: 8192}, PrunedItem{Name: "sha256-b", Size: 8192}
	for _, c := range []struct {
		name       string
		options    PruneOptions
		gone, left []PrunedItem
	}{
		{"without --all", PruneOptions{}, nil, []PrunedItem{a, b}},
		{"a dry run", PruneOptions{All: true, DryRun: true}, []PrunedItem{a, b}, []PrunedItem{a, b}},
		{"until", PruneOptions{All: true, Until: epoch.Add(time.Hour)}, []PrunedItem{a}, []PrunedItem{b}},
		{"all", PruneOptions{All: true}, []PrunedItem{b}, nil},
		{"again", PruneOptions{All: true}, nil, nil},
	} {
		pruned, err := s.PruneImages(t.Context(), c.options)
		s.must("pruning", err)
		if !slices.Equal(pruned.Documents, c.gone) || pruned.Reclaimed != int64(len(c.gone))*8192 {
			t.Errorf("%s: removed %+v of %d bytes, want %+v", c.name, pruned.Documents, pruned.Reclaimed, c.gone)
		}
		var left []PrunedItem
		files, err := s.documents()
		s.must("listing the documents", err)
		for _, file := range files {
			left = append(left, PrunedItem{Name: file.Name(), Size: 8192})
		}
		if !slices.Equal(left, c.left) {
			t.Errorf("%s: left are %+v, want %+v", c.name, left, c.left)
		}
	}
}

func sumOf(images []PrunedImage) (sum int64) {
	for _, image := range images {
		sum += image.Size
	}
	return sum
}

// TestHardLinksCountOnce: a file with several names takes its space once.
func TestHardLinksCountOnce(t *testing.T) {
	dir := t.TempDir()
	one := filepath.Join(dir, "one")
	err := errors.Join(os.WriteFile(one, make([]byte, 1<<20), 0o600), os.Link(one, filepath.Join(dir, "two")))
	if err != nil {
		t.Fatal(err)
	}
	m := &meter{seen: map[inode]bool{}}
	if size := m.tree(dir); size < 1<<20 || size > 1<<20+64<<10 {
		t.Errorf("two names of a MiB take %d bytes", size)
	}
	if size := m.tree(one); size != 0 {
		t.Errorf("a third look at the file counts %d bytes more", size)
	}
}
