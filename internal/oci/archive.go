package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// archive is a tar in whose members the images are. They are read where they are in the file.
type archive struct {
	file    *os.File
	hint    string            // what to say of a file that is no such archive
	members map[string]member // by their cleaned names
}

// member is a file of the archive.
type member struct {
	offset int64
	size   int64
	link   string // the cleaned name of another member, whose contents this one has
	sparse bool   // its contents are in pieces
}

// tarBlock is the size of a tar's blocks, in bytes.
const tarBlock = 512

// openArchive opens the archive at path, and finds its members.
func openArchive(ctx context.Context, path, hint string, opts Options) (*archive, error) {
	file, err := input{what: "archive", hint: hint, temp: opts.TempDir, told: opts.Unpacking}.openFile(ctx, path, opts.Stdin)
	if err != nil {
		return nil, err
	}
	return indexArchive(ctx, file, hint)
}

// indexArchive finds the members of the file, which it takes over, and closes if there is an error.
func indexArchive(ctx context.Context, file *os.File, hint string) (*archive, error) {
	a := &archive{file: file, hint: hint, members: make(map[string]member)}
	if err := a.index(ctx); err != nil {
		_ = file.Close()
		return nil, err
	}
	return a, nil
}

// Close releases the file.
func (a *archive) Close() error { return a.file.Close() }

func (a *archive) has(name string) bool {
	_, found := a.members[name]
	return found
}

// index finds the members. tar.Reader does not read ahead, so the file stands at each one's contents.
func (a *archive) index(ctx context.Context) error {
	r := tar.NewReader(a.file)
	for ctx.Err() == nil {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return a.damaged(err)
		}
		if err := a.add(h); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// damaged tells what is no archive at all from one that is broken.
func (a *archive) damaged(err error) error {
	info, statErr := a.file.Stat()
	short := statErr == nil && info.Size() < tarBlock
	if len(a.members) == 0 && (short || !errors.Is(err, io.ErrUnexpectedEOF)) {
		return fault.New(fault.Unsupported, fmt.Errorf("reading the archive: it is no tar: %w", err), a.hint)
	}
	err = fmt.Errorf("reading the archive: %w", err)
	return fault.New(fault.Corrupt, err, "the archive is incomplete or damaged")
}

func (a *archive) add(h *tar.Header) error {
	offset, err := a.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	clean := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		a.members[clean] = member{offset: offset, size: h.Size, sparse: isSparse(h)}
	case tar.TypeSymlink: // of layers that images share
		a.members[clean] = member{link: path.Join(path.Dir(clean), h.Linkname)}
	case tar.TypeLink:
		a.members[clean] = member{link: path.Clean(h.Linkname)}
	}
	return nil
}

// isSparse reports whether tar has left out the holes of a file (GNU tar manual, "Storing Sparse Files").
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// section returns a member's contents.
func (a *archive) section(name string) (*io.SectionReader, error) {
	clean := path.Clean(name)
	for range 8 {
		m, ok := a.members[clean]
		if !ok {
			break
		}
		if m.sparse {
			err := fmt.Errorf("reading the archive: its file %q is sparse", name)
			return nil, fault.New(fault.Unsupported, err, "make the archive without tar's --sparse (-S)")
		}
		if m.link == "" {
			return io.NewSectionReader(a.file, m.offset, m.size), nil
		}
		clean = m.link
	}
	err := fmt.Errorf("reading the archive: it has no file %q: %w", name, fs.ErrNotExist)
	return nil, fault.New(fault.Corrupt, err, "the archive is incomplete or damaged")
}

// open returns a member's contents as a file of their own.
func (a *archive) open(name string) (io.ReadCloser, error) {
	section, err := a.section(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(section), nil
}

func (a *archive) readAll(name string) ([]byte, error) {
	r, err := a.section(name)
	if err != nil {
		return nil, err
	}
	raw, err := readSmall(r)
	if err == nil && int64(len(raw)) != r.Size() {
		err = fault.New(fault.Corrupt, io.ErrUnexpectedEOF, "the archive is incomplete")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the archive's %q: %w", name, err)
	}
	return raw, nil
}
