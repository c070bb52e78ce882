package ext4

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/banger-vm/banger/internal/rootfs"
)

// writeData writes the contents of all regular files, in the order of their inodes. A file begins where the one before
// it has ended, and each byte is copied twice: from its layer into the sink's memory, and from there into the file.
func (w *writer) writeData(ctx context.Context) error {
	for i := range w.inodes {
		in := &w.inodes[i]
		if in.node.Kind != rootfs.Regular || len(in.node.Extents) == 0 {
			continue
		}
		f := &fileData{mapping: w.newMapping(), content: in.node.Open()}
		if err := f.write(ctx, in.node); err != nil {
			return f.locate(err, in.node)
		}
		if err := f.end(numberOf(i), in); err != nil {
			return err
		}
		w.digest.numbers(uint64(i), uint64(in.count), uint64(f.checksum))
	}
	return nil
}

// fileData is the content of a file on its way.
type fileData struct {
	*mapping
	content  *io.SectionReader
	checksum uint32 // of the blocks that are no holes
}

// sourceError is an error of reading a layer.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// locate says which file an error of reading is about. A path costs a walk, so it is looked for only then.
func (f *fileData) locate(err error, node *rootfs.Node) error {
	var source sourceError
	if !errors.As(err, &source) {
		return err
	}
	return fmt.Errorf("reading %q: %w", f.w.pathOf(node), source.error)
}

// pathOf returns a path of a node of the table.
func (t *table) pathOf(node *rootfs.Node) string {
	return pathOf(&rootfs.Tree{Root: t.inodes[0].node}, node)
}

func (f *fileData) write(ctx context.Context, node *rootfs.Node) error {
	for first, end := range node.Runs(BlockSize) {
		for block := first; block < end; {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			n, err := f.copy(block, end-block)
			if err != nil {
				return err
			}
			block += int64(n)
		}
	}
	return nil
}

// copy copies up to n blocks of the file, from block on, and returns how many.
func (f *fileData) copy(block, n int64) (uint32, error) {
	start, length, err := f.w.space.free()
	if err != nil {
		return 0, err
	}
	data, err := f.w.sink.reserve(start, uint32(min(int64(length), n, pieceSize/BlockSize)))
	if err != nil {
		return 0, err
	}
	got, err := f.content.ReadAt(data, block*BlockSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, sourceError{err}
	}
	clear(data[got:]) // behind the file's end
	f.keep(data, uint32(block), start)
	return uint32(len(data) / BlockSize), nil
}

// keep maps the blocks of data that are not zero to blocks from start on, and moves them together.
func (f *fileData) keep(data []byte, logical, start uint32) {
	var kept int
	for at := 0; at < len(data); {
		zero, n := rootfs.LeadingBlocks(data[at:], 0)
		if !zero {
			if kept != at {
				copy(data[kept:], data[at:at+n])
			}
			f.add(logical+uint32(at/BlockSize), start+uint32(kept/BlockSize), uint32(n/BlockSize))
			kept += n
		}
		at += n
	}
	f.checksum = checksum(f.checksum, data[:kept])
	f.w.space.take(uint32(kept / BlockSize))
	f.w.sink.commit(uint32(kept / BlockSize))
}
