package imagepull

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// The judges of the contract.
const (
	byFsck   = "e2fsck"
	byKernel = "the kernel's comparison"
	byReader = "package volume"
)

// damage is something that is planted in an image, and who has to notice it.
type damage struct {
	plant   string // a command of debugfs, or "flip WHAT": one bit of a structure, of which the checksum is then wrong
	noticed []string
}

// TestJudgesCanFail: each judge of an image notices what is planted in it, whoever built the image.
func TestJudgesCanFail(t *testing.T) {
	needMount(t)
	all, compared, structure := []string{byFsck, byKernel, byReader}, []string{byKernel, byReader}, []string{byFsck, byReader}
	damages := []damage{
		{`sif /usr/bin/su uid 1`, compared}, {`sif /usr/bin/su gid 70000`, compared}, {`sif /usr/bin/su mode 0100755`, compared},
		{`sif / mtime_lo 7`, compared}, {`sif /usr/bin mtime_extra 4`, compared},
		{`ea_rm /usr/bin/ping security.capability`, compared},
		{`ea_set / trusted.root x`, compared}, {`ea_set /empty user.more x`, compared}, {`sif /dev/null block[0] 0x0105`, compared},
		{`sif /empty size 4`, compared}, {`sif / mode 040755`, compared},
		{`sif /usr/bin/ping links_count 3`, all}, {`unlink "/null again"`, all}, {`sif /indexed links_count 9`, structure},
		{`freei /empty`, []string{byFsck}}, {`freeb 1000 2000`, []string{byFsck}}, {`clri /usr/bin/su`, all},
		{`flip superblock`, structure}, {`flip group descriptor`, structure}, {`flip block bitmap`, []string{byFsck}},
		{`flip inode bitmap`, []string{byFsck}}, {`flip inode`, all}, {`flip extent block`, all}, {`flip attribute block`, all},
		{`flip directory block`, all}, {`flip index block`, structure}, {`flip journal superblock`, []string{byFsck}},
	}
	eachBuilder(t, func(t *testing.T, b subject) {
		tree := usedTree()
		put(tree, "/extents", at(extentsTree(400), "/400")).Links = 1
		put(tree, "/attributes", file("x")).Xattrs = []layer.Xattr{filling("a", 2000)}
		image := b.build(t, tree, 600<<20)
		for _, d := range damages {
			t.Run(d.plant, func(t *testing.T) {
				b.mustNotice(t, d, tree, copyOf(t, image))
			})
		}
	})
}

func (b subject) mustNotice(t *testing.T, d damage, tree *rootfs.Tree, image string) {
	what, flip := strings.CutPrefix(d.plant, "flip ")
	if flip {
		b.flip(t, what, image)
	} else {
		run(t, "debugfs", "-w", "-R", d.plant, image)
	}
	for _, judge := range d.noticed {
		if b.Name() == "mkfs" && judge != byFsck && strings.Contains(d.plant, "index") {
			continue // mke2fs makes no indexes
		}
		switch judge {
		case byFsck:
			for _, checker := range checkers() {
				if fsckBy(t, checker, image) == nil {
					t.Errorf("%s does not notice it", checker)
				}
			}
		case byKernel:
			dir, unmount, _ := mountedDamaged(t, image, "loop,ro")
			if mountDifference(dir, tree) == "" {
				t.Errorf("%s does not notice it", judge)
			}
			unmount()
		case byReader:
			if difference, err := readDifference(image, tree); difference == "" && err == nil {
				t.Errorf("%s does not notice it", judge)
			} else if err != nil && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("%s calls it %v, of kind %d", judge, err, fault.KindOf(err))
			}
		}
	}
}

