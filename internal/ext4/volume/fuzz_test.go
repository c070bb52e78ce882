package volume

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

var update = flag.Bool("update", false, "write the images that the fuzzing starts from")

// fuzzImages are what the fuzzing changes. They are kept in testdata, so that an input means the same everywhere.
var fuzzImages = []struct{ name, args string }{
	{"ext4", "-t ext4 -O ^metadata_csum,^has_journal"},
	{"ext2", "-t ext2"},
	{"checksums", "-t ext4 -O ^has_journal"},
	{"inline", "-t ext4 -O ^metadata_csum,^has_journal,inline_data,ea_inode"},
	{"small", "-t ext4 -I 128 -O ^metadata_csum,^has_journal,^64bit,uninit_bg,meta_bg,^resize_inode"},
}

func fuzzImageFile(name string) string { return filepath.Join("testdata", name+".img.gz") }

// TestFuzzImages: what the fuzzing starts from can be read.
func TestFuzzImages(t *testing.T) {
	for _, i := range fuzzImages {
		if *update {
			writeFuzzImage(t, i.name, smallImage(t, i.args))
		}
		d := openDisk(t, readFuzzImage(t, i.name))
		if err := d.read(); err != nil {
			t.Errorf("%s: %v", i.name, err)
		}
	}
}

func writeFuzzImage(t *testing.T, name string, image []byte) {
	t.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	must(t, err)
	_, err = w.Write(image)
	must(t, err, w.Close(), os.MkdirAll("testdata", 0o755), os.WriteFile(fuzzImageFile(name), packed.Bytes(), 0o644))
}

func readFuzzImage(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(fuzzImageFile(name))
	must(t, err)
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	must(t, err)
	image, err := io.ReadAll(unpacked)
	must(t, err)
	return image
}

// fuzzBase is an image, and where its metadata is: a change of a file's content would find nothing.
type fuzzBase struct {
	image  []byte
	places []int // offsets of blocks of 1024 bytes
}

func newFuzzBase(t testing.TB, name string) fuzzBase {
	t.Helper()
	b := fuzzBase{image: readFuzzImage(t, name)}
	content := map[int64]bool{}
	tree := readTree(t, openDisk(t, b.image).v)
	must(t, tree.Walk(func(_ string, n *rootfs.Node) error {
		for _, x := range n.Extents {
			for at := x.Offset; at < x.Offset+x.Length; at++ {
				content[at>>10] = n.Size > 1024
			}
		}
		return nil
	}))
	for at := 0; at < len(b.image); at += 1024 {
		if !content[int64(at>>10)] && !isZero(b.image[at:at+1024]) {
			b.places = append(b.places, at)
		}
	}
	return b
}

// change applies an input to an image: records of two bytes that say where in the metadata, one how many bytes to
// write, and four to write.
func (b *fuzzBase) change(input []byte) []byte {
	image := bytes.Clone(b.image)
	for ; len(input) >= 7; input = input[7:] {
		at := int(binary.LittleEndian.Uint16(input)) % (len(b.places) << 10)
		at = b.places[at>>10] + at&1023
		copy(image[at:], input[3:4+input[2]&3])
	}
	return image
}

// record makes a part of an input.
func record(place, offset int, value ...byte) []byte {
	out := binary.LittleEndian.AppendUint16(nil, uint16(place<<10+offset))
	out = append(out, byte(len(value)-1))
	return append(append(out, value...), 0, 0, 0)[:7]
}

