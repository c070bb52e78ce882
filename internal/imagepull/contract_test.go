package imagepull

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/rootfs"
)

// TestContract: what a Builder makes of a tree is, for e2fsck, nothing to complain of and, for the kernel, that tree.
func TestContract(t *testing.T) {
	const mib = 1 << 20
	cases := []struct {
		name string
		size int64 // of the disk in bytes; 0 is the least
		tree func() *rootfs.Tree
	}{
		{"nothing", 0, newTree},
		{"one of everything", 0, fullTree},
		{"one of everything, large disk", 1 << 30, fullTree},
		{"lost+found of the image", 0, lostAndFoundTree},
		{"owners", 0, ownersTree},
		{"modes", 0, modesTree},
		{"times", 0, func() *rootfs.Tree { return timesTree(false) }},
		{"devices", 0, devicesTree},
		{"symbolic links", 512 * mib, symlinksTree},
		{"hard links", 0, hardLinksTree},
		{"65000 names of one file", 512 * mib, manyLinksTree},
		{"odd names", 0, oddNamesTree},
		{"names with line feeds", 0, lineFeedsTree},
		{"attributes", 512 * mib, xattrsTree},
		{"ACLs", 512 * mib, aclsTree},
		{"sparse files", 512 * mib, sparseTree},
		{"runs of zeros", 0, zerosTree},
		{"many extents", 512 * mib, func() *rootfs.Tree {
			return extentsTree(1, 3, 4, 5, 339, 340, 341, 680, 681, 4*340-1, 4*340, 4*340+1, 2500)
		}},
		{"extents of three levels", 2 << 30, func() *rootfs.Tree { return extentsTree(340*340 + 1) }},
		{"large file", 1 << 30, func() *rootfs.Tree { return largeFileTree(200 * mib) }},
		{"full directories", 512 * mib, fullDirectoriesTree},
		{"3000 names", 0, func() *rootfs.Tree { return directoryTree(3000, 20) }},
		{"3000 long names", 0, func() *rootfs.Tree { return directoryTree(3000, 255) }},
		{"full indexes", 1 << 30, fullIndexesTree},
		{"100000 names", 1 << 30, func() *rootfs.Tree { return directoryTree(100_000, 12) }},
		{"a million names", 2 << 30, func() *rootfs.Tree { return directoryTree(1_000_000, 30) }},
		{"66000 directories", 1 << 30, func() *rootfs.Tree { return directoriesTree(66_000) }},
		{"64997 to 64999 directories", 2 << 30, func() *rootfs.Tree { return directoriesTree(64_997, 64_998, 64_999) }},
		{"2000 levels", 512 * mib, func() *rootfs.Tree { return deepTree(2000) }},
	}
	long := map[string]bool{"a million names": true, "64997 to 64999 directories": true, "extents of three levels": true}
	eachBuilder(t, func(t *testing.T, b subject) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				b.need(t, c.name)
				if long[c.name] {
					needPatience(t)
				}
				b.holds(t, c.tree(), max(c.size, MinExt4Size))
			})
		}
	})
}

// TestSuspectTimes: Linux has the times from 2310 to 2378, and so do the images; but e2fsck takes them for times before
// 1970 which an old kernel has written (e2fsck/pass1.c, check_inode_extra_negative_epoch).
func TestSuspectTimes(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := timesTree(true)
		w := work(t, tree, MinExt4Size)
		if _, err := b.Build(t.Context(), w, silent()); err != nil {
			t.Fatal(err)
		}
		known := regexp.MustCompile(`beyond 2310-04-04 are likely pre-1970|^Fix\? no$|^e2fsck: Pass 1: `)
		for line := range strings.SplitSeq(fmt.Sprint(fsck(t, w.OutFile)), "\n") {
			if !quiet.MatchString(line) && !known.MatchString(line) {
				t.Errorf("e2fsck finds more than times: %q", line)
			}
		}
		mustMatch(t, tree, w.OutFile)
	})
}

// TestBlocksOfFiles: what is a hole or zero takes no blocks, and everything else no more than it has to.
func TestBlocksOfFiles(t *testing.T) {
	eachBuilder(t, func(t *testing.T, b subject) {
		for name, tree := range map[string]*rootfs.Tree{
			"sparse": sparseTree(), "zeros": zerosTree(), "extents": extentsTree(4, 5, 340, 341, 1361),
			"links": symlinksTree(), "full": fullTree(),
		} {
			image := b.holds(t, tree, 512<<20)
			dir, unmount := mounted(t, image, "loop,ro")
			checkBlocks(t, name, dir, tree)
			unmount()
		}
	})
}

// checkBlocks compares the blocks of the files in the root with what they have to take.
func checkBlocks(t *testing.T, name, dir string, tree *rootfs.Tree) {
	t.Helper()
	fd, err := openAt(dir, "/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	for base, n := range tree.Root.Children {
		got, err := nodeAt(fd, base)
		if err != nil {
			t.Fatal(err)
		}
		want := leastBlocks(n)
		if len(n.Xattrs) > 0 && got.blocks == want*8+8 {
			want++ // a block of attributes
		}
		if n.Kind != rootfs.Directory && got.blocks != want*8 {
			t.Errorf("%s: %q takes %d sectors, and has to take %d", name, base, got.blocks, want*8)
		}
	}
}

// leastBlocks returns the blocks of 4096 bytes that a node has to have: those with data, and those of the extent tree.
func leastBlocks(n *rootfs.Node) int64 {
	if n.Kind == rootfs.Symlink && len(n.Target) > 59 {
		return 1
	}
	if n.Kind != rootfs.Regular {
		return 0
	}
	var blocks, runs int64
	last := int64(-2)
	buf := make([]byte, chunk)
	for _, e := range n.Extents {
		for at := e.Logical / chunk; at*chunk < e.Logical+e.Length; at++ {
			if at == last || isZeroAt(n, at*chunk, buf) {
				continue
			}
			if blocks++; at != last+1 {
				runs++
			}
			last = at
		}
	}
	for entries := runs; entries > 4; {
		entries = (entries + 339) / 340
		blocks += entries
	}
	return blocks
}

// isZeroAt says whether the chunk at an offset of a file has only zeros.
func isZeroAt(n *rootfs.Node, offset int64, buf []byte) bool {
	got, _ := n.Open().ReadAt(buf, offset)
	for _, c := range buf[:got] {
		if c != 0 {
			return false
		}
	}
	return true
}
