package imagepull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/rootfs/treetest"
)

// The steps of each builder, in the order of its documentation, and what is in the file afterwards.
func TestBuildSteps(t *testing.T) {
	want := map[string][]string{
		"native": {"InjectGuestAgents", "BuildExt4"},
		"mkfs":   {"BuildExt4", "ApplyOwnership", "InjectGuestAgents"},
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, assets := range [][]guest.Asset{nil, agentAssets("agent")} {
			steps := want[b.Name()]
			if assets == nil {
				steps = slices.DeleteFunc(slices.Clone(steps), func(name string) bool { return name == "InjectGuestAgents" })
			}
			var begun, ended []string
			report := func(s Step) {
				if s.Done {
					ended = append(ended, s.Name)
				} else {
					begun = append(begun, s.Name)
				}
			}
			w := withAssets(work(t, newTree(), MinExt4Size), assets)
			if _, err := b.Build(t.Context(), w, Steps{Now: time.Now, Report: report}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(begun, steps) || !slices.Equal(ended, steps) {
				t.Errorf("with %d assets the steps began as %q and ended as %q; want %q", len(assets), begun, ended, steps)
			}
		}
	})
}

// The image has the tree and the assets, and every directory that was there keeps its time.
func TestBuildWithAssets(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		make := func() *rootfs.Tree {
			tree := fullTree()
			put(tree, "/etc", newDir()).Mode = 0o711
			put(tree, "/usr/lib", newDir())
			put(tree, "/usr/lib/banger", newDir())
			put(tree, "/usr/lib/banger/banger-guest", file("an older agent"))
			put(tree, "/sbin", newDir())
			old := put(tree, "/sbin/init", symlink("old"))
			put(tree, "/sbin/other name", old)
			return tree
		}
		want := make()
		for _, a := range agentAssets("the agent") {
			if a.Node.Kind != rootfs.Directory || at(want, a.Path) == nil {
				if old := at(want, a.Path); old != nil {
					old.Links--
				}
				putAsset(want, a)
			}
		}
		w := withAssets(work(t, make(), MinExt4Size), parentsFirst(agentAssets("the agent")))
		if _, err := b.Build(t.Context(), w, silent()); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, w.OutFile)
		mustMatch(t, want, w.OutFile)
	})
}

// parentsFirst adds the missing parents of assets, as guest.Assets does.
func parentsFirst(assets []guest.Asset) []guest.Asset {
	var out []guest.Asset
	made := map[string]bool{"/": true, "/usr": true, "/usr/lib": true, "/etc": true, "/sbin": true, "/usr/lib/banger": true}
	for _, a := range assets {
		var missing []guest.Asset
		for dir := filepath.Dir(a.Path); !made[dir]; dir = filepath.Dir(dir) {
			made[dir] = true
			node := &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: a.Node.MTime}
			missing = append(missing, guest.Asset{Path: dir, Node: node})
		}
		slices.Reverse(missing)
		out = append(append(out, missing...), a)
	}
	return out
}

func TestBuildReplacesAnOldFile(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		w := work(t, newTree(), MinExt4Size)
		if err := os.WriteFile(w.OutFile, []byte(strings.Repeat("old", 1<<20)), 0o444); err != nil {
			t.Fatal(err)
		}
		other := w.OutFile + " by another name"
		if err := os.Link(w.OutFile, other); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Build(t.Context(), w, silent()); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, w.OutFile)
		if info, err := os.Stat(w.OutFile); err != nil || info.Mode() != 0o600 {
			t.Errorf("the new file is %v (%v); want the mode 0600", info, err)
		}
		if got := mustRead(t, other); got != strings.Repeat("old", 1<<20) {
			t.Error("the old file was written to; want it replaced")
		}
	})
}

// What can be seen to be wrong at once leaves an old file alone.
func TestBuildRefusesSizes(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, size := range []int64{-1, 0, MinExt4Size - 1} {
			w := work(t, newTree(), size)
			if err := os.WriteFile(w.OutFile, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := b.Build(t.Context(), w, silent())
			if fault.KindOf(err) != fault.NoSpace || !strings.Contains(fmt.Sprint(err), "67108864") {
				t.Errorf("a size of %d gave %v; want a fault.NoSpace with the least size", size, err)
			}
			if got := mustRead(t, w.OutFile); got != "old" {
				t.Errorf("a size of %d: the old file has %q now; want that it is not touched", size, got)
			}
		}
		w := work(t, newTree(), MinExt4Size)
		refused := errors.New("no such size")
		w.Size = func(rootfs.Usage) (int64, error) { return 0, refused }
		if _, err := b.Build(t.Context(), w, silent()); !errors.Is(err, refused) {
			t.Errorf("got error %v, want that of Size", err)
		}
		mustNotExist(t, w.OutFile)
	})
}

