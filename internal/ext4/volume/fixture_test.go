package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// smallSource makes a directory with one of each thing that a file system has structures for.
func smallSource(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	errs := []error{
		os.MkdirAll(in("dir/sub"), 0o755), os.Mkdir(in("many"), 0o755),
		os.WriteFile(in("one"), bytes.Repeat([]byte("1"), 3000), 0o644),
		os.WriteFile(in("two"), bytes.Repeat([]byte("2"), 3000), 0o644),
		os.WriteFile(in("tiny"), []byte("a hundred bytes, or a few less, which have room in the inode"), 0o644),
		os.Link(in("one"), in("dir/link")),
		os.Symlink("target", in("short")), os.Symlink(strings.Repeat("t", 200), in("long")),
	}
	for i := range 60 {
		errs = append(errs, os.WriteFile(in("many/"+longName(i)), nil, 0o644))
	}
	f, err := os.Create(in("extents"))
	errs = append(errs, err)
	for i := range int64(100) {
		_, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 1024), i<<11)
		errs = append(errs, err)
	}
	must(t, append(errs, f.Close())...)
	return dir
}

// smallImage makes a file system of smallSource with blocks of 1024 bytes, an index, devices and attributes.
func smallImage(t testing.TB, args string) []byte {
	t.Helper()
	const uuid = "01234567-89ab-cdef-0123-456789abcdef"
	args += " -b 1024 -N 112 -g 1024 -U " + uuid + " -E hash_seed=" + uuid
	image := makeImage(t, smallSource(t), 1<<20, strings.Fields(args)...)
	var script []string
	for i, length := range []int{5, 300, 301} {
		file := filepath.Join(t.TempDir(), "value")
		must(t, os.WriteFile(file, bytes.Repeat([]byte("x"), length), 0o600))
		script = append(script, fmt.Sprintf("ea_set -f %s one user.%d", file, i))
	}
	file := filepath.Join(t.TempDir(), "acl")
	must(t, os.WriteFile(file, []byte(acl(7, 5, 1000, 7, 0)), 0o600))
	script = append(script, "ea_set -f "+file+" one system.posix_acl_access", "mknod device c 300 5")
	if strings.Contains(args, "ea_inode") {
		file := filepath.Join(t.TempDir(), "large")
		must(t, os.WriteFile(file, bytes.Repeat([]byte("y"), 1024), 0o600))
		script = append(script, "ea_set -f "+file+" two user.large")
	}
	debugfs(t, image, script...)
	rebuildIndexes(t, image)
	data, err := os.ReadFile(image)
	must(t, err)
	return data
}

// disk is an image in memory, to be changed.
type disk struct {
	bytes []byte
	v     *Volume // of the image before it was changed
}

// openDisk opens a copy of an image.
func openDisk(t testing.TB, image []byte) *disk {
	t.Helper()
	v, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return &disk{bytes.Clone(image), v}
}

// read opens the changed image and reads all of it.
func (d *disk) read() error {
	v, err := Open(bytes.NewReader(d.bytes), int64(len(d.bytes)))
	if err != nil {
		return err
	}
	if _, err := v.Tree(); err != nil {
		return err
	}
	for n := range v.groups {
		if _, err := v.BlockBitmap(uint32(n)); err != nil {
			return err
		}
		if _, err := v.InodeBitmap(uint32(n)); err != nil {
			return err
		}
	}
	return nil
}

// inode returns the inode of a path and where it is in the image.
func (d *disk) inode(path string) (Inode, int) {
	in, err := d.v.Lookup(path)
	if err != nil {
		panic(err) // the tests name what is there
	}
	return in, int(in.offset)
}

// blocks returns where the blocks of a file are in the image, and those of its map.
func (d *disk) blocks(path string) (data, tree []int) {
	in, _ := d.inode(path)
	m, err := d.v.BlockMap(in)
	if err != nil {
		panic(err)
	}
	for _, e := range m.Extents {
		for i := range e.Length {
			data = append(data, int((e.Physical+i)<<10))
		}
	}
	for _, block := range m.Tree {
		tree = append(tree, int(block<<10))
	}
	return data, tree
}

// attrBlock returns where the block of attributes of a file is.
func (d *disk) attrBlock(path string) int {
	in, _ := d.inode(path)
	return int(in.AttrBlock << 10)
}

func (d *disk) put16(at int, value uint16) { binary.LittleEndian.PutUint16(d.bytes[at:], value) }
func (d *disk) put32(at int, value uint32) { binary.LittleEndian.PutUint32(d.bytes[at:], value) }

// entry returns where the entry of a name is in a directory.
func (d *disk) entry(dir, name string) int {
	data, _ := d.blocks(dir)
	for _, block := range data {
		for at := block; at < block+1024; at += int(binary.LittleEndian.Uint16(d.bytes[at+4:])) {
			if string(d.bytes[at+8:at+8+int(d.bytes[at+6])]) == name {
				return at
			}
		}
	}
	panic("no such entry: " + name)
}
