package ext4

import (
	"errors"
	"io"
	"iter"
	"runtime"
	"sync"

	"github.com/banger-vm/banger/internal/layer"
	"github.com/banger-vm/banger/internal/rootfs"
)

// reader reads the data of regular files, in batches of many small files or of a piece of a large one. Several batches are
// read at a time.
type reader struct {
	ordered chan *batch // in the order of the inodes; done tells when one has been read
	work    chan *batch // the same, for the goroutines that read
	free    chan *batch
	stop    chan struct{}
	running sync.WaitGroup
}

// batch is memory of pieceSize bytes with parts of files.
type batch struct {
	parts []part
	runs  []run  // of all parts
	data  []byte // the blocks of all runs, one after the other
	done  chan struct{}
	home  chan<- *batch
}

// part is a part of a file that is in one batch.
type part struct {
	inode  int    // index in the table
	first  uint32 // block of the file
	blocks uint32
	last   bool // of the file's parts

	bytes int64     // of the file that are in it: without what is behind the file's end
	sum   layer.Sum // of these
	runs  int       // how many it has
	err   error     // of reading
}

// run is a part of a file without blocks that are all zeros.
type run struct {
	first, blocks uint32
}

// newReader begins to read the files' data.
func newReader(inodes []inode) *reader {
	readers := max(1, min(4, runtime.GOMAXPROCS(0)))
	batches := readers + pieces
	r := &reader{
		ordered: make(chan *batch, batches), work: make(chan *batch, batches), free: make(chan *batch, batches),
		stop: make(chan struct{}),
	}
	for range batches {
		r.free <- &batch{done: make(chan struct{}, 1), home: r.free}
	}
	r.running.Go(func() { r.plan(inodes) })
	for range readers {
		r.running.Go(func() {
			for b := range r.work {
				b.read(inodes)
				b.done <- struct{}{}
			}
		})
	}
	return r
}

// close ends the reading. Batches that were taken stay whole.
func (r *reader) close() {
	close(r.stop)
	r.running.Wait()
}

// plan divides the files into parts, and those among batches.
func (r *reader) plan(inodes []inode) {
	defer close(r.work)
	defer close(r.ordered)
	var b *batch
	room := uint32(0)
	for p := range allParts(inodes) {
		for p.blocks > 0 {
			if room == 0 {
				r.send(b)
				if b = r.take(); b == nil {
					return
				}
				room = pieceSize / BlockSize
			}
			now := p
			now.blocks = min(p.blocks, room)
			now.last = p.last && now.blocks == p.blocks
			b.parts = append(b.parts, now)
			p.first, p.blocks, room = p.first+now.blocks, p.blocks-now.blocks, room-now.blocks
		}
	}
	r.send(b)
}

// allParts yields the data of all files, a part for each run of blocks between holes.
func allParts(inodes []inode) iter.Seq[part] {
	return func(yield func(part) bool) {
		for i := range inodes {
			node := inodes[i].node
			if node.Kind != rootfs.Regular {
				continue
			}
			var p part
			for first, end := range node.Runs(BlockSize) {
				if p.blocks > 0 && !yield(p) {
					return
				}
				p = part{inode: i, first: uint32(first), blocks: uint32(end - first)}
			}
			if p.last = true; p.blocks > 0 && !yield(p) {
				return
			}
		}
	}
}

// send gives a batch to who reads it and who places it. Neither channel can be full.
func (r *reader) send(b *batch) {
	if b != nil {
		r.work <- b
		r.ordered <- b
	}
}

// take returns an empty batch, or nil when nobody wants more.
func (r *reader) take() *batch {
	select {
	case b := <-r.free:
		if b.data == nil {
			b.data = make([]byte, 0, pieceSize)
		}
		b.parts, b.runs, b.data = b.parts[:0], b.runs[:0], b.data[:0]
		return b
	case <-r.stop:
		return nil
	}
}

// release lets the batch's memory be used again.
func (b *batch) release() { b.home <- b }

// read reads the parts up to the first that cannot be read.
func (b *batch) read(inodes []inode) {
	for i := range b.parts {
		p := &b.parts[i]
		if p.err = b.readPart(p, inodes[p.inode].node); p.err != nil {
			return
		}
	}
}

func (b *batch) readPart(p *part, node *rootfs.Node) error {
	at := len(b.data)
	data := b.data[at : at+int(p.blocks)*BlockSize]
	offset := int64(p.first) * BlockSize
	p.bytes = min(int64(len(data)), node.Size-offset)
	if _, err := node.Open().ReadAt(data[:p.bytes], offset); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p.sum = p.sum.Add(data[:p.bytes])
	clear(data[p.bytes:]) // behind the file's end
	b.keep(data, p)
	return nil
}

// keep moves the blocks of data that are not all zeros together.
func (b *batch) keep(data []byte, p *part) {
	for at := 0; at < len(data); {
		zero, n := rootfs.LeadingBlocks(data[at:], 0)
		if !zero {
			end := len(b.data)
			b.data = b.data[:end+n]
			if &b.data[end] != &data[at] {
				copy(b.data[end:], data[at:at+n])
			}
			b.runs = append(b.runs, run{p.first + uint32(at/BlockSize), uint32(n / BlockSize)})
			p.runs++
		}
		at += n
	}
}
