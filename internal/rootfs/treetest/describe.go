// Package treetest has what tests of file systems need: random trees, and a description of a tree in lines that can be
// compared.
package treetest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/rootfs"
)

// Lines says for each path what is there, in one line.
type Lines map[string]string

// Describe describes every name of a tree by all that a file system keeps of it. Names of one node are told from copies
// by the first of them. Holes count as the zeros that they read as.
func Describe(tree *rootfs.Tree) (Lines, error) {
	lines := Lines{}
	first := map[*rootfs.Node]string{}
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		if _, ok := first[n]; !ok {
			first[n] = path
		}
		content, err := contentOf(n)
		lines[path] = line(n, content, first[n])
		return err
	})
	return lines, err
}

func line(n *rootfs.Node, content, first string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind %d mode %04o owner %d:%d time %d.%09d", n.Kind, n.Mode, n.UID, n.GID, n.MTime.Unix(),
		n.MTime.Nanosecond())
	switch n.Kind {
	case rootfs.Directory:
	case rootfs.Regular:
		fmt.Fprintf(&b, " size %d content %s", n.Size, content)
	case rootfs.Symlink:
		fmt.Fprintf(&b, " target %q", n.Target)
	default:
		fmt.Fprintf(&b, " device %d,%d", n.Major, n.Minor)
	}
	if n.Kind != rootfs.Directory {
		fmt.Fprintf(&b, " links %d like %q", n.Links, first)
	}
	for _, x := range n.Xattrs {
		fmt.Fprintf(&b, " [%s=%x]", x.Name, x.Value)
	}
	return b.String()
}

// contentOf returns a hash of what a regular file has in its blocks that are not zero, and where.
func contentOf(n *rootfs.Node) (string, error) {
	const unit = 4096
	if n.Kind != rootfs.Regular {
		return "", nil
	}
	hash, file := sha256.New(), n.Open()
	block, zero := make([]byte, unit), make([]byte, unit)
	for first, end := range n.Runs(unit) {
		for at := first; at < end; at++ {
			got, err := file.ReadAt(block, at*unit)
			if err != nil && err != io.EOF {
				return "", err
			}
			if clear(block[got:]); string(block) != string(zero) {
				_, _ = fmt.Fprintf(hash, "%d:", at)
				_, _ = hash.Write(block)
			}
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:6]), nil
}

// Difference returns what differs, three lines for each path, or "".
func Difference(got, want Lines) string {
	var b strings.Builder
	paths := maps.Clone(want)
	maps.Copy(paths, got)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if got[path] != want[path] {
			fmt.Fprintf(&b, "%q\n    got  %s\n    want %s\n", path, got[path], want[path])
		}
	}
	return b.String()
}
