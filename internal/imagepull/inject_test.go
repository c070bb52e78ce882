package imagepull

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// agentAssets are like the real ones, plus what an asset could be.
func agentAssets(content string) []guest.Asset {
	agent := file(content)
	agent.Mode, agent.MTime = 0o755, time.Unix(1_700_000_000, 42)
	agent.Xattrs = []layer.Xattr{{Name: "user.banger", Value: "small"}}
	etc := newDir()
	etc.Mode = 0o700
	return []guest.Asset{
		{Path: "/usr/lib/banger/banger-guest", Node: agent},
		{Path: "/etc/systemd/system/multi-user.target.wants/banger-guest.service", Node: symlink("/usr/lib/x")},
		{Path: "/sbin/init", Node: symlink("/usr/lib/" + strings.Repeat("long/", 30))},
		{Path: `/odd "dir"/<7>`, Node: file("odd")},
		{Path: "/top", Node: file("in the root")},
		{Path: "/etc/private", Node: etc},
	}
}

// putAsset puts an asset into a tree as InjectGuestAgents should into the image.
func putAsset(tree *rootfs.Tree, a guest.Asset) {
	dir, path := tree.Root, ""
	for _, name := range strings.Split(filepath.Dir(a.Path), "/")[1:] {
		if name == "" {
			break
		}
		path += "/" + name
		if dir.Children[name] == nil {
			put(tree, path, &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: a.Node.MTime})
		}
		dir = dir.Children[name]
	}
	n := *a.Node
	n.Links = 0
	put(tree, a.Path, &n)
}

func inject(t *testing.T, image string, assets []guest.Asset) {
	t.Helper()
	if err := InjectGuestAgents(context.Background(), testRunner(), assets, image); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	mustLeaveOnly(t, image)
}

// The image has to be the tree with the assets, and every directory that was there keeps its time.
func TestInjectGuestAgents(t *testing.T) {
	tree := fullTree()
	put(tree, "/etc", newDir())
	put(tree, "/usr/lib", newDir())
	image := build(t, tree, MinExt4Size)
	inject(t, image, agentAssets(strings.Repeat("the agent", 50_000)))
	for _, a := range agentAssets(strings.Repeat("the agent", 50_000)) {
		putAsset(tree, a)
	}
	mustMatch(t, tree, image)

	// Renewed by another version: the old one's blocks are free again.
	before := freeBlocks(t, image)
	for range 3 {
		inject(t, image, agentAssets(strings.Repeat("new agent", 50_000)))
	}
	for _, a := range agentAssets(strings.Repeat("new agent", 50_000)) {
		putAsset(tree, a)
	}
	mustMatch(t, tree, image)
	if after := freeBlocks(t, image); after != before {
		t.Errorf("%d blocks are free after renewing, and %d were before", after, before)
	}
}

func freeBlocks(t *testing.T, image string) int64 {
	t.Helper()
	s, err := readSuperblock(image)
	if err != nil {
		t.Fatal(err)
	}
	return s.freeBlocks
}

// A file system that the kernel filled has indexed directories, and one of another age has other features.
func TestInjectIntoForeignFileSystems(t *testing.T) {
	for _, options := range []string{"-b1024", "-b4096", "-O^metadata_csum", "-Oinline_data", "-O^extents,^64bit", "-I128"} {
		t.Run(options, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "foreign")
			if err := createSparse(image, 100<<20); err != nil {
				t.Fatal(err)
			}
			run(t, "mkfs.ext4", "-q", "-F", options, image)
			dir, unmount := mounted(t, image, "loop")
			for i := range 500 {
				path := filepath.Join(dir, "usr/lib/banger", fmt.Sprint(i, strings.Repeat("n", 100)))
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			unmount()
			assets := agentAssets("agent")
			if options == "-I128" { // such inodes have no room for attributes
				assets[0].Node.Xattrs = nil
			}
			inject(t, image, assets)
			inject(t, image, assets)

			dir, unmount = mounted(t, image, "loop,ro")
			defer unmount()
			tree := newTree()
			for _, a := range assets {
				if options == "-I128" { // such inodes have no nanoseconds
					a.Node.MTime = a.Node.MTime.Truncate(time.Second)
				}
				putAsset(tree, a)
			}
			for _, a := range assets {
				mustBeAt(t, dir, a.Path, tree)
			}
			if _, err := os.Stat(filepath.Join(dir, "usr/lib/banger/499"+strings.Repeat("n", 100))); err != nil {
				t.Errorf("a directory that was there is not any more: %v", err)
			}
		})
	}
}

