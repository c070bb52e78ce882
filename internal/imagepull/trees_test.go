package imagepull

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// fullTree has one of everything that can go wrong, without what mkfs cannot do.
func fullTree() *rootfs.Tree {
	tree := newTree()
	tree.Root.UID, tree.Root.GID, tree.Root.Mode = 3, 4, 0o1751
	tree.Root.MTime = time.Unix(1_600_000_000, 123456789)
	tree.Root.Xattrs = []layer.Xattr{{Name: "trusted.root", Value: "\x00\xff"}}
	put(tree, "/usr", newDir())
	put(tree, "/usr/bin", newDir())
	su := put(tree, "/usr/bin/su", file("setuid"))
	su.Mode = 0o4755
	ping := put(tree, "/usr/bin/ping", file("with a capability"))
	ping.Xattrs = []layer.Xattr{capability(1 << 13)}
	put(tree, "/usr/bin/ping6", ping)
	link := put(tree, "/usr/bin/link", symlink("su"))
	put(tree, "/usr/bin/same link", link)
	put(tree, "/usr/long", symlink(strings.Repeat("l", 900)))
	put(tree, "/dev", newDir())
	null := put(tree, "/dev/null", special(rootfs.CharDevice, 1, 3))
	null.Mode = 0o666
	put(tree, "/null again", null)
	put(tree, "/dev/<8>", special(rootfs.BlockDevice, 259, 1<<20-1))
	put(tree, "/pipe", special(rootfs.FIFO, 0, 0))
	put(tree, "/empty", file(""))
	big := put(tree, "/big owner", file("x"))
	big.UID, big.GID = 4_000_000_000, 65_536
	put(tree, "/odd", newDir())
	for _, name := range oddNames() {
		put(tree, "/odd/"+name, file(name))
		if !strings.Contains(name, "\r") {
			put(tree, "/dev/"+name, special(rootfs.CharDevice, 5, 1))
		}
	}
	return tree
}

// eachKind returns a node of every kind but the directory.
func eachKind() []*rootfs.Node {
	return []*rootfs.Node{
		file("content"), file(""), symlink("target"), symlink(strings.Repeat("long/", 50)),
		special(rootfs.CharDevice, 1, 3), special(rootfs.BlockDevice, 8, 1), special(rootfs.FIFO, 0, 0),
	}
}

// everyKind puts a directory and a node of every other kind into the tree for each value, changed by change.
func everyKind[V any](values []V, change func(*rootfs.Node, V)) *rootfs.Tree {
	tree := newTree()
	for i, v := range values {
		for j, n := range append(eachKind(), newDir()) {
			change(n, v)
			put(tree, fmt.Sprintf("/%d %d", i, j), n)
		}
	}
	return tree
}

func lostAndFoundTree() *rootfs.Tree {
	tree := newTree()
	dir := put(tree, "/lost+found", newDir())
	dir.Mode, dir.UID, dir.MTime = 0o711, 7, time.Unix(1e9, 5)
	put(tree, "/lost+found/#12", file("found"))
	put(tree, "/lost+found/dir", newDir())
	put(tree, "/lost+fount", newDir())
	return tree
}

// ownersTree has owners on both sides of 16 and 31 bits. The last that Linux has is 2^32 - 2.
func ownersTree() *rootfs.Tree {
	ids := []uint32{0, 1, 1000, 0xfffe, 0xffff, 0x10000, 0x10001, 1<<31 - 1, 1 << 31, 0xffff0000, math.MaxUint32 - 1}
	return everyKind(ids, func(n *rootfs.Node, id uint32) {
		n.UID, n.GID = id, ids[(slices.Index(ids, id)+3)%len(ids)]
	})
}

func modesTree() *rootfs.Tree {
	modes := []uint16{0, 0o1, 0o10, 0o100, 0o222, 0o444, 0o777, 0o1000, 0o2000, 0o4000, 0o4755, 0o2755, 0o6755, 0o1777, 0o7777}
	return everyKind(modes, func(n *rootfs.Node, mode uint16) {
		if n.Kind != rootfs.Symlink {
			n.Mode = mode
		}
	})
}

