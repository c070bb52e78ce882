package kernel

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// File types and permissions of a cpio header's mode (stat.h).
const (
	cpioDirectory = 0o040755
	cpioFile      = 0o100644
	cpioProgram   = 0o100755
	cpioConsole   = 0o020600
)

// cpioBlock is what an archive's length is a multiple of, so that another can follow (the kernel wants 4, cpio 512).
const cpioBlock = 512

// cpioWriter writes the "newc" format that the kernel reads (Documentation/driver-api/early-userspace/buffer-format.rst
// of the kernel): everything is owned by root, has the time 0, and is numbered in order, so that equal content gives
// equal bytes.
type cpioWriter struct {
	w     io.Writer
	end   int64
	inode uint32
	err   error // the first one; nothing is written after it
}

// add writes one member. major and minor are of a device.
func (c *cpioWriter) add(name string, mode, major, minor uint32, data []byte) {
	c.inode++
	links := 1
	if mode == cpioDirectory {
		links = 2
	}
	c.header(name, c.inode, mode, links, len(data), major, minor)
	c.write(data)
	c.pad(4)
}

// header writes the magic, 13 numbers of 8 hexadecimal digits, and the name ended by NUL, padded to 4 bytes.
func (c *cpioWriter) header(name string, inode, mode uint32, links, size int, major, minor uint32) {
	const uid, gid, mtime, devMajor, devMinor, check = 0, 0, 0, 0, 0, 0
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", inode, mode, uid, gid,
		links, mtime, size, devMajor, devMinor, major, minor, len(name)+1, check, name))
	c.pad(4)
}

// close ends the archive.
func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0, 1, 0, 0, 0)
	c.pad(cpioBlock)
	return c.err
}

func (c *cpioWriter) write(data []byte) {
	if c.err != nil {
		return
	}
	var n int
	n, c.err = c.w.Write(data)
	c.end += int64(n)
}

func (c *cpioWriter) pad(block int64) { c.write(make([]byte, (block-c.end%block)%block)) }

// writeModulesCPIO writes an initramfs with the modules in load order, as /banger/NN-NAME.ko, and the list of them.
func writeModulesCPIO(w io.Writer, load []*module) error {
	c := &cpioWriter{w: w}
	c.add("banger", cpioDirectory, 0, 0, nil)
	var list strings.Builder
	for i, m := range load {
		data, err := io.ReadAll(content(m.node))
		if err != nil {
			return fmt.Errorf("reading the module %q: %w", m.path, err)
		}
		file := fmt.Sprintf("%02d-%s.ko", i, m.name)
		c.add("banger/"+file, cpioFile, 0, 0, data)
		list.WriteString(file + "\n")
	}
	c.add("banger/modules.list", cpioFile, 0, 0, []byte(list.String()))
	return c.close()
}

// InitramfsWithInit writes a complete initramfs to w: the one with the modules (Kernel.Initramfs), followed by one
// that has init as /init, and /dev/console, without which the kernel starts it with no standard streams.
func InitramfsWithInit(modules io.Reader, init []byte, w io.Writer) error {
	c := &cpioWriter{w: w}
	n, err := io.Copy(w, modules)
	if err != nil {
		return fmt.Errorf("copying the initramfs with the modules: %w", err)
	}
	c.end = n
	c.pad(cpioBlock)
	c.add("dev", cpioDirectory, 0, 0, nil)
	c.add("dev/console", cpioConsole, 5, 1, nil)
	c.add("init", cpioProgram, 0, 0, init)
	if err := c.close(); err != nil {
		return fmt.Errorf("writing the initramfs: %w", err)
	}
	return nil
}

// modulesCPIO returns the archive of writeModulesCPIO. It has a few MiB.
func modulesCPIO(load []*module) ([]byte, error) {
	var out bytes.Buffer
	err := writeModulesCPIO(&out, load)
	return out.Bytes(), err
}
