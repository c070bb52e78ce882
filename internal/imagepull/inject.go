package imagepull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// InjectGuestAgents writes banger's assets into the ext4 file system in imageFile, which banger need not have built: a
// file or symbolic link that is there already is renewed, a directory is left as it is. Missing parents are made
// for root with mode 0755 and the time of the asset. Nothing else in the image changes, not even the times of the
// directories that get new names.
//
// A file system that was not unmounted cleanly, an asset that would replace a file by a directory or the reverse, a
// name that debugfs cannot be given and a lack of space are found before anything is changed.
func InjectGuestAgents(
	ctx context.Context, runner *system.CommandRunner, assets []guest.Asset, imageFile string,
) error {
	if err := injectGuestAgents(ctx, runner, assets, imageFile); err != nil {
		return fmt.Errorf("adding the guest agent to %q: %w", imageFile, err)
	}
	return nil
}

func injectGuestAgents(
	ctx context.Context, runner *system.CommandRunner, assets []guest.Asset, imageFile string,
) error {
	block, err := readSuperblock(imageFile)
	if err != nil {
		return err
	}
	if err := checkInjectable(block, assets); err != nil {
		return err
	}
	d, err := newDebugfs(runner, imageFile)
	if err != nil {
		return err
	}
	defer d.close()
	i := newInjection(assets)
	if err := i.look(ctx, d); err != nil {
		return err
	}
	if err := i.judge(); err != nil {
		return err
	}
	r, err := newRestorer(d, block.blockSize)
	if err != nil {
		return err
	}
	if err := i.write(r); err != nil {
		return err
	}
	return d.run(ctx, r.script, true, acceptChange)
}

// checkInjectable refuses a file system that must not be written to, or has no room.
func checkInjectable(s superblock, assets []guest.Asset) error {
	if s.unclean {
		return fault.New(fault.Conflict, errors.New("the file system was not unmounted cleanly"),
			"shut its virtual machine down, or repair it: e2fsck -p FILE")
	}
	const spare = 16 // for directories and extents
	need := int64(spare)
	for _, a := range assets {
		need += (a.Node.Size + s.blockSize - 1) / s.blockSize
	}
	if need > s.freeBlocks {
		err := fmt.Errorf("the agent needs %d bytes, and %d are free", need*s.blockSize, s.freeBlocks*s.blockSize)
		return fault.New(fault.NoSpace, err, sizeHint)
	}
	return nil
}

// injection is what is to be added to an image, and what the image has at those places.
type injection struct {
	assets []guest.Asset // sorted by path, so that a directory comes before what is in it
	parent []string      // every directory that an asset is in, sorted
	image  map[string]*present
}

// present is what an image has at a path.
type present struct {
	mode    uint32
	stat    bool   // whether debugfs told of its inode
	block   string // number of the block with its attributes; "0" if there is none
	trouble error  // of listing it as a directory
}

func newInjection(assets []guest.Asset) *injection {
	i := &injection{assets: slices.Clone(assets), image: map[string]*present{"/": {mode: syscall.S_IFDIR}}}
	slices.SortFunc(i.assets, func(a, b guest.Asset) int { return cmp.Compare(a.Path, b.Path) })
	for _, a := range assets {
		for dir := a.Path; dir != "/"; {
			dir = path.Dir(dir)
			i.parent = append(i.parent, dir)
		}
	}
	slices.Sort(i.parent)
	i.parent = slices.Compact(i.parent)
	return i
}

// look finds out what the image has at the places of the assets.
func (i *injection) look(ctx context.Context, d *debugfs) error {
	s, err := d.script("look")
	if err != nil {
		return err
	}
	for _, dir := range i.parent {
		s.do("ls", "-p", s.quote(dir))
	}
	for _, a := range i.assets {
		s.do("stat", s.quote(a.Path))
	}
	if err := s.finish(); err != nil {
		return err
	}
	return d.run(ctx, s, false, i.accept)
}

// accept takes one line of what look asked. debugfs says of what is not there that it found no such file. Parents are
// listed before what is in them, so that a complaint about a directory that is known to be there is trouble.
func (i *injection) accept(a answer) error {
	if a.number >= len(i.parent)+len(i.assets) {
		return a.refused()
	}
	if a.number >= len(i.parent) {
		i.acceptStat(i.image[i.assets[a.number-len(i.parent)].Path], a.text)
		return nil
	}
	dir := i.parent[a.number]
	l, err := parseListed(a.text)
	if err != nil {
		if p := i.image[dir]; p != nil {
			p.trouble = a.refused()
		}
		return nil
	}
	if l.isEntry() {
		i.image[path.Join(dir, l.name)] = &present{mode: l.mode}
	}
	return nil
}