// timesTree has the times on both sides of every border of ext4's 34 bits, and of its ends (1901 and 2446): those that
// e2fsck takes for times before 1970, or all others.
func timesTree(suspect bool) *rootfs.Tree {
	const first, last = 2<<32 + 1<<31, 3<<32 - 1 // 2310 to 2378; see suspectTimes
	var times []time.Time
	for _, s := range []int64{
		-1 << 31, -1<<31 + 1, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1<<31, 1 << 33, first - 1, first, last,
		last + 1, 3<<32 + 1<<31 - 1, // the last second
		-1<<31 - 1, 3<<32 + 1<<31, -62135596800, 253402300799,
	} {
		for _, ns := range []int64{0, 1, 123456789, 999_999_999} {
			if suspect == (s >= first && s <= last) {
				times = append(times, time.Unix(s, ns))
			}
		}
	}
	return everyKind(times, func(n *rootfs.Node, at time.Time) { n.MTime = at })
}

// devicesTree has numbers on both sides of where the form in the inode changes, up to the last that Linux has.
func devicesTree() *rootfs.Tree {
	tree := newTree()
	for _, kind := range []rootfs.Kind{rootfs.CharDevice, rootfs.BlockDevice} {
		for _, major := range []uint32{0, 1, 255, 256, 4095} {
			for _, minor := range []uint32{0, 1, 255, 256, 65535, 65536, 1<<20 - 1} {
				put(tree, fmt.Sprintf("/%d-%d-%d", kind, major, minor), special(kind, major, minor))
			}
		}
	}
	return tree
}

func symlinksTree() *rootfs.Tree {
	tree := newTree()
	for _, length := range []int{1, 2, 58, 59, 60, 61, 255, 1023, 1024, 4094, 4095} {
		put(tree, fmt.Sprintf("/%d", length), symlink(strings.Repeat("t", length)))
	}
	put(tree, "/odd", symlink("\xff\"quoted\"\ttarget\r/<12>"))
	return tree
}

func hardLinksTree() *rootfs.Tree {
	tree := newTree()
	put(tree, "/a", newDir())
	put(tree, "/z", newDir())
	put(tree, "/z/z", newDir())
	for i, n := range eachKind() {
		for _, path := range []string{"/a/%d", "/z/%d", "/z/z/%d", "/m%d", "/z/z/again%d"} {
			put(tree, fmt.Sprintf(path, i), n)
		}
	}
	twins := []*rootfs.Node{file("same content"), file("same content")} // which must stay two files
	put(tree, "/a/twin", twins[0])
	put(tree, "/z/twin", twins[1])
	return tree
}

// manyLinksTree has as many names of one file as ext4 allows (EXT4_LINK_MAX).
func manyLinksTree() *rootfs.Tree {
	tree := newTree()
	shared := file("shared")
	for i := range maxLinks {
		if i%1000 == 0 {
			put(tree, fmt.Sprintf("/%d", i/1000), newDir())
		}
		put(tree, fmt.Sprintf("/%d/%d", i/1000, i), shared)
	}
	return tree
}

// oddNamesTree has every byte that a script can carry, and names of every length.
func oddNamesTree() *rootfs.Tree {
	tree := newTree()
	for c := range 256 {
		if c != 0 && c != '/' && c != '\n' && c != '\r' && c != '.' {
			put(tree, "/"+string([]byte{byte(c)}), newDir())
			put(tree, "/"+string([]byte{byte(c)})+"/"+string([]byte{'x', byte(c), 'y'}), file(""))
		}
	}
	put(tree, "/lengths", newDir())
	for length := 1; length <= 255; length++ {
		put(tree, "/lengths/"+strings.Repeat("n", length), file(""))
	}
	for _, name := range []string{"...", "..a", ".a", "-", "~"} {
		put(tree, "/lengths/"+name, file(name))
	}
	return tree
}

