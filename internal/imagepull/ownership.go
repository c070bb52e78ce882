package imagepull

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/ext4"
	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

const (
	rootInode = 2     // EXT4_ROOT_INO
	maxLinks  = 65000 // EXT4_LINK_MAX
)

// The attributes that hold POSIX ACLs (acl(5)).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// ApplyOwnership gives every inode of imageFile, which BuildExt4 made from the staged tree, what the tree says: owner,
// group, mode, time of modification and extended attributes. It also makes the special files and the hard links that
// could not be staged. Owners do not depend on who runs banger.
//
// One script of debugfs reads which inode each name has, and a second one changes them. A name that a script cannot
// have is a fault.Unsupported before anything is changed. After any other error the image is not to be used.
//
// Times outside ext4's range (1901 to 2446) become its nearest end, as they do when Linux sets them. Attributes of
// namespaces that Linux does not have are left out, as container engines do.
func ApplyOwnership(ctx context.Context, runner *system.CommandRunner, tree *rootfs.Tree, imageFile string) error {
	if err := applyOwnership(ctx, runner, tree, imageFile); err != nil {
		return fmt.Errorf("restoring the owners in %q: %w", imageFile, err)
	}
	return nil
}

func applyOwnership(ctx context.Context, runner *system.CommandRunner, tree *rootfs.Tree, imageFile string) error {
	block, err := readSuperblock(imageFile)
	if err != nil {
		return err
	}
	d, err := newDebugfs(runner, imageFile)
	if err != nil {
		return err
	}
	defer d.close()
	there, err := d.survey(ctx, tree)
	if err != nil {
		return err
	}
	r, err := newRestorer(d, block.blockSize)
	if err != nil {
		return err
	}
	r.survey = there
	if err := r.write(tree); err != nil {
		return err
	}
	return d.run(ctx, r.script, true, acceptChange)
}

// acceptChange accepts what a command that changes the image prints when all is well.
func acceptChange(a answer) error {
	if strings.HasPrefix(a.text, "Allocated inode: ") {
		return nil
	}
	return a.refused()
}

// restorer writes the script that gives inodes their attributes.
type restorer struct {
	*script
	*survey
	dir       string // of the script and the values
	blockSize int64
	values    map[string]string // value of an attribute to the name of the file that has it
}

func newRestorer(d *debugfs, blockSize int64) (*restorer, error) {
	s, err := d.script("restore")
	if err != nil {
		return nil, err
	}
	return &restorer{
		script: s, survey: &survey{}, dir: d.dir, blockSize: blockSize, values: map[string]string{},
	}, nil
}

// write writes the script for a whole tree: first all names, then all attributes, because a new name could change the
// time of its directory.
func (r *restorer) write(tree *rootfs.Tree) error {
	made := map[*rootfs.Node]string{}
	err := tree.Walk(func(path string, n *rootfs.Node) error {
		return r.place(path, n, made)
	})
	if err != nil {
		return err
	}
	done := map[*rootfs.Node]bool{}
	err = tree.Walk(func(path string, n *rootfs.Node) error {
		if done[n] {
			return nil
		}
		if n.Kind != rootfs.Directory && n.Links > 1 {
			done[n] = true
		}
		return r.restore(path, r.inode(n, made), n)
	})
	if err != nil {
		return err
	}
	return r.finish()
}

// inode returns how a command refers to the inode of n: by its number, which spares debugfs from searching
// directories, or, if the script makes it, by its name.
func (r *restorer) inode(n *rootfs.Node, made map[*rootfs.Node]string) string {
	if inode, ok := r.inodes[n]; ok {
		return "<" + strconv.FormatUint(uint64(inode), 10) + ">"
	}
	return made[n]
}

// place makes the name file stand for the inode of n, if it does not.
func (r *restorer) place(file string, n *rootfs.Node, made map[*rootfs.Node]string) error {
	if n.Links > maxLinks {
		err := fmt.Errorf("%q has %d hard links, and ext4 has at most %d", file, n.Links, maxLinks)
		return fault.New(fault.Unsupported, err, "")
	}
	if !r.missing[file] && !r.apart[file] {
		return nil
	}
	r.about(file)
	r.enter(path.Dir(file))
	inode := r.inode(n, made)
	if inode != "" {
		r.link(inode, file)
		return nil
	}
	r.do("mknod", r.quote(path.Base(file)), mknodArguments(n.Kind))
	made[n] = r.quote(file)
	return nil
}