func TestBuildKeepsADirectory(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		w := work(t, newTree(), MinExt4Size)
		if err := os.Mkdir(w.OutFile, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Build(t.Context(), w, silent()); err == nil {
			t.Error("Build replaced a directory; want an error")
		}
		if _, err := os.Stat(w.OutFile); err != nil {
			t.Errorf("the directory is gone: %v", err)
		}
	})
}

// A tree that is larger than its disk.
func TestBuildTooSmall(t *testing.T) {
	long := newTree()
	for i := range 16_000 {
		put(long, fmt.Sprintf("/%d", i), symlink(strings.Repeat("t", 500)))
	}
	manyFiles := newTree()
	for i := range 17_000 {
		put(manyFiles, fmt.Sprintf("/%d", i), file(""))
	}
	trees := map[string]*rootfs.Tree{
		"blocks of data": largeFileTree(70 << 20), "blocks of symbolic links": long, "inodes": manyFiles,
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		for name, tree := range trees {
			if name != "blocks of data" && b.Name() == "mkfs" { // its blocks are smaller, and inodes are TestBuildExt4TooSmall's
				continue
			}
			t.Run(name, func(t *testing.T) {
				w := work(t, tree, MinExt4Size)
				_, err := b.Build(t.Context(), w, silent())
				if name == "inodes" && err == nil { // the builder has made more
					mustBeClean(t, w.OutFile)
					return
				}
				if fault.KindOf(err) != fault.NoSpace || !strings.Contains(fault.HintOf(err), "--size") {
					t.Errorf("got error %v with hint %q; want a fault.NoSpace with a hint of --size", err, fault.HintOf(err))
				}
				mustNotExist(t, w.OutFile)
			})
		}
	})
}

// reading is a source that calls a function before each read.
type reading func() error

// ReadAt implements io.ReaderAt.
func (r reading) ReadAt(p []byte, offset int64) (int, error) {
	if err := r(); err != nil {
		return 0, err
	}
	return counting{}.ReadAt(p, offset)
}

// A layer that cannot be read, or ends early, is an error that names the file.
func TestBuildUnreadableSource(t *testing.T) {
	broken := errors.New("the layer is gone")
	for name, c := range map[string]struct {
		source io.ReaderAt
		want   error
	}{
		"broken": {reading(func() error { return broken }), broken},
		"short":  {strings.NewReader("short"), io.ErrUnexpectedEOF},
	} {
		eachBuilder(t, func(t *testing.T, b subject) {
			tree := largeFileTree(1 << 20)
			put(tree, "/dir", newDir())
			tree.Root.Children["dir"].Children = map[string]*rootfs.Node{"unreadable file": tree.Root.Children["large"]}
			delete(tree.Root.Children, "large")
			at(tree, "/dir/unreadable file").Source = c.source
			w := work(t, tree, MinExt4Size)
			_, err := b.Build(t.Context(), w, silent())
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), `"/dir/unreadable file"`) {
				t.Errorf("%s: got error %v, want %v with the path", name, err, c.want)
			}
			mustNotExist(t, w.OutFile)
		})
	}
}

func TestBuildCancelled(t *testing.T) {
	stop := errors.New("enough")
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, when := range []string{"before", "while it reads"} {
			ctx, cancel := context.WithCancelCause(context.Background())
			tree := largeFileTree(40 << 20)
			tree.Root.Children["large"].Source = reading(func() error { cancel(stop); return nil })
			if when == "before" {
				cancel(stop)
			}
			w := work(t, tree, 512<<20)
			if _, err := b.Build(ctx, w, silent()); !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled %s: got error %v, want %v", when, err, stop)
			}
			mustNotExist(t, w.OutFile)
			if left, err := os.ReadDir(w.Dir); len(left) > 0 || err != nil {
				t.Errorf("cancelled %s: %v are left (%v)", when, left, err)
			}
			cancel(nil)
		}
	})
}

