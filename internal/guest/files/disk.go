package files

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// owners says whose the files become that are written.
type owners uint8

const (
	asCaller owners = iota // whoever writes them
	asRoot                 // user and group 0
	asSent                 // those of the sender
)

// policy is what the receiver grants to the sender.
type policy struct {
	owners  owners
	exact   bool // keep setuid, setgid, all extended attributes, and change directories that exist
	devices bool
}

// hostPolicy is for what a guest sends. Only a user who could do anything anyway lets it make devices and programs that
// run as somebody else, and only by asking for an archive.
func hostPolicy(archive bool) policy {
	if archive && os.Geteuid() == 0 {
		return policy{asSent, true, true}
	}
	return policy{}
}

// guestPolicy is for what a host sends.
func guestPolicy(archive bool) policy {
	switch {
	case os.Geteuid() != 0:
		return policy{}
	case archive:
		return policy{asSent, true, true}
	}
	return policy{owners: asRoot, devices: true}
}

// disk is the sink that writes a tree below a place and nowhere else. Directories are opened through an os.Root; every
// other call takes a name without a slash in such a directory. A file appears under its name when it is complete. A
// directory gets its attributes when the tree goes on outside of it.
type disk struct {
	place  place
	policy policy
	where  string // for messages
	temp   string // the name of what is being made

	parent *os.Root // the directory of the top
	root   *os.Root // the top, once it is known to be a directory
	dir    *os.File // the directory opened last
	name   string   // its name below the top

	open    []*Entry // directories that still get their attributes; each is below the one before
	held    int      // bytes of their extended attributes
	current *Entry   // the file that is being written
	fd      int      // its descriptor
	size    int64    // how much of it is there

	skipped bool // whether something was left out that hard links may name
	notes   notes
	lost    map[string]bool // the kinds of loss of which there is a note
}

// newDisk opens the place. The caller closes the disk.
func newDisk(p place, grant policy, where string) (*disk, error) {
	d := &disk{
		place: p, policy: grant, where: where, lost: map[string]bool{},
		temp: fmt.Sprintf(".banger-%016x", rand.Uint64()),
	}
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return nil, bare(err)
	}
	if p.name == "" {
		d.root = root
	} else {
		d.parent = root
	}
	return d, nil
}

// close removes what is half-made and closes everything.
func (d *disk) close() {
	if d.current != nil {
		_ = unix.Close(d.fd)
		_ = unix.Unlinkat(d.base(d.current.Name).dir, d.temp, 0)
		d.current = nil
	}
	if d.dir != nil {
		_ = d.dir.Close()
	}
	for _, root := range []*os.Root{d.parent, d.root} {
		if root != nil {
			_ = root.Close()
		}
	}
}

// failed says what could not be written.
func (d *disk) failed(name string, err error) error {
	err = bare(err)
	if errors.Is(err, unix.EISDIR) {
		err = errOverDirectory
	}
	return fmt.Errorf("writing %.4096q %s: %w", path.Join(d.place.path(), name), d.where, err)
}

// lose adds a note about the first loss of a kind.
func (d *disk) lose(kind, name string, err error) {
	if d.lost[kind] || len(d.lost) >= maxNotes {
		return
	}
	d.lost[kind] = true
	d.notes.add("%.4096q %s, and perhaps others: %s: %v", path.Join(d.place.path(), name), d.where, kind, err)
}

// spot is a name in an open directory.
type spot struct {
	dir  int
	file string
}

// base returns the spot of a name in the directory opened last.
func (d *disk) base(name string) spot {
	if name == top {
		return spot{int(d.dir.Fd()), d.place.name}
	}
	return spot{int(d.dir.Fd()), path.Base(name)}
}

// enter opens the directory that name lies in.
func (d *disk) enter(name string) (spot, error) {
	switch {
	case d.root == nil && name != top:
		return spot{}, d.failed(name, errors.New("it was sent without the directory that it lies in"))
	case name == top && d.place.name != "":
		if err := d.chdir("", d.parent); err != nil {
			return spot{}, d.failed(name, err)
		}
	default:
		if err := d.chdir(path.Dir(name), d.root); err != nil {
			return spot{}, d.failed(name, err)
		}
	}
	return d.base(name), nil
}

