package treetest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// Random returns a tree with up to so many names, which depends on r alone: every kind of node, odd names, hard links,
// holes and runs of zeros, times and owners at their limits, extended attributes and ACLs. All of it is what ext4 can have.
func Random(r *rand.Rand, names int) *rootfs.Tree {
	g := &generator{Rand: r}
	root := g.directory()
	g.dirs = []*rootfs.Node{root}
	for range r.IntN(names + 1) {
		g.addName()
	}
	if r.IntN(20) == 0 {
		g.fillDirectory()
	}
	return &rootfs.Tree{Root: root}
}

type generator struct {
	*rand.Rand
	dirs  []*rootfs.Node
	files []*rootfs.Node // what can be linked to
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// addName adds one name to one of the directories.
func (g *generator) addName() {
	parent, name := pick(g.Rand, g.dirs...), g.name()
	if parent.Children[name] != nil || name == "lost+found" {
		return
	}
	n := g.node()
	if len(g.files) > 0 && g.IntN(6) == 0 {
		n = pick(g.Rand, g.files...)
	}
	parent.Children[name] = n
	if n.Kind == rootfs.Directory {
		g.dirs = append(g.dirs, n)
		return
	}
	if n.Links++; n.Links == 1 {
		g.files = append(g.files, n)
	}
}

// fillDirectory adds so many names to a directory that it needs an index.
func (g *generator) fillDirectory() {
	parent := pick(g.Rand, g.dirs...)
	length := 1 + g.IntN(250)
	for range 50 + g.IntN(1500) {
		name := g.text(length)
		if parent.Children[name] == nil && name != "." && name != ".." {
			parent.Children[name] = g.file(0)
			parent.Children[name].Links = 1
		}
	}
}

// name returns a name for a file: often an odd one.
func (g *generator) name() string {
	odd := []string{
		"a b", " lead", "trail ", "tab\there", "line\nfeed", "carriage\rreturn", `quo"te`, `back\slash`, "<12>", "-f", "#", "!",
		"ünïcode", "\xff\xfeinvalid", "日本", "...", " ", "\x01\x7f", strings.Repeat("x", 255), "é" + strings.Repeat("y", 253),
	}
	if g.IntN(3) == 0 {
		return pick(g.Rand, odd...)
	}
	for {
		name := g.text(1 + g.IntN(pick(g.Rand, 8, 40, 255)))
		if name != "." && name != ".." {
			return name
		}
	}
}

// text returns bytes that a name or a target may have.
func (g *generator) text(length int) string {
	b := make([]byte, length)
	for i := range b {
		for b[i] == 0 || b[i] == '/' {
			b[i] = byte(g.UintN(256))
		}
	}
	return string(b)
}

// node returns a node of any kind, without a name.
func (g *generator) node() *rootfs.Node {
	switch g.IntN(10) {
	case 0, 1:
		return g.directory()
	case 2:
		n := g.attributes(rootfs.Symlink)
		n.Mode = 0o777
		n.Target = g.text(pick(g.Rand, 1, 20, 58, 59, 60, 61, 4095, 1+g.IntN(4095)))
		return n
	case 3:
		n := g.attributes(pick(g.Rand, rootfs.CharDevice, rootfs.BlockDevice))
		n.Major, n.Minor = pick[uint32](g.Rand, 0, 1, 255, 256, 4095), pick[uint32](g.Rand, 0, 255, 256, 1<<20-1)
		return n
	case 4:
		return g.attributes(rootfs.FIFO)
	}
	return g.file(g.IntN(6))
}

func (g *generator) directory() *rootfs.Node {
	n := g.attributes(rootfs.Directory)
	n.Children = map[string]*rootfs.Node{}
	return n
}

// file returns a regular file of one of six shapes.
func (g *generator) file(shape int) *rootfs.Node {
	n := g.attributes(rootfs.Regular)
	var c contents
	switch shape {
	case 0: // nothing, or one hole
		c.size = pick[int64](g.Rand, 0, 0, 1, 5000, 1<<42)
	case 1:
		c.add(0, g.data(pick(g.Rand, 1, 4095, 4096, 4097, 3*4096, 1+g.IntN(300_000))))
	case 2: // runs of zeros
		data := g.data(1 + g.IntN(200_000))
		for at := 0; at < len(data); at += g.IntN(30_000) + 1 {
			clear(data[at:min(len(data), at+g.IntN(30_000))])
		}
		c.add(0, data)
	case 3: // holes
		for range 1 + g.IntN(10) {
			c.add(c.size+g.Int64N(50_000), g.data(1+g.IntN(20_000)))
		}
		c.size += g.Int64N(20_000)
	case 4: // many extents
		for range pick(g.Rand, 4, 5, 340, 341, 700) {
			c.add((c.size+2*4096-1)/4096*4096, g.data(1))
		}
	case 5: // far away
		c.add(pick[int64](g.Rand, 1<<32-1, 1<<32, 1<<43-4096), g.data(5000))
	}
	n.Size, n.Extents, n.Source = c.size, c.extents, bytes.NewReader(c.data)
	return n
}

func (g *generator) data(length int) []byte {
	pattern := make([]byte, 37)
	for i := range pattern {
		pattern[i] = byte(1 + g.UintN(255))
	}
	return bytes.Repeat(pattern, length/len(pattern)+1)[:length]
}

// contents is what a file is made of.
type contents struct {
	size    int64
	extents []layer.Extent
	data    []byte
}

// add puts data at an offset behind what is there.
func (c *contents) add(at int64, data []byte) {
	c.extents = append(c.extents, layer.Extent{Logical: at, Offset: int64(len(c.data)), Length: int64(len(data))})
	c.data = append(c.data, data...)
	c.size = at + int64(len(data))
}

// attributes returns a node of a kind with random attributes.
func (g *generator) attributes(kind rootfs.Kind) *rootfs.Node {
	n := &rootfs.Node{Kind: kind, Mode: uint16(g.UintN(0o10000)), UID: g.owner(), GID: g.owner(), MTime: g.time()}
	if kind == rootfs.Regular || kind == rootfs.Directory {
		g.add(n, "security.capability", Capability(g.Uint32()))
		g.add(n, "system.posix_acl_access", ACL(g.owner()))
		g.add(n, "user.empty", "")
		g.add(n, "user.x", g.text(g.IntN(300)))
	}
	if kind == rootfs.Directory {
		g.add(n, "system.posix_acl_default", ACL(g.owner()))
	}
	g.add(n, "trusted.odd \"\xff name", g.text(g.IntN(pick(g.Rand, 8, 60, 3000))))
	slices.SortFunc(n.Xattrs, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return n
}

// add adds an attribute to every fifth node.
func (g *generator) add(n *rootfs.Node, name, value string) {
	if g.IntN(5) == 0 {
		n.Xattrs = append(n.Xattrs, layer.Xattr{Name: name, Value: value})
	}
}

func (g *generator) owner() uint32 {
	return pick(g.Rand, 0, 1, 0xffff, 0x10000, 0xfffffffe, g.Uint32N(100_000))
}

// time returns a time that ext4 can have, often one at the ends of a range.
func (g *generator) time() time.Time {
	s := pick[int64](g.Rand, -1<<31, -1<<31+1, -2, -1, 0, 1, 1<<31-1, 1<<31, 1<<32-1, 1<<32, 1<<33, 3<<32+1<<31-1)
	if g.IntN(3) > 0 {
		s = g.Int64N(2_000_000_000)
	}
	return time.Unix(s, pick(g.Rand, 0, 1, 999_999_999, g.Int64N(1_000_000_000))).UTC()
}

// Capability returns the value of security.capability for the capabilities of mask, all permitted and effective
// (linux/capability.h: struct vfs_cap_data, version 2).
func Capability(mask uint32) string {
	value := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	for _, word := range [...]uint32{mask, 0, 0, 0} {
		value = binary.LittleEndian.AppendUint32(value, word)
	}
	return string(value)
}

// ACL returns an ACL in the form of the system call (linux/posix_acl_xattr.h): version 2, then tag, permissions and id of
// each entry. It gives the user and the group id some rights beside the usual three classes.
func ACL(id uint32) string {
	value := binary.LittleEndian.AppendUint32(nil, 2)
	const none = 0xffffffff
	for _, e := range [...]struct {
		tag, permissions uint16
		id               uint32
	}{
		{0x01, 6, none}, // the owner
		{0x02, 7, id},   // a user
		{0x04, 4, none}, // the group
		{0x08, 1, id},   // another group
		{0x10, 7, none}, // the mask
		{0x20, 0, none}, // all others
	} {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.permissions)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return string(value)
}