// FuzzOpen: a changed image gives an error that is a fault, or a tree that can be used, soon and in little memory.
func FuzzOpen(f *testing.F) {
	var bases []fuzzBase
	for _, i := range fuzzImages {
		bases = append(bases, newFuzzBase(f, i.name))
	}
	for base := range bases {
		f.Add(uint8(base), []byte{})
		for place := range bases[base].places {
			f.Add(uint8(base), record(place, 4, 0, 0))
			f.Add(uint8(base), record(place, 40, 255, 255, 255, 255))
		}
	}
	f.Fuzz(func(t *testing.T, base uint8, input []byte) {
		image := bases[int(base)%len(bases)].change(input)
		var before, after runtime.MemStats
		start := time.Now()
		runtime.ReadMemStats(&before)
		useImage(t, image)
		runtime.ReadMemStats(&after)
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("reading an image of 1 MiB took %v", took)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("reading an image of 1 MiB allocated %d bytes", used)
		}
	})
}

// useImage reads all of an image in every way.
func useImage(t *testing.T, image []byte) {
	v, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		mustBeFault(t, err)
		return
	}
	for number := range uint32(min(v.super.Inodes, 1000)) {
		useInode(v, number+1)
	}
	for n := range v.groups {
		_, _ = v.BlockBitmap(uint32(n))
		_, _ = v.InodeBitmap(uint32(n))
	}
	useWalk(t, v)
	tree, err := v.Tree()
	if err != nil {
		mustBeFault(t, err)
		return
	}
	if err := walkAll(v); err != nil {
		t.Errorf("the tree can be read, and not be walked: %v", err)
	}
	if err := useTree(v, tree); err != nil {
		t.Errorf("the tree cannot be used: %v", err)
	}
}

// useWalk walks through an image as far as it can be, looks up what it finds by its path, and reads the content.
func useWalk(t *testing.T, v *Volume) {
	for _, path := range []string{"/", "/short", "/dir/link/", "/many/" + longName(1)} {
		if _, err := v.Resolve(context.Background(), path, true); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) &&
			!errors.Is(err, syscall.ELOOP) {
			mustBeFault(t, err)
		}
	}
	root, err := v.Resolve(context.Background(), "/", true)
	if err != nil {
		return
	}
	for place, err := range v.Walk(root, -1) {
		if err != nil {
			mustBeFault(t, err)
			return
		}
		n, err := v.Node(place.Inode)
		if err != nil {
			mustBeFault(t, err)
			continue
		}
		_, _ = n.Open().ReadAt(make([]byte, 64), max(0, n.Size-64))
		if found, err := v.Resolve(context.Background(), place.Path, false); err == nil && found.Inode.Number != place.Inode.Number {
			t.Errorf("%q is inode %d for a walk, and %d for a lookup", place.Path, place.Inode.Number, found.Inode.Number)
		}
	}
}

// useInode reads what there may be to an inode. What is wrong with it does not matter.
func useInode(v *Volume, number uint32) {
	in, err := v.Inode(number)
	if err != nil {
		return
	}
	_, _ = v.BlockMap(in)
	_, _ = v.Xattrs(in)
	_, _ = v.LookupHashed(number, longName(1))
}

func mustBeFault(t *testing.T, err error) {
	t.Helper()
	switch fault.KindOf(err) {
	case fault.Corrupt, fault.Unsupported, fault.Conflict:
	default:
		t.Errorf("the error is no fault: %v", err)
	}
}

// useTree reads all written bytes of a tree, and looks its names up.
func useTree(v *Volume, tree *rootfs.Tree) error {
	return tree.Walk(func(path string, n *rootfs.Node) error {
		next := int64(0)
		for _, x := range n.Extents {
			if x.Logical < next || x.Length <= 0 || x.Logical+x.Length > n.Size {
				return fmt.Errorf("%q has the extent %+v", path, x)
			}
			next = x.Logical + x.Length
			if _, err := io.Copy(io.Discard, io.NewSectionReader(n.Source, x.Offset, x.Length)); err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
		}
		if n.Kind != rootfs.Directory {
			return nil
		}
		dir, err := v.Lookup(path)
		if err != nil || !v.indexed(&dir) || dir.has(FlagInlineData) {
			return err
		}
		for name := range n.Children {
			if _, err := v.LookupHashed(dir.Number, name); err != nil {
				return err
			}
		}
		return nil
	})
}