// flip changes one bit of a structure of the image.
func (b subject) flip(t *testing.T, what, image string) {
	t.Helper()
	const block = 4096
	var offset int64
	switch what {
	case "superblock":
		offset = 1024 + 0x78 // the volume name
	case "group descriptor":
		offset = block + 0x0C // free blocks
	case "block bitmap", "inode bitmap":
		offset = numberIn(t, image, "stats", what+` at (\d+)`)*block + 4000
	case "inode":
		group := numberIn(t, image, `imap /usr/bin/su`, `located at block (\d+)`)
		within := numberIn(t, image, `imap /usr/bin/su`, `offset 0x([0-9a-f]+)`)
		offset = group*block + within + 0x08 // the time of access
	case "extent block":
		offset = numberIn(t, image, `dump_extents /extents`, `(?m)^ *0/ *1 .* (\d+) +\d+$`)*block + 100
	case "attribute block":
		offset = numberIn(t, image, `stat /attributes`, `File ACL: (\d+)`)*block + block - 10
	case "directory block":
		offset = numberIn(t, image, `blocks /usr`, `^(\d+)`)*block + 30
	case "index block":
		offset = numberIn(t, image, `blocks /indexed`, `^(\d+)`)*block + 50
	case "journal superblock":
		offset = numberIn(t, image, `blocks <8>`, `^(\d+)`) * block // its magic number
	}
	if offset == 0 {
		t.Fatalf("there is no %s to damage", what)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	_, err = f.ReadAt(one, offset)
	one[0] ^= 1
	_, errWrite := f.WriteAt(one, offset)
	if err := errors.Join(err, errWrite, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// numberIn returns the first number that a pattern finds in what debugfs answers.
func numberIn(t *testing.T, image, command, pattern string) int64 {
	t.Helper()
	said := run(t, "debugfs", "-R", command, image)
	found := regexp.MustCompile(pattern).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("debugfs -R %q says nothing like %s:\n%s", command, pattern, said)
	}
	base := 10
	if strings.Contains(pattern, "0x") {
		base = 16
	}
	n, err := strconv.ParseInt(found[1], base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The comparison of a mounted image notices what can differ in a tree, one thing at a time.
func TestTheComparisonNoticesDifferences(t *testing.T) {
	needMount(t)
	tree := fullTree()
	image := subjects()[0].build(t, tree, MinExt4Size)
	dir, unmount := mounted(t, image, "loop,ro")
	defer unmount()
	if d := mountDifference(dir, tree); d != "" {
		t.Fatalf("the tree itself differs:\n%s", d)
	}
	for name, change := range map[string]func(*rootfs.Tree){
		"a byte":       func(t *rootfs.Tree) { at(t, "/usr/bin/su").Source = strings.NewReader("setuie") },
		"a byte more":  func(t *rootfs.Tree) { at(t, "/usr/bin/su").Size++ },
		"a nanosecond": func(t *rootfs.Tree) { at(t, "/pipe").MTime = at(t, "/pipe").MTime.Add(1) },
		"a copy for a link": func(t *rootfs.Tree) {
			n := *at(t, "/usr/bin/ping")
			t.Root.Children["usr"].Children["bin"].Children["ping6"] = &n
		},
		"a link for a copy":    func(t *rootfs.Tree) { t.Root.Children["odd"].Children["a b"] = at(t, "/odd/#hash") },
		"a name less":          func(t *rootfs.Tree) { delete(t.Root.Children, "empty") },
		"a name more":          func(t *rootfs.Tree) { put(t, "/odd/more", file("")) },
		"an attribute's value": func(t *rootfs.Tree) { t.Root.Xattrs = []layer.Xattr{{Name: "trusted.root", Value: "\x00\xfe"}} },
		"an attribute less":    func(t *rootfs.Tree) { at(t, "/usr/bin/ping").Xattrs = nil },
		"a target":             func(t *rootfs.Tree) { at(t, "/usr/long").Target = strings.Repeat("l", 899) + "m" },
		"a device":             func(t *rootfs.Tree) { at(t, "/dev/<8>").Minor-- },
		"a kind":               func(t *rootfs.Tree) { at(t, "/dev/null").Kind = rootfs.BlockDevice },
		"the root's owner":     func(t *rootfs.Tree) { t.Root.UID++ },
	} {
		changed := fullTree()
		change(changed)
		if mountDifference(dir, changed) == "" {
			t.Errorf("the comparison does not notice %s", name)
		}
		if d, err := readDifference(image, changed); err != nil || d == "" {
			t.Errorf("package volume's comparison does not notice %s (%v)", name, err)
		}
	}
}

// The kernel's log is read: a complaint about an image is found, and one about another is not.
func TestComplaintsAreFound(t *testing.T) {
	tree := fullTree()
	image := subjects()[0].build(t, tree, MinExt4Size)
	subjects()[0].flip(t, "directory block", image)
	dir, unmount, complaints := mountedDamaged(t, image, "loop,ro")
	_, good, others := mountedDamaged(t, subjects()[0].build(t, tree, MinExt4Size), "loop,ro")
	_ = mountDifference(dir, tree)
	unmount()
	good()
	if found := complaints(); !slices.ContainsFunc(found, func(s string) bool { return strings.Contains(s, "EXT4-fs") }) {
		t.Errorf("the kernel's complaint was not found, only %q", found)
	}
	if found := others(); len(found) > 0 {
		t.Errorf("the kernel's complaint is taken to be about another image: %q", found)
	}
}

// Every inode and every block that is free can be used: the bitmaps of all groups are right, also of those that nothing has
// been in.
func TestImagesCanBeFilled(t *testing.T) {
	needMount(t)
	eachBuilder(t, func(t *testing.T, b subject) {
		image := b.build(t, fullTree(), 300<<20)
		dir, unmount := mounted(t, image, "loop")
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		made := fillInodes(t, dir, st.Ffree)
		if made < st.Ffree {
			t.Errorf("%d files could be made; %d inodes were free", made, st.Ffree)
		}
		if err := fillBlocks(dir); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("filling the image ended with %v, want %v", err, unix.ENOSPC)
		}
		unmount()
		mustBeClean(t, image)
	})
}

// fillInodes makes links to a device, for which no block is needed, in some directories, until there is no inode.
func fillInodes(t *testing.T, dir string, free uint64) (made uint64) {
	t.Helper()
	const inDirectory = 10_000
	for made < free+10 {
		sub := fmt.Sprintf("%s/many%d", dir, made)
		if err := os.Mkdir(sub, 0o755); errors.Is(err, unix.ENOSPC) {
			return made
		} else if err != nil {
			t.Fatal(err)
		}
		made++
		for i := range inDirectory {
			if err := unix.Mknod(fmt.Sprintf("%s/%d", sub, i), unix.S_IFIFO|0o600, 0); errors.Is(err, unix.ENOSPC) {
				return made
			} else if err != nil {
				t.Fatal(err)
			}
			made++
		}
	}
	return made
}

// fillBlocks writes a file until there is no block.
func fillBlocks(dir string) error {
	f, err := os.OpenFile(dir+"/pipe-filling", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil { // there is no inode, so a file that is there grows
		f, err = os.OpenFile(dir+"/empty", os.O_RDWR, 0)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for size := int64(0); ; size += 8 << 20 {
		if err := unix.Fallocate(int(f.Fd()), 0, size, 8<<20); err != nil {
			return err
		}
	}
}