// A disk of the host's own, which the image fills.
func TestBuildOnAFullHost(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, size := range []string{"24m", "100k"} {
			dir := t.TempDir()
			run(t, "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir)
			w := work(t, largeFileTree(32<<20), MinExt4Size)
			w.OutFile = filepath.Join(dir, "image")
			_, err := b.Build(t.Context(), w, silent())
			if fault.KindOf(err) != fault.NoSpace || !strings.Contains(fault.HintOf(err), "host") {
				t.Errorf("on a disk of %s: got error %v, hint %q; want a fault.NoSpace with a hint of the host",
					size, err, fault.HintOf(err))
			}
			mustNotExist(t, w.OutFile)
			umount(t, dir)
		}
	})
}

// What ext4 cannot have is refused with its path, whoever builds.
func TestBuildRefusesTrees(t *testing.T) {
	with := func(path string, n *rootfs.Node, xattrs ...layer.Xattr) func() *rootfs.Tree {
		return func() *rootfs.Tree {
			tree := newTree()
			put(tree, "/dir", newDir())
			alone := *n
			alone.Links, alone.Xattrs = 0, xattrs
			put(tree, path, &alone)
			return tree
		}
	}
	links := func() *rootfs.Tree {
		tree := manyLinksTree()
		put(tree, "/0/one more", tree.Root.Children["0"].Children["0"])
		return tree
	}
	huge := layer.Xattr{Name: "user.huge", Value: strings.Repeat("v", 65536)}
	tests := []struct {
		name string
		tree func() *rootfs.Tree
		want string
	}{
		{"attribute a byte too long", with("/dir/f", file("x"), filling("a", xattrsOfBlock+1)), "/dir/f"},
		{"attribute of 64 KiB", with("/dir/f", file("x"), huge), "/dir/f"},
		{"attributes too long together", with("/dir/d", newDir(), filling("a", 3000), filling("b", 3000)), "/dir/d"},
		{"65001 names", links, "65"},
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				w := work(t, tt.tree(), 512<<20)
				_, err := b.Build(t.Context(), w, silent())
				if fault.KindOf(err) != fault.Unsupported || !strings.Contains(fmt.Sprint(err), tt.want) {
					t.Errorf("got error %v of kind %d, want a fault.Unsupported with %q", err, fault.KindOf(err), tt.want)
				}
				mustNotExist(t, w.OutFile)
			})
		}
	})
}

// Namespaces that Linux does not have are left out.
func TestBuildLeavesUnknownAttributesOut(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := newTree()
		f := put(tree, "/f", file("x"))
		for _, name := range []string{"com.apple.provenance", "system.nfs4_acl", "user."} {
			f.Xattrs = append(f.Xattrs, layer.Xattr{Name: name, Value: "1"})
		}
		image := b.build(t, tree, MinExt4Size)
		f.Xattrs = nil
		mustMatch(t, tree, image)
	})
}

// Sizes on both sides of every border: whole groups of 128 MiB, a last group of one block and more, 16 groups together.
func TestSizes(t *testing.T) {
	const mib, block = 1 << 20, 4096
	sizes := []int64{MinExt4Size, MinExt4Size + block, 100*mib + 17*block}
	for _, border := range []int64{128 * mib, 256 * mib, 512 * mib, 1024 * mib, 2048 * mib, 8192*mib + 128*mib} {
		for _, more := range []int64{-block, 0, block, 33 * block, 60 * block, 600 * block, 2000 * block} {
			sizes = append(sizes, border+more)
		}
	}
	sizes = append(sizes, 64<<30+block)
	if os.Getenv("BANGER_TEST_LONG") != "" {
		sizes = append(sizes, 1<<40, 2<<40+block, 16<<40-2*block, 16<<40-block)
	}
	tree := fullTree()
	put(tree, "/data", pieces(30*mib, 30*mib, 0))
	eachBuilder(t, func(t *testing.T, b subject) {
		sizes := sizes
		if b.Name() == "mkfs" { // not ours to test
			sizes = sizes[:4]
		}
		for _, size := range sizes {
			t.Run(fmt.Sprint(size/block), func(t *testing.T) {
				t.Parallel()
				b.holds(t, tree, size)
			})
		}
	})
}

