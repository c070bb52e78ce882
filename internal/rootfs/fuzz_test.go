package rootfs

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/layer"
)

// checkInvariants fails the test if the tree breaks what the types promise.
func checkInvariants(t *testing.T, tree *Tree) {
	t.Helper()
	names := make(map[*Node]uint32)
	err := tree.Walk(func(path string, n *Node) error {
		names[n]++
		if n.Kind < Directory || n.Kind > FIFO {
			return fmt.Errorf("%q has the kind %d, which is none", path, n.Kind)
		}
		if n.Kind == Directory && names[n] > 1 {
			return fmt.Errorf("the directory %q has another name", path)
		}
		if n.Kind != Directory && n.Children != nil {
			return fmt.Errorf("%q is no directory and has children", path)
		}
		for name := range n.Children {
			if len(name) > maxName || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("%q has the child %q, which is no valid name", path, name)
			}
		}
		if n.Mode&^0o7777 != 0 {
			return fmt.Errorf("%q has the mode %o", path, n.Mode)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for n, count := range names {
		if n.Kind != Directory && n.Links != count {
			t.Errorf("a node of kind %d has %d names and counts %d", n.Kind, count, n.Links)
		}
	}
	if u := tree.Usage(); u.Inodes != int64(len(names)) {
		t.Errorf("Usage counts %d inodes, and the tree has %d", u.Inodes, len(names))
	}
}

// decode makes layers of any bytes: a line per entry, "TYPE NAME[>LINK]", and an empty line between layers. The
// mnemonic first byte keeps the corpus readable.
func decode(data string) []*layer.Layer {
	var layers []*layer.Layer
	for text := range strings.SplitSeq(data, "\n\n") {
		var members []member
		for line := range strings.SplitSeq(text, "\n") {
			if line == "" {
				continue
			}
			name, link, _ := strings.Cut(line[1:], ">")
			m := entry(name, layer.Type(strings.IndexByte(" dfhlcbp", line[0])), uint16(len(line))*0o111)
			m.Link = link
			if m.Type == layer.Regular {
				m.content = link
			}
			members = append(members, m)
		}
		layers = append(layers, layerOf(fmt.Sprint(len(layers)), members...))
	}
	return layers
}

func FuzzFlatten(f *testing.F) {
	f.Add("fa>1\nhb>a\n\nf.wh.a\nfa>2")
	f.Add("dd\nfd/x>1\nll>d\n\nfl/.wh..wh..opq\nfl/y>2\ndl")
	f.Add("hb>a\nhc>b\nfb/x>1\nfa>2\n\nf../../a>1\nl../l>/..\nfl/l/z>1\nc.wh.z")
	f.Add("lx>y\nly>x\n\nf.wh.x\nfx/z>1")
	f.Add("d.\nf/>\nf.wh.\nf.wh...\nha>a\nbq\npp\nhp2>p")
	f.Fuzz(func(t *testing.T, data string) {
		tree, err := Flatten(context.Background(), decode(data))
		if err != nil {
			return
		}
		checkInvariants(t, tree)
		err = tree.Walk(func(path string, n *Node) error {
			if n.Kind == Regular {
				if _, err := io.Copy(io.Discard, n.Open()); err != nil {
					return err
				}
			}
			if n.Kind == Symlink {
				return nil
			}
			if got, err := tree.Lookup(path); err != nil || got != n {
				return fmt.Errorf("Lookup(%q) gave another node, or the error %w", path, err)
			}
			if got, err := tree.Resolve("/.." + path); err != nil || got != path {
				return fmt.Errorf("Resolve(%q) gave %q and the error %w", path, got, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