func lineFeedsTree() *rootfs.Tree {
	tree := newTree()
	put(tree, "/\n", newDir())
	put(tree, "/\n/\r\n", newDir())
	put(tree, "/\r", newDir())
	for i, n := range eachKind() {
		put(tree, fmt.Sprintf("/\n/\r\n/a\nb%d", i), n)
		put(tree, fmt.Sprintf("/\r/a\rb%d", i), n)
	}
	put(tree, "/link", symlink("a\nb"))
	return tree
}

// In an inode of 256 bytes, attributes share 88 bytes, and in a block of 4096 bytes 4060; each takes 16 bytes, and name
// and value padded to 4 (fs/ext4/xattr.h).
const (
	xattrsOfInode = 88
	xattrsOfBlock = 4060
)

// filling returns a user attribute that takes so many bytes of the room.
func filling(name string, size int) layer.Xattr {
	value := size - 16 - (len(name)+3)&^3
	return layer.Xattr{Name: "user." + name, Value: strings.Repeat("v", value)}
}

func xattrsTree() *rootfs.Tree {
	tree := newTree()
	with := func(name string, xattrs ...layer.Xattr) {
		slices.SortFunc(xattrs, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
		f, dir := file(name), newDir()
		f.Xattrs, dir.Xattrs = xattrs, xattrs
		put(tree, "/"+name, f)
		put(tree, "/"+name+" of a directory", dir)
	}
	const inode = xattrsOfInode
	for _, size := range []int{20, 21, 22, 23, 24, inode - 4, inode - 1, inode, inode + 1, inode + 4} {
		with(fmt.Sprintf("one of %d", size), filling("a", size))
	}
	for _, size := range []int{1000, xattrsOfBlock - 4, xattrsOfBlock - 1, xattrsOfBlock} {
		with(fmt.Sprintf("one of %d", size), filling("a", size))
		with(fmt.Sprintf("one of %d and a full inode", size), filling("a", size), filling("b", xattrsOfInode))
	}
	with("an empty value", layer.Xattr{Name: "user.x", Value: ""})
	with("zeros", layer.Xattr{Name: "user.x", Value: strings.Repeat("\x00", 60)})
	with("a name of 255 bytes", layer.Xattr{Name: "user." + strings.Repeat("n", 250), Value: "v"})
	with("an odd name", layer.Xattr{Name: "user.\xff \"=\t", Value: "v"})
	// On the disk they are ordered by namespace, length and bytes, which is none of these.
	with("an order of its own", layer.Xattr{Name: "user.b", Value: "1"}, layer.Xattr{Name: "user.aaa", Value: "2"},
		layer.Xattr{Name: "trusted.z", Value: "3"}, layer.Xattr{Name: "security.a", Value: "4"})
	var many []layer.Xattr
	for i := range 120 {
		space := []string{"user", "trusted", "security"}[i%3]
		name := fmt.Sprintf("%s.%s%d", space, strings.Repeat("n", i%7), i)
		many = append(many, layer.Xattr{Name: name, Value: fmt.Sprint(i)})
	}
	with("120 attributes", many...)
	putOtherXattrs(tree)
	return tree
}

// putOtherXattrs puts nodes into the tree of which the kind, or the attribute, is special.
func putOtherXattrs(tree *rootfs.Tree) {
	for kind, n := range map[string]*rootfs.Node{
		"symlink": symlink("x"), "long symlink": symlink(strings.Repeat("x", 100)),
		"device": special(rootfs.CharDevice, 1, 3), "fifo": special(rootfs.FIFO, 0, 0),
	} {
		n.Xattrs = []layer.Xattr{{Name: "security.x", Value: "s"}, {Name: "trusted.large", Value: strings.Repeat("l", 2000)}}
		put(tree, "/"+kind, n)
	}
	for i := range 3 { // equal blocks, which ext4 may share
		f := put(tree, fmt.Sprintf("/equal%d", i), file(""))
		f.Xattrs = []layer.Xattr{{Name: "user.large", Value: strings.Repeat("e", 3000)}}
	}
	capable := put(tree, "/capable", file("v2"))
	capable.Xattrs = []layer.Xattr{capability(0xffffffff)}
	inNamespace := put(tree, "/capable in a namespace", file("v3")) // struct vfs_ns_cap_data, version 3
	value := "\x01\x00\x00\x03" + capability(1 << 13).Value[4:] + "\xe8\x03\x00\x00"
	inNamespace.Xattrs = []layer.Xattr{{Name: "security.capability", Value: value}}
}

// aclsTree has ACLs of every length, on files and, as defaults, on directories. The mode of a file with an ACL says the
// same as the ACL, or they would not agree.
func aclsTree() *rootfs.Tree {
	tree := newTree()
	for i, id := range []uint32{1, 65535, 65536, math.MaxUint32 - 1} {
		f := put(tree, fmt.Sprintf("/file%d", i), file("x"))
		f.Mode, f.Xattrs = 0o670, []layer.Xattr{acl(aclAccess, id)}
		dir := put(tree, fmt.Sprintf("/dir%d", i), newDir())
		dir.Mode, dir.Xattrs = 0o2670, []layer.Xattr{acl(aclAccess, id), acl(aclDefault, id+1-uint32(i/3)*2)}
		device := put(tree, fmt.Sprintf("/dev%d", i), special(rootfs.CharDevice, 1, 3))
		device.Mode, device.Xattrs = 0o670, []layer.Xattr{acl(aclAccess, id)}
	}
	for _, count := range []int{2, 5, 10, 100, 400} { // of users: in the inode, and in the block
		var entries []aclEntry
		for id := range count {
			entries = append(entries, aclEntry{aclUser, 5, uint32(1000 + id)})
		}
		f := put(tree, fmt.Sprintf("/%d users", count), file("x"))
		f.Mode, f.Xattrs = 0o670, []layer.Xattr{aclOf(aclAccess, entries...)}
	}
	minimal := put(tree, "/minimal default", newDir())
	minimal.Xattrs = []layer.Xattr{aclWithout(aclDefault)}
	return tree
}

// sparseTree has holes at every place, and data at both ends of files beyond 4 GiB and 1 TiB.
func sparseTree() *rootfs.Tree {
	const gib = 1 << 30
	tree := newTree()
	for name, c := range map[string]struct {
		size   int64
		pieces []int64 // offsets of some bytes of data
	}{
		"hole":                              {1 << 20, nil},
		"hole of a byte":                    {1, nil},
		"hole of a block":                   {4096, nil},
		"hole of a block and a byte":        {4097, nil},
		"hole first":                        {1 << 20, []int64{1<<20 - 100}},
		"hole last":                         {1 << 20, []int64{0}},
		"hole between":                      {1 << 20, []int64{0, 500_000}},
		"across a block":                    {3 * 4096, []int64{4090}},
		"end of a block":                    {4096, []int64{4096 - 10}},
		"beyond 4 GiB":                      {5 * gib, []int64{0, 4*gib - 5, 5*gib - 10}},
		"beyond 1 TiB":                      {1025 * gib, []int64{0, 1024 * gib, 1025*gib - 10}},
		"only the end":                      {4*gib + 1, []int64{4*gib - 9}},
		"the last block that extents reach": {1<<44 - 8192, []int64{0, 1<<44 - 8202}},
	} {
		put(tree, "/"+name, pieces(c.size, 10, c.pieces...))
	}
	return tree
}

// zerosTree has data that is zero, which needs no blocks.
func zerosTree() *rootfs.Tree {
	tree := newTree()
	zeros := func(n int) string { return strings.Repeat("\x00", n) }
	for name, content := range map[string]string{
		"a byte": zeros(1), "a block": zeros(4096), "a block and a byte": zeros(4097), "a mebibyte": zeros(1 << 20),
		"behind data": "x" + zeros(1<<20), "before data": zeros(1<<20) + "x", "between": "x" + zeros(1<<20) + "x",
		"misaligned":  zeros(4095) + "x" + zeros(8192) + "y",
		"alternating": strings.Repeat(zeros(8192)+strings.Repeat("d", 8192), 20),
	} {
		put(tree, "/"+name, file(content))
	}
	return tree
}

// extentsTree has files of so many pieces. Four extents are in the inode, and 340 in a block (fs/ext4/ext4_extents.h).
func extentsTree(counts ...int) *rootfs.Tree {
	tree := newTree()
	for _, count := range counts {
		var offsets []int64
		for i := range count {
			offsets = append(offsets, int64(i)*8192)
		}
		put(tree, fmt.Sprintf("/%d", count), pieces(int64(count)*8192, 4096, offsets...))
	}
	return tree
}

// largeFileTree has one file of size bytes without a hole, which crosses groups, and extents longer than 32768 blocks.
func largeFileTree(size int64) *rootfs.Tree {
	tree := newTree()
	put(tree, "/before", file("x"))
	large := put(tree, "/large", file(""))
	large.Size, large.Source = size, counting{}
	large.Extents = []layer.Extent{{Length: size}}
	put(tree, "/zz", file("behind"))
	return tree
}

// fullDirectoriesTree has directories of which the blocks are full to the byte, a name less, and a name more. A block of
// 4096 bytes has room for 4084 bytes of entries, 24 of which are "." and ".." in the first.
func fullDirectoriesTree() *rootfs.Tree {
	const first, usable = 4084 - 24, 4084
	tree := newTree()
	for _, length := range []int{4, 5, 12, 13, 100, 252, 255} {
		entry := (8 + length + 3) &^ 3
		for blocks := range 4 {
			full := (first + blocks*usable) / entry
			for _, count := range []int{full - 1, full, full + 1} {
				path := fmt.Sprintf("/%d-%d", length, count)
				put(tree, path, newDir())
				fill(tree, path, count, length)
			}
		}
	}
	return tree
}

// fullIndexesTree has directories with an index of which the root, or a block below it, is full, and has an entry less or
// more. There are 15 names of 255 bytes in a block, 507 blocks below a root and 510 below another block (fs/ext4/namei.c,
// dx_root_limit and dx_node_limit, with checksums).
func fullIndexesTree() *rootfs.Tree {
	const inBlock, inRoot, inNode = 15, 507, 510
	tree := newTree()
	for _, full := range []int{inBlock * inRoot, inBlock * inNode, inBlock * 2 * inNode} {
		for _, count := range []int{full - 1, full, full + 1} {
			path := fmt.Sprintf("/%d", count)
			put(tree, path, newDir())
			fill(tree, path, count, 255)
		}
	}
	return tree
}

// fill puts so many names of the same length, four bytes or more, into a directory. They are of some empty files, because a
// file has 65000 names at most.
func fill(tree *rootfs.Tree, path string, count, length int) {
	dir := at(tree, path)
	dir.Children = make(map[string]*rootfs.Node, count)
	var shared *rootfs.Node
	for i := range count {
		if i%60_000 == 0 {
			shared = file("")
		}
		shared.Links++
		dir.Children[nthName(i, length)] = shared
	}
}

// nthName returns a name that no other number has: its last four bytes are the number's digits.
func nthName(i, length int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	name := []byte(strings.Repeat("n", length))
	for at := length - 1; at >= length-4; at-- {
		name[at] = digits[i%len(digits)]
		i /= len(digits)
	}
	return string(name)
}

func directoryTree(count, length int) *rootfs.Tree {
	tree := newTree()
	put(tree, "/dir", newDir())
	fill(tree, "/dir", count, length)
	return tree
}

// directoriesTree has directories with so many subdirectories. ext4 counts up to 65000 links (dir_nlink).
func directoriesTree(counts ...int) *rootfs.Tree {
	tree := newTree()
	for _, count := range counts {
		path := fmt.Sprintf("/%d", count)
		dir := put(tree, path, newDir())
		dir.Children = make(map[string]*rootfs.Node, count)
		for i := range count {
			dir.Children[fmt.Sprint(i)] = newDir()
		}
	}
	return tree
}

func deepTree(levels int) *rootfs.Tree {
	tree := newTree()
	dir := tree.Root
	for i := range levels {
		next := newDir()
		dir.Children = map[string]*rootfs.Node{fmt.Sprintf("%03d", i%1000): next}
		dir = next
	}
	dir.Children = map[string]*rootfs.Node{"bottom": file("deep")}
	dir.Children["bottom"].Links = 1
	return tree
}