// The least size of a tree is enough, leaves what it promises, and is not much more than that.
func TestMinSize(t *testing.T) {
	needMount(t)
	many := func(count int, n func(int) *rootfs.Node) func(int) *rootfs.Tree {
		return func(scale int) *rootfs.Tree {
			tree := newTree()
			for i := range count / scale {
				if i%500 == 0 {
					put(tree, fmt.Sprintf("/%d", i/500), newDir())
				}
				put(tree, fmt.Sprintf("/%d/%d", i/500, i), n(i))
			}
			return tree
		}
	}
	trees := map[string]func(scale int) *rootfs.Tree{
		"nothing":     func(int) *rootfs.Tree { return newTree() },
		"everything":  func(int) *rootfs.Tree { return fullTree() },
		"empty files": many(40_000, func(int) *rootfs.Node { return file("") }),
		"small files": many(10_000, func(int) *rootfs.Node { return file("x") }),
		"attributes": many(10_000, func(int) *rootfs.Node {
			n := file("")
			n.Xattrs = []layer.Xattr{filling("a", 900)}
			return n
		}),
		"long links": many(10_000, func(int) *rootfs.Node { return symlink(strings.Repeat("l", 100)) }),
		"large file": func(int) *rootfs.Tree { return largeFileTree(300 << 20) },
		"pieces":     func(scale int) *rootfs.Tree { return extentsTree(4000 / scale) },
		"long names": func(scale int) *rootfs.Tree { return directoryTree(2000/scale, 255) },
		"holes":      many(300, func(i int) *rootfs.Node { return pieces(1<<30, 4096, 0, 5000*int64(i+1), 1<<29, 1<<30-4096) }),
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		scale := 1
		if b.Name() == "mkfs" { // which is slow
			scale = 10
		}
		for name, make := range trees {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				checkMinSize(t, b, make(scale))
			})
		}
	})
}

func checkMinSize(t *testing.T, b subject, tree *rootfs.Tree) {
	t.Helper()
	const mib = 1 << 20
	size := b.MinSize(tree.Usage())
	if size < MinExt4Size || size%mib != 0 {
		t.Errorf("MinSize is %d; want whole MiB, and %d at least", size, MinExt4Size)
	}
	image := b.holds(t, tree, size)
	dir, unmount := mounted(t, image, "loop,ro")
	defer unmount()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	free := int64(st.Bfree) * st.Bsize
	if free < spareBytes || st.Ffree < spareInodes {
		t.Errorf("on %d MiB, %d bytes and %d inodes are free; want %d and %d", size/mib, free, st.Ffree, spareBytes, spareInodes)
	}
	tooMany := free > spareBytes+size/10+8*mib && int64(st.Ffree) > spareInodes+int64(st.Files)/10
	if b.Name() == "native" && size > MinExt4Size && tooMany {
		t.Errorf("on %d MiB, %d MiB and %d inodes are free: the disk could be smaller", size/mib, free/mib, st.Ffree)
	}
	t.Logf("%d MiB: %d MiB and %d inodes free", size/mib, free/mib, st.Ffree)
}

// Equal trees of equal sizes give equal bytes: whatever the order is in which their names were added, where the file is, and
// how many processors there are.
func TestEqualTreesGiveEqualBytes(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		b.need(t, "equal trees")
		trees := map[string]func() *rootfs.Tree{
			"everything": fullTree, "nothing": newTree, "used": usedTree,
			"pieces": func() *rootfs.Tree { return extentsTree(5, 341, 1400) },
			"random": func() *rootfs.Tree { return treetest.Random(rand.New(rand.NewPCG(7, 7)), 2000) },
		}
		for name, make := range trees {
			sums := map[string]bool{}
			for i, processors := range []int{1, 4, 4} {
				tree := make()
				if i == 2 {
					tree = copied(tree, func(*rootfs.Node) {}) // which fills the maps in another order
				}
				before := runtime.GOMAXPROCS(processors)
				image := b.build(t, tree, 700<<20)
				runtime.GOMAXPROCS(before)
				sums[sumOf(t, image)] = true
			}
			if len(sums) != 1 {
				t.Errorf("%s: one tree gave %d different files", name, len(sums))
			}
		}
		// What differs in the tree differs in the file, and in its name.
		small, other := newTree(), newTree()
		other.Root.MTime = other.Root.MTime.Add(1)
		one, two := run(t, "dumpe2fs", "-h", b.build(t, small, MinExt4Size)), run(t, "dumpe2fs", "-h", b.build(t, other, MinExt4Size))
		if field(one, "Filesystem UUID") == field(two, "Filesystem UUID") {
			t.Errorf("two trees gave file systems of one UUID, %s", field(one, "Filesystem UUID"))
		}
	})
}

// sumOf returns a hash of all bytes of a file.
func sumOf(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := fileContent(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(info.Size(), sum)
}
