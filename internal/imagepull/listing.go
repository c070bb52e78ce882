package imagepull

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/rootfs"
)

// listed is one line of debugfs's "ls -p": a directory entry and what its inode has.
type listed struct {
	inode uint32
	mode  uint32 // with the type bits
	name  string
	size  int64 // 0 for a directory
}

// parseListed parses "/INODE/MODE/UID/GID/NAME/SIZE/", which is "/INODE/MODE/UID/GID/NAME//" for a directory (e2fsprogs
// debugfs/ls.c). No name has a slash. Room for an entry that is not in use has the inode 0 and any name, or none. The
// owners are left out: before 1.46, debugfs printed only 16 bits of them.
func parseListed(line string) (listed, error) {
	part := strings.Split(line, "/")
	if len(part) != 8 || part[0] != "" || part[7] != "" {
		return listed{}, fmt.Errorf("not a line of a listing: %q", line)
	}
	inode, errInode := strconv.ParseUint(part[1], 10, 32)
	mode, errMode := strconv.ParseUint(part[2], 8, 16)
	var size int64
	var errSize error
	if part[6] != "" {
		size, errSize = strconv.ParseInt(part[6], 10, 64)
	}
	if err := errors.Join(errInode, errMode, errSize); err != nil {
		return listed{}, fmt.Errorf("not a line of a listing: %q: %w", line, err)
	}
	if part[5] == "" && inode != 0 {
		return listed{}, fmt.Errorf("a listing with a name that is empty: %q", line)
	}
	return listed{inode: uint32(inode), mode: uint32(mode), name: part[5], size: size}, nil
}

// isEntry says whether l is an entry that a user of the directory sees, and not "." or ".." or a removed one.
func (l listed) isEntry() bool { return l.inode != 0 && l.name != "." && l.name != ".." }

// attributeName returns the name in a line of debugfs's "ea_list", and whether there is one: the first line is a
// heading.
func attributeName(line string) (string, bool) {
	line, indented := strings.CutPrefix(line, "  ")
	name, _, found := strings.Cut(line, " (")
	return name, indented && found
}

// survey is what a file system that mkfs.ext4 made has of a tree.
type survey struct {
	inodes  map[*rootfs.Node]uint32 // of every node that is there under at least one name
	apart   map[string]bool         // names of a node that stand for another inode than its own
	missing map[string]bool         // names that are not there
	foreign []string                // attributes that mkfs.ext4 took from the host's files
}

// surveyor reads the listings of a tree's directories.
type surveyor struct {
	survey
	dirs  []directory
	at    int             // directory that is being listed
	found map[string]bool // its names so far
}

// directory is one directory of a tree.
type directory struct {
	path string
	node *rootfs.Node
}

// child returns the path of a name in the directory.
func (d directory) child(name string) string {
	if d.path == "/" {
		return "/" + name
	}
	return d.path + "/" + name
}

// survey looks at the image through debugfs. Everything but special files has to be there, with the type and size that
// the tree says, and nothing else.
func (d *debugfs) survey(ctx context.Context, tree *rootfs.Tree) (*survey, error) {
	v := &surveyor{found: map[string]bool{}, survey: survey{
		inodes:  map[*rootfs.Node]uint32{tree.Root: rootInode},
		apart:   map[string]bool{},
		missing: map[string]bool{},
	}}
	s, err := d.script("survey")
	if err != nil {
		return nil, err
	}
	err = tree.Walk(func(path string, n *rootfs.Node) error {
		if i := strings.IndexByte(path, '\n'); i >= 0 {
			return unencodable(path, "a line feed")
		}
		if n.Kind == rootfs.Directory {
			v.dirs = append(v.dirs, directory{path, n})
			s.do("ls", "-p", s.quote(path))
		}
		return nil
	})
	s.do("ea_list", `"/"`)
	if err := errors.Join(err, s.finish()); err != nil {
		return nil, err
	}
	if err := d.run(ctx, s, false, v.accept); err != nil {
		return nil, err
	}
	return &v.survey, v.endTo(len(v.dirs))
}

// accept takes one line of the answers.
func (v *surveyor) accept(a answer) error {
	if err := v.endTo(min(a.number, len(v.dirs))); err != nil {
		return err
	}
	if a.number >= len(v.dirs) {
		return v.acceptAttribute(a)
	}
	l, err := parseListed(a.text)
	if err != nil {
		return a.refused()
	}
	if !l.isEntry() {
		return nil
	}
	return v.acceptEntry(l)
}

// acceptAttribute takes a line of the list of the root's attributes. A staged tree has none of its own, but the host
// may have given each file a security label, or let it inherit an ACL, and mkfs.ext4 copies those.
func (v *surveyor) acceptAttribute(a answer) error {
	name, ok := attributeName(a.text)
	switch {
	case ok && name == aclDefault:
		v.foreign = append(v.foreign, aclDefault, aclAccess)
	case ok:
		v.foreign = append(v.foreign, name)
	case !strings.HasPrefix(a.text, "Extended attributes:"):
		return a.refused()
	}
	return nil
}

// acceptEntry takes one name of the directory being listed.
func (v *surveyor) acceptEntry(l listed) error {
	dir := v.dirs[v.at]
	path := dir.child(l.name)
	node := dir.node.Children[l.name]
	if node == nil {
		if path == "/lost+found" { // mkfs.ext4 makes it
			return nil
		}
		return fmt.Errorf("%q is in the file system, but not in the image", path)
	}
	if l.mode&syscall.S_IFMT != typeBits(node.Kind) {
		return fmt.Errorf("%q has the mode %o, which is another kind of file than in the image", path, l.mode)
	}
	if node.Kind == rootfs.Regular && l.size != node.Size {
		return fmt.Errorf("%q has %d bytes, and %d in the image", path, l.size, node.Size)
	}
	v.found[l.name] = true
	if inode, ok := v.inodes[node]; !ok {
		v.inodes[node] = l.inode
	} else if inode != l.inode {
		v.apart[path] = true
	}
	return nil
}

// endTo ends the listings of all directories before number: what was not in them is missing.
func (v *surveyor) endTo(number int) error {
	for ; v.at < number; v.at++ {
		dir := v.dirs[v.at]
		if len(v.found) < len(dir.node.Children) {
			if err := v.miss(dir); err != nil {
				return err
			}
		}
		clear(v.found)
	}
	return nil
}

// miss takes the names of a directory that are missing.
func (v *surveyor) miss(dir directory) error {
	for _, name := range slices.Sorted(maps.Keys(dir.node.Children)) {
		if v.found[name] {
			continue
		}
		if !isSpecial(dir.node.Children[name].Kind) {
			return fmt.Errorf("%q is not in the file system", dir.child(name))
		}
		v.missing[dir.child(name)] = true
	}
	return nil
}

// isSpecial says whether a kind of file is one that a user may be unable to stage.
func isSpecial(k rootfs.Kind) bool {
	return k == rootfs.CharDevice || k == rootfs.BlockDevice || k == rootfs.FIFO
}