// link makes file another name for an inode. debugfs's ln cannot make a directory longer, so that a file made by mknod
// takes the room first. Neither ln nor rm of a name counts the links of the inode; restore does.
func (r *restorer) link(inode, file string) {
	name := r.quote(path.Base(file))
	if r.missing[file] {
		r.do("mknod", name, "p")
	}
	r.do("rm", name)
	r.do("ln", inode, name)
}

func mknodArguments(k rootfs.Kind) string {
	switch k {
	case rootfs.CharDevice:
		return "c 0 0"
	case rootfs.BlockDevice:
		return "b 0 0"
	}
	return "p"
}

// restore gives an inode its attributes. ref is how commands refer to it.
func (r *restorer) restore(path, ref string, n *rootfs.Node) error {
	r.about(path)
	if len(r.foreign) > 0 {
		r.do("ea_rm", ref, strings.Join(r.foreign, " "))
	}
	r.set(ref, "mode", "0"+strconv.FormatUint(uint64(typeBits(n.Kind)|uint32(n.Mode)), 8))
	r.set(ref, "uid", decimal(n.UID))
	r.set(ref, "gid", decimal(n.GID))
	// Both halves as numbers: debugfs takes no time of one second before 1970 (string_to_time returns -1 for errors).
	seconds, extra := ext4.EncodeTime(n.MTime)
	r.set(ref, "mtime_lo", decimal(seconds))
	r.set(ref, "mtime_extra", decimal(extra))
	if n.Kind != rootfs.Directory && n.Links > 1 {
		r.set(ref, "links_count", decimal(n.Links))
	}
	if n.Kind == rootfs.CharDevice || n.Kind == rootfs.BlockDevice {
		old, wide := ext4.EncodeDevice(n.Major, n.Minor)
		r.set(ref, "block[0]", decimal(old))
		r.set(ref, "block[1]", decimal(wide))
	}
	for _, x := range n.Xattrs {
		if err := r.setXattr(path, ref, x); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) set(ref, field, value string) { r.do("sif", ref, field, value) }

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// setXattr sets one extended attribute. debugfs converts ACLs from the form of the system call to ext4's own, unless
// told not to.
func (r *restorer) setXattr(path, ref string, x layer.Xattr) error {
	if !isLinuxXattr(x.Name) {
		return nil
	}
	if int64(len(x.Value)) > r.blockSize { // debugfs would cut it off there
		err := fmt.Errorf("%q: the attribute %q has %d bytes, and there is room for fewer than %d",
			path, x.Name, len(x.Value), r.blockSize)
		return fault.New(fault.Unsupported, err, r.xattrHint())
	}
	file, err := r.valueFile(x.Value)
	if err != nil {
		return err
	}
	r.do("ea_set", "-f", file, ref, r.quote(x.Name))
	return nil
}

func (r *restorer) xattrHint() string {
	const usual = 4096
	if r.blockSize < usual {
		return "a disk of 512MiB or more has larger blocks, with more room for attributes"
	}
	return ""
}

// valueFile returns the name of a file that has value. Values are the same for many files, as labels are.
func (r *restorer) valueFile(value string) (string, error) {
	if name, ok := r.values[value]; ok {
		return name, nil
	}
	name := "value" + strconv.Itoa(len(r.values))
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(value), 0o600); err != nil {
		return "", hostSpace(err)
	}
	r.values[value] = name
	return name, nil
}

// isLinuxXattr says whether Linux can have an attribute of this name on ext4 (fs/ext4/xattr.c: ext4_xattr_handlers).
func isLinuxXattr(name string) bool {
	if name == aclAccess || name == aclDefault {
		return true
	}
	return slices.ContainsFunc([]string{"user.", "trusted.", "security."}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix) && len(name) > len(prefix)
	})
}

// typeBits returns the bits of an inode's mode that say its type; 0 for an invalid kind.
func typeBits(k rootfs.Kind) uint32 {
	switch k {
	case rootfs.Directory:
		return syscall.S_IFDIR
	case rootfs.Regular:
		return syscall.S_IFREG
	case rootfs.Symlink:
		return syscall.S_IFLNK
	case rootfs.CharDevice:
		return syscall.S_IFCHR
	case rootfs.BlockDevice:
		return syscall.S_IFBLK
	case rootfs.FIFO:
		return syscall.S_IFIFO
	}
	return 0
}