// chdir opens a directory of root, and makes what is missing of it: a tar does not have to name directories.
func (d *disk) chdir(name string, root *os.Root) error {
	if d.dir != nil && d.name == name {
		return nil
	}
	file := name
	if name == "" {
		file = top
	}
	opened, err := openDirectory(root, file)
	if errors.Is(err, unix.ENOENT) {
		if err := root.MkdirAll(file, 0o755); err != nil {
			return err
		}
		opened, err = openDirectory(root, file)
	}
	if err != nil {
		return err
	}
	if d.dir != nil {
		_ = d.dir.Close()
	}
	d.dir, d.name = opened, name
	return nil
}

func openDirectory(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

func (d *disk) entry(e *Entry) error {
	if err := d.finish(); err != nil {
		return err
	}
	if err := d.leave(e.Name); err != nil {
		return err
	}
	at, err := d.enter(e.Name)
	if err != nil {
		return err
	}
	if err := d.make(e, at); err != nil {
		return d.failed(e.Name, err)
	}
	return nil
}

// make makes what e describes, but for the content.
func (d *disk) make(e *Entry, at spot) error {
	if e.Name == top && e.Kind != Directory && d.root != nil {
		return errOverDirectory
	}
	switch e.Kind {
	case Directory:
		return d.directory(e, at)
	case Regular:
		return d.create(e, at)
	case HardLink:
		return d.link(e, at)
	case CharDevice, BlockDevice:
		if !d.policy.devices {
			d.skipped = true
			d.lose("devices are left out", e.Name, unix.EPERM)
			return nil
		}
	}
	return d.special(e, at)
}

// directory makes a directory, which everybody but the caller finds closed until it is complete.
func (d *disk) directory(e *Entry, at spot) error {
	if e.Name == top && d.place.name == "" {
		return d.enterTop(e, false)
	}
	made := true
	err := unix.Mkdirat(at.dir, at.file, 0o700)
	if errors.Is(err, unix.EEXIST) {
		made, err = false, checkDirectory(at)
	}
	if err != nil {
		return err
	}
	if e.Name == top {
		return d.enterTop(e, made)
	}
	return d.push(e, made)
}

// enterTop makes the top directory the root of what follows.
func (d *disk) enterTop(e *Entry, made bool) error {
	if d.root == nil {
		root, err := d.parent.OpenRoot(d.place.name)
		if err != nil {
			return err
		}
		d.root = root
	}
	return d.push(e, made)
}

// checkDirectory tells whether a name that exists is a directory's, and no symlink's.
func checkDirectory(at spot) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at.dir, at.file, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if kindOf(st.Mode) != Directory {
		return errOverFile
	}
	return nil
}

// maxHeld bounds the memory that extended attributes of directories take while these are open, in bytes. It is a thousand
// times what most file systems let a file have.
const maxHeld = 64 << 20

// push remembers that a directory gets its attributes later. One that was there before keeps its own, unless the copy
// is exact.
func (d *disk) push(e *Entry, made bool) error {
	if !made && !d.policy.exact {
		return nil
	}
	e.Xattrs = d.policy.attributes(e)
	d.open, d.held = append(d.open, e), d.held+sizeOf(e.Xattrs)
	if d.held > maxHeld {
		return fmt.Errorf("it and the directories above have more than %d bytes of extended attributes", maxHeld)
	}
	return nil
}

// sizeOf returns what attributes take in memory, in bytes.
func sizeOf(list []Xattr) int {
	size := len(list) * int(unsafe.Sizeof(Xattr{}))
	for _, x := range list {
		size += len(x.Name) + len(x.Value)
	}
	return size
}

// leave gives the directories in which name does not lie their attributes.
func (d *disk) leave(name string) error {
	for len(d.open) > 0 {
		last := d.open[len(d.open)-1]
		if last.Name == top && name != top && name != "" || strings.HasPrefix(name, last.Name+"/") {
			return nil
		}
		d.open, d.held = d.open[:len(d.open)-1], d.held-sizeOf(last.Xattrs)
		if err := d.seal(last); err != nil {
			return d.failed(last.Name, err)
		}
	}
	return nil
}

