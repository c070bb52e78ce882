package ext4

import (
	"context"
	"fmt"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// writeData writes the contents of all regular files, in the order of their inodes. A file begins where the one before
// it has ended. The files are read ahead by a reader's goroutines; where their blocks go is decided here, in order, so that
// the file system does not depend on who was faster.
func (w *writer) writeData(ctx context.Context) error {
	r := newReader(w.inodes)
	defer r.close()
	f := &fileData{}
	for b := range r.ordered {
		<-b.done
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.place(b, f); err != nil {
			return err
		}
	}
	return nil
}

// fileData is the file whose blocks are being placed.
type fileData struct {
	*mapping           // nil between two files
	sum      layer.Sum // of the first summed bytes
	summed   int64
}

// place gives the blocks of a batch their places and has them written.
func (w *writer) place(b *batch, f *fileData) error {
	data := w.sink.lend(b.data, b.release)
	defer data.end()
	runs := b.runs
	for i := range b.parts {
		p := &b.parts[i]
		if p.err != nil {
			return w.unreadable(p, p.err)
		}
		if f.mapping == nil {
			*f = fileData{mapping: w.newMapping()}
		}
		for _, run := range runs[:p.runs] {
			if err := f.keep(data, run); err != nil {
				return err
			}
		}
		runs = runs[p.runs:]
		f.add(p)
		if !p.last {
			continue
		}
		if err := w.endFile(p, f); err != nil {
			return err
		}
		f.mapping = nil
	}
	return nil
}

// keep takes blocks for a run and maps them.
func (f *fileData) keep(data *loan, r run) error {
	for r.blocks > 0 {
		start, length, err := f.w.space.free()
		if err != nil {
			return err
		}
		n := min(length, r.blocks)
		f.mapping.add(r.first, start, n)
		f.w.space.take(n)
		if err := data.write(start, n, length); err != nil {
			return err
		}
		r.first, r.blocks = r.first+n, r.blocks-n
	}
	return nil
}

// add adds a part of the file, and the hole before it, to the sum.
func (f *fileData) add(p *part) {
	start := int64(p.first) * BlockSize
	f.sum = f.sum.AddZeros(start-f.summed).Join(p.sum, p.bytes)
	f.summed = start + p.bytes
}

// endFile ends a file behind its last part.
func (w *writer) endFile(p *part, f *fileData) error {
	in := &w.inodes[p.inode]
	f.sum = f.sum.AddZeros(in.node.Size - f.summed)
	if in.node.HasSum && in.node.Sum != f.sum {
		return w.unreadable(p, rootfs.ErrSum)
	}
	if err := f.end(numberOf(p.inode), in); err != nil {
		return err
	}
	w.digest.numbers(uint64(p.inode), uint64(in.count), uint64(f.sum))
	return nil
}

// unreadable says which file an error of reading is about. A path costs a walk, so it is looked for only then.
func (w *writer) unreadable(p *part, err error) error {
	node := w.inodes[p.inode].node
	err = fmt.Errorf("reading %q: %w", w.pathOf(node), err)
	return &rootfs.ContentError{Source: node.Source, Err: err}
}

// pathOf returns a path of a node of the table.
func (t *table) pathOf(node *rootfs.Node) string {
	return pathOf(&rootfs.Tree{Root: t.inodes[0].node}, node)
}
