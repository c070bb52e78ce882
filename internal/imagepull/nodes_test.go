package imagepull

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// newTree returns a tree with only a root.
func newTree() *rootfs.Tree {
	return &rootfs.Tree{Root: &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: time.Unix(1, 0)}}
}

// put puts a node under a path of which all directories exist, and counts its names.
func put(tree *rootfs.Tree, path string, n *rootfs.Node) *rootfs.Node {
	dir := tree.Root
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, name := range parts[:len(parts)-1] {
		dir = dir.Children[name]
	}
	if dir.Children == nil {
		dir.Children = map[string]*rootfs.Node{}
	}
	dir.Children[parts[len(parts)-1]] = n
	if n.Kind != rootfs.Directory {
		n.Links++
	}
	return n
}

// file returns a regular file, owned by root.
func file(content string) *rootfs.Node {
	n := &rootfs.Node{Kind: rootfs.Regular, Mode: 0o644, MTime: time.Unix(2, 0), Size: int64(len(content))}
	if content != "" {
		n.Source = strings.NewReader(content)
		n.Extents = []layer.Extent{{Length: int64(len(content))}}
	}
	return n
}

// newDir returns a directory, owned by root.
func newDir() *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: time.Unix(3, 0)}
}

// symlink returns a symbolic link, owned by root.
func symlink(target string) *rootfs.Node {
	return &rootfs.Node{Kind: rootfs.Symlink, Mode: 0o777, MTime: time.Unix(4, 0), Target: target}
}

// special returns a device or FIFO, owned by root.
func special(k rootfs.Kind, major, minor uint32) *rootfs.Node {
	return &rootfs.Node{Kind: k, Mode: 0o600, MTime: time.Unix(5, 0), Major: major, Minor: minor}
}

// capability returns the value of security.capability for the capabilities of mask, all permitted and effective
// (struct vfs_cap_data, version 2).
func capability(mask uint32) layer.Xattr {
	value := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, word := range []uint32{mask, 0, 0, 0} {
		value = binary.LittleEndian.AppendUint32(value, word)
	}
	return layer.Xattr{Name: "security.capability", Value: string(value)}
}

// acl returns an ACL in the form of the system call: version 2, then tag, permissions and id of each entry. It gives
// the user and the group id some rights beside the usual three classes.
func acl(name string, id uint32) layer.Xattr {
	value := binary.LittleEndian.AppendUint32(nil, 2)
	entry := func(tag, perm uint16, id uint32) {
		value = binary.LittleEndian.AppendUint16(value, tag)
		value = binary.LittleEndian.AppendUint16(value, perm)
		value = binary.LittleEndian.AppendUint32(value, id)
	}
	const none = 0xffffffff
	entry(0x01, 6, none) // the owner
	entry(0x02, 7, id)   // a user
	entry(0x04, 4, none) // the group
	entry(0x08, 1, id)   // another group
	entry(0x10, 7, none) // the mask
	entry(0x20, 0, none) // all others
	return layer.Xattr{Name: name, Value: string(value)}
}