// seal gives a directory its attributes.
func (d *disk) seal(e *Entry) error {
	if err := d.chdir(e.Name, d.root); err != nil {
		return err
	}
	fd := int(d.dir.Fd())
	if err := setTime(spot{fd, top}, e); err != nil {
		return err
	}
	return d.stamp(fd, e) // after which the directory may be closed even to its owner
}

// create begins a regular file under a temporary name.
func (d *disk) create(e *Entry, at spot) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err := retry(func() (err error) {
		d.fd, err = unix.Openat(at.dir, d.temp, flags, 0o600)
		return err
	})
	if err == nil {
		d.current, d.size = e, 0
	}
	return err
}

func (d *disk) data(off int64, p []byte) error {
	if d.current == nil {
		return errors.New("receiving a tree: data without a file")
	}
	for len(p) > 0 {
		n := 0
		err := retry(func() (err error) {
			n, err = unix.Pwrite(d.fd, p, off)
			return err
		})
		if err != nil {
			return d.failed(d.current.Name, err)
		}
		off, p = off+int64(n), p[n:]
	}
	d.size = off
	return nil
}

// finish completes the file that is being written and gives it its name.
func (d *disk) finish() error {
	e := d.current
	if e == nil {
		return nil
	}
	if d.size < e.Size {
		if err := retry(func() error { return unix.Ftruncate(d.fd, e.Size) }); err != nil {
			return d.failed(e.Name, err)
		}
	}
	at := d.base(e.Name)
	if err := d.stamp(d.fd, e); err != nil {
		return d.failed(e.Name, err)
	}
	if err := setTime(spot{at.dir, d.temp}, e); err != nil {
		return d.failed(e.Name, err)
	}
	d.current = nil
	if err := unix.Close(d.fd); err != nil {
		_ = unix.Unlinkat(at.dir, d.temp, 0)
		return d.failed(e.Name, err)
	}
	return d.publish(e, at)
}

// publish gives what was made its name. What had it before is replaced, if it was no directory.
func (d *disk) publish(e *Entry, at spot) error {
	if err := unix.Renameat(at.dir, d.temp, at.dir, at.file); err != nil {
		_ = unix.Unlinkat(at.dir, d.temp, 0)
		return d.failed(e.Name, err)
	}
	return nil
}

// link gives something that was sent before another name.
func (d *disk) link(e *Entry, at spot) error {
	if d.root == nil {
		return fs.ErrInvalid
	}
	from, err := openDirectory(d.root, path.Dir(e.Target))
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	err = unix.Linkat(int(from.Fd()), path.Base(e.Target), at.dir, d.temp, 0)
	if errors.Is(err, unix.ENOENT) && d.skipped {
		d.lose("names of what was left out", e.Name, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("linking it to %q: %w", e.Target, err)
	}
	err = d.publish(e, at)
	// Where both names are the file's already, renaming one to the other does nothing (rename(2)).
	_ = unix.Unlinkat(at.dir, d.temp, 0)
	return err
}

// special makes a symlink, FIFO or device.
func (d *disk) special(e *Entry, at spot) error {
	err := d.mknod(e, at)
	if err != nil {
		return err
	}
	if err := d.stampName(spot{at.dir, d.temp}, e); err != nil {
		_ = unix.Unlinkat(at.dir, d.temp, 0)
		return err
	}
	return d.publish(e, at)
}

func (d *disk) mknod(e *Entry, at spot) error {
	switch e.Kind {
	case Symlink:
		return unix.Symlinkat(e.Target, at.dir, d.temp)
	case FIFO:
		return unix.Mknodat(at.dir, d.temp, unix.S_IFIFO|0o600, 0)
	case CharDevice:
		return unix.Mknodat(at.dir, d.temp, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor)))
	}
	return unix.Mknodat(at.dir, d.temp, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor)))
}

// end completes the tree.
func (d *disk) end(notes []string) error {
	if err := d.finish(); err != nil {
		return err
	}
	if err := d.leave(""); err != nil {
		return err
	}
	d.notes.list = append(d.notes.list, notes...)
	return nil
}
