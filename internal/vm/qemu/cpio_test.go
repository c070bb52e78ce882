package qemu

import (
	"bytes"
	"fmt"
)

// cpioWriter writes the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	bytes.Buffer
	inode int
}

func (w *cpioWriter) directory(name string) { w.member(name, 0o40755, 2, nil) }

func (w *cpioWriter) file(name string, content []byte, mode int) {
	w.member(name, 0o100000|mode, 1, content)
}

func (w *cpioWriter) member(name string, mode, links int, content []byte) {
	w.inode++
	fmt.Fprintf(w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		w.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	w.pad()
	w.Write(content)
	w.pad()
}

func (w *cpioWriter) pad() {
	for w.Len()%4 != 0 {
		w.WriteByte(0)
	}
}

func (w *cpioWriter) close() []byte {
	w.member("TRAILER!!!", 0, 1, nil)
	return w.Bytes()
}
