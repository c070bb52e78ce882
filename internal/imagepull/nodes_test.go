package imagepull

import (
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/rootfs/treetest"
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

// capability is treetest.Capability as an attribute.
func capability(mask uint32) layer.Xattr {
	return layer.Xattr{Name: "security.capability", Value: treetest.Capability(mask)}
}

// Tags of an ACL's entries (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// aclEntry is an entry of an ACL. The id counts for users and groups.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// encodeACL returns an ACL in the form of the system call: version 2, then tag, permissions and id of each entry.
func encodeACL(name string, entries ...aclEntry) layer.Xattr {
	value := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return layer.Xattr{Name: name, Value: string(value)}
}

// aclOf returns an ACL for the mode 0670 that has entries of users and groups beside the usual classes.
func aclOf(name string, named ...aclEntry) layer.Xattr {
	const none = 0xffffffff
	all := append([]aclEntry{
		{aclUserObj, 6, none}, {aclGroupObj, 4, none}, {aclMask, 7, none}, {aclOther, 0, none},
	}, named...)
	slices.SortStableFunc(all, func(a, b aclEntry) int { return cmp.Compare(a.tag, b.tag) })
	return encodeACL(name, all...)
}

// acl returns an ACL that gives the user and the group id some rights.
func acl(name string, id uint32) layer.Xattr {
	return aclOf(name, aclEntry{aclUser, 7, id}, aclEntry{aclGroup, 1, id})
}

// aclWithout returns an ACL without entries of users and groups.
func aclWithout(name string) layer.Xattr {
	const none = 0xffffffff
	return encodeACL(name, aclEntry{aclUserObj, 7, none}, aclEntry{aclGroupObj, 5, none}, aclEntry{aclOther, 5, none})
}

// pieces returns a file of size bytes with data of a length at some offsets, and holes for the rest.
func pieces(size int64, length int64, offsets ...int64) *rootfs.Node {
	n := file("")
	n.Size, n.Source = size, counting{}
	for _, offset := range offsets {
		n.Extents = append(n.Extents, layer.Extent{Logical: offset, Offset: offset, Length: length})
	}
	return n
}

// counting is an endless source in which no block is zero or equal to another.
type counting struct{}

// ReadAt implements io.ReaderAt.
func (counting) ReadAt(p []byte, offset int64) (int, error) {
	for i := range p {
		at := offset + int64(i)
		p[i] = byte(at>>(at%6*8)) | 1
	}
	return len(p), nil
}

// at returns the node at a path without symbolic links, or nil.
func at(tree *rootfs.Tree, path string) *rootfs.Node {
	n := tree.Root
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if n != nil {
			n = n.Children[name]
		}
	}
	return n
}

// copied returns a tree of copies of the nodes, each changed by change. Its maps are filled from the last name to the first.
func copied(tree *rootfs.Tree, change func(*rootfs.Node)) *rootfs.Tree {
	copies := map[*rootfs.Node]*rootfs.Node{}
	var reverse func(n *rootfs.Node) *rootfs.Node
	reverse = func(n *rootfs.Node) *rootfs.Node {
		if copies[n] != nil {
			return copies[n]
		}
		alone := *n
		copies[n] = &alone
		change(&alone)
		if n.Children != nil {
			alone.Children = map[string]*rootfs.Node{}
		}
		names := slices.Sorted(maps.Keys(n.Children))
		for _, name := range slices.Backward(names) {
			alone.Children[name] = reverse(n.Children[name])
		}
		return &alone
	}
	return &rootfs.Tree{Root: reverse(tree.Root)}
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