// staged puts a tree into a directory of the test, as the caller.
func staged(t *testing.T, tree *rootfs.Tree) string {
	t.Helper()
	dir := t.TempDir()
	if err := rootfs.Stage(context.Background(), tree, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// oddNames are names that a script has to quote with care.
func oddNames() []string {
	return []string{
		"a b", " lead", "trail ", "tab\there", `quo"te`, `""`, `back\slash`, `\x41`, "<12>", "-f", "--", "#hash", "!bang",
		"ünïcode", "\xff\xfeinvalid", "日本", "'", "$HOME", "*", "?", "%s%n", "\x01\x7f", "a=b", ";", "...", " ", "é" + strings.Repeat("x", 250),
		"debugfs: quit", "carriage\rreturn",
	}
}

// randomTime returns a time of ext4's range, with the ends more often than chance would have it.
func randomTime(r *rand.Rand) time.Time {
	edges := []int64{-1 << 31, -1<<31 + 1, -2, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 33, 3<<32 + 1<<31 - 1}
	ns := []int64{0, 1, 999_999_999, r.Int64N(1_000_000_000)}
	s := r.Int64N(2_000_000_000)
	if r.IntN(3) == 0 {
		s = edges[r.IntN(len(edges))]
	}
	return time.Unix(s, ns[r.IntN(len(ns))])
}

func randomOwner(r *rand.Rand) uint32 {
	edges := []uint32{0, 1, 0xffff, 0x10000, 0xfffffffe, r.Uint32N(100_000)}
	return edges[r.IntN(len(edges))]
}

// randomTree returns a tree with every kind of node, odd names and hard links.
func randomTree(r *rand.Rand) *rootfs.Tree {
	tree := newTree()
	dirs := []*rootfs.Node{tree.Root}
	var others []*rootfs.Node
	randomize(r, tree.Root)
	names := oddNames()
	for i := range 60 {
		name := names[r.IntN(len(names))]
		if r.IntN(2) == 0 {
			name = "n" + string(rune('a'+i%26)) + strings.Repeat("y", i)
		}
		parent := dirs[r.IntN(len(dirs))]
		if parent.Children[name] != nil {
			continue
		}
		n := randomNode(r)
		if len(others) > 0 && r.IntN(5) == 0 {
			n = others[r.IntN(len(others))]
		} else {
			randomize(r, n)
		}
		if strings.Contains(name, "\r") && n.Kind != rootfs.Regular { // debugfs cannot be given such a name
			continue
		}
		if n.Kind == rootfs.Directory {
			dirs = append(dirs, n)
		} else {
			others = append(others, n)
		}
		put(&rootfs.Tree{Root: parent}, name, n)
	}
	return tree
}

func randomNode(r *rand.Rand) *rootfs.Node {
	switch r.IntN(8) {
	case 0, 1:
		return newDir()
	case 2:
		return symlink(strings.Repeat("t", 1+r.IntN(200)))
	case 3:
		return special(rootfs.CharDevice, r.Uint32N(4096), r.Uint32N(1<<20))
	case 4:
		return special(rootfs.BlockDevice, r.Uint32N(256), r.Uint32N(256))
	case 5:
		return special(rootfs.FIFO, 0, 0)
	}
	n := file(strings.Repeat("content", r.IntN(3000)))
	if r.IntN(3) == 0 && n.Size > 0 { // a hole before and behind
		n.Extents[0].Logical = 10_000
		n.Size += 30_000
	}
	return n
}

// randomize gives a node random attributes.
func randomize(r *rand.Rand, n *rootfs.Node) {
	n.UID, n.GID, n.MTime = randomOwner(r), randomOwner(r), randomTime(r)
	if n.Kind != rootfs.Symlink {
		n.Mode = uint16(r.UintN(0o10000))
	}
	add := func(x layer.Xattr) { n.Xattrs = append(n.Xattrs, x) }
	value := make([]byte, r.IntN(200))
	for i := range value {
		value[i] = byte(r.UintN(256))
	}
	if r.IntN(3) == 0 {
		add(layer.Xattr{Name: "trusted.odd \"name\"", Value: string(value)})
	}
	if n.Kind == rootfs.Regular && r.IntN(3) == 0 {
		add(capability(r.Uint32()))
	}
	if (n.Kind == rootfs.Regular || n.Kind == rootfs.Directory) && r.IntN(3) == 0 {
		add(layer.Xattr{Name: "user.empty", Value: ""})
		add(layer.Xattr{Name: "user.x", Value: string(value)})
	}
	if n.Kind == rootfs.Directory && r.IntN(3) == 0 {
		add(acl(aclDefault, r.Uint32N(70_000)))
	}
	if n.Kind == rootfs.Regular && r.IntN(3) == 0 {
		add(acl(aclAccess, r.Uint32N(70_000)))
		n.Mode = n.Mode&^0o777 | 0o670 // what the ACL says, or the two would not agree
	}
	slices.SortFunc(n.Xattrs, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
}