// acceptStat takes one line about the inode of an asset that may be there. Only the first line of its kind counts: what
// comes later may be the target of a symbolic link.
func (i *injection) acceptStat(p *present, line string) {
	block, ok := strings.CutPrefix(line, "File ACL: ")
	if p != nil && ok && !p.stat {
		p.stat, p.block = true, strings.TrimSpace(block)
	}
}

// judge refuses what cannot be done without harm.
func (i *injection) judge() error {
	for _, dir := range i.parent {
		p := i.image[dir]
		if p == nil {
			continue
		}
		if p.mode&syscall.S_IFMT != syscall.S_IFDIR {
			return conflict(dir, p.mode, "a directory")
		}
		if p.trouble != nil {
			return p.trouble
		}
	}
	for _, a := range i.assets {
		if p := i.image[a.Path]; p != nil {
			if err := p.judge(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge refuses to renew p as a.
func (p *present) judge(a guest.Asset) error {
	isDir := p.mode&syscall.S_IFMT == syscall.S_IFDIR
	if isDir != (a.Node.Kind == rootfs.Directory) {
		return conflict(a.Path, p.mode, "the agent's")
	}
	if isDir || p.stat && p.block == "0" {
		return nil
	}
	// debugfs's rm does not free such a block, which other files may share.
	err := fmt.Errorf("%q has extended attributes in a block of their own", a.Path)
	return fault.New(fault.Conflict, err, "remove that file inside the virtual machine")
}

func conflict(file string, mode uint32, wanted string) error {
	err := fmt.Errorf("%q has the mode %o in the image, and has to be %s", file, mode, wanted)
	return fault.New(fault.Conflict, err, "")
}

// write writes the script and the files that it copies into the image.
func (i *injection) write(r *restorer) error {
	for number, a := range i.assets {
		i.makeParents(r, a)
		if i.image[a.Path] != nil && a.Node.Kind == rootfs.Directory {
			continue
		}
		r.about(a.Path)
		r.enter(path.Dir(a.Path))
		if i.image[a.Path] != nil {
			r.do("rm", r.quote(path.Base(a.Path)))
		}
		if err := i.create(r, a, "asset"+strconv.Itoa(number)); err != nil {
			return err
		}
	}
	return r.finish()
}

// makeParents makes the directories above an asset that the image does not have.
func (i *injection) makeParents(r *restorer, a guest.Asset) {
	var missing []string
	for dir := path.Dir(a.Path); i.image[dir] == nil; dir = path.Dir(dir) {
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		r.about(dir)
		r.enter(path.Dir(dir))
		r.do("mkdir", r.quote(path.Base(dir)))
		// Without attributes, so there is no error.
		_ = r.restore(dir, r.quote(dir), &rootfs.Node{Kind: rootfs.Directory, Mode: 0o755, MTime: a.Node.MTime})
		i.image[dir] = &present{mode: syscall.S_IFDIR}
	}
}

// create makes an asset, whose place is free, in the directory that was entered. staged is the name of a file of
// ours.
func (i *injection) create(r *restorer, a guest.Asset, staged string) error {
	name := r.quote(path.Base(a.Path))
	switch a.Node.Kind {
	case rootfs.Directory:
		r.do("mkdir", name)
	case rootfs.Symlink:
		r.do("symlink", name, r.quote(a.Node.Target))
	case rootfs.Regular:
		if err := stageAsset(a.Node, filepath.Join(r.dir, staged)); err != nil {
			return fmt.Errorf("staging %q: %w", a.Path, hostSpace(err))
		}
		r.do("write", staged, name)
	default:
		return fmt.Errorf("adding %q: a node of kind %d", a.Path, a.Node.Kind)
	}
	i.image[a.Path] = &present{mode: typeBits(a.Node.Kind)}
	alone := *a.Node
	alone.Links = 1
	return r.restore(a.Path, r.quote(a.Path), &alone)
}

// stageAsset writes the content of a regular file, with its holes, to a new file of the host.
func stageAsset(n *rootfs.Node, file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = f.Truncate(n.Size)
	for _, e := range n.Extents {
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(f, e.Logical), io.NewSectionReader(n.Source, e.Offset, e.Length))
		}
	}
	return errors.Join(err, f.Close())
}