// mustBeAt compares one path of a mounted image with the tree.
func mustBeAt(t *testing.T, dir, path string, tree *rootfs.Tree) {
	t.Helper()
	parent, err := openAt(dir, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(parent) }()
	got, err := nodeAt(parent, filepath.Base(path))
	if err != nil {
		t.Fatalf("%q: %v", path, err)
	}
	node := tree.Root
	for _, name := range strings.Split(path, "/")[1:] {
		node = node.Children[name]
	}
	if want, err := treeFact(node); err != nil || fact(got.Node, got.content) != want {
		t.Errorf("%q (%v)\n got  %s\n want %s", path, err, fact(got.Node, got.content), want)
	}
}

func TestInjectIsRefused(t *testing.T) {
	node := func(path string, n *rootfs.Node) []guest.Asset { return []guest.Asset{{Path: path, Node: n}} }
	large := file("")
	large.Size = 1 << 30
	tests := []struct {
		name   string
		assets []guest.Asset
		kind   fault.Kind
		want   string
	}{
		{"parent that is a file", node("/usr/bin/su/x", file("")), fault.Conflict, `"/usr/bin/su"`},
		{"parent that is a symbolic link", node("/lib/x", file("")), fault.Conflict, `"/lib"`},
		{"file in place of a directory", node("/usr/bin", file("")), fault.Conflict, `"/usr/bin"`},
		{"directory in place of a file", node("/usr/bin/su", newDir()), fault.Conflict, `"/usr/bin/su"`},
		{"attributes in a block", node("/usr/bin/su", file("")), fault.Conflict, `"/usr/bin/su" has extended attributes`},
		{"lack of space", node("/large", large), fault.NoSpace, "free"},
		{"line feed", node("/a\nb", file("")), fault.Unsupported, `a\nb`},
		{"line feed in a target", node("/a", symlink("a\nb")), fault.Unsupported, `a\nb`},
		{"device", node("/a", special(rootfs.CharDevice, 1, 3)), fault.Failure, `"/a"`},
	}
	tree := fullTree()
	put(tree, "/lib", symlink("usr/bin"))
	tree.Root.Children["usr"].Children["bin"].Children["su"].Xattrs = []layer.Xattr{
		{Name: "user.large", Value: strings.Repeat("x", 300)},
	}
	image := build(t, tree, MinExt4Size)
	before := mustRead(t, image)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := InjectGuestAgents(context.Background(), testRunner(), tt.assets, image)
			if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v of kind %d, want one with %s of kind %d", err, fault.KindOf(err), tt.want, tt.kind)
			}
			if mustRead(t, image) != before {
				t.Error("the image was changed")
			}
			mustLeaveOnly(t, image)
		})
	}
}

// The journal of a file system that is still in use, or was when its machine died, has newer data than the disk.
func TestInjectRefusesAnUncleanFileSystem(t *testing.T) {
	image := build(t, newTree(), MinExt4Size)
	dir, _ := mounted(t, image, "loop")
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "sync", "-f", dir)
	err := InjectGuestAgents(context.Background(), testRunner(), agentAssets("x"), image)
	if fault.KindOf(err) != fault.Conflict || !strings.Contains(fault.HintOf(err), "e2fsck") {
		t.Errorf("got error %v with hint %q, want a conflict with a hint of e2fsck", err, fault.HintOf(err))
	}
}

func TestInjectIntoWhatIsNoFileSystem(t *testing.T) {
	name := filepath.Join(t.TempDir(), "zeros")
	if err := createSparse(name, 1<<20); err != nil {
		t.Fatal(err)
	}
	err := InjectGuestAgents(context.Background(), testRunner(), agentAssets("x"), name)
	if fault.KindOf(err) != fault.Unsupported {
		t.Errorf("got error %v of kind %d, want kind %d", err, fault.KindOf(err), fault.Unsupported)
	}
}
