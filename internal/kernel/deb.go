package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
)

// maxControl bounds a package's control file, which is text of a few hundred lines at most.
const maxControl = 1 << 20

type debs []string

// FromDeb returns the kernel of a package of Debian or Ubuntu. Debian's linux-image-* is complete; Ubuntu's needs the
// linux-modules-* of the same version beside it, and takes linux-modules-extra-* as well.
func FromDeb(files ...string) Source { return debs(files) }

// String implements Source.
func (d debs) String() string {
	names := make([]string, len(d))
	for i, file := range d {
		names[i] = filepath.Base(file)
	}
	return strings.Join(names, ", ")
}

func (d debs) collect(ctx context.Context, to *collection) error {
	var controls []control
	for _, file := range d {
		c, err := collectDeb(ctx, file, to)
		if err != nil {
			return fmt.Errorf("reading the package %q: %w", file, err)
		}
		controls = append(controls, c)
	}
	if err := complete(controls, to); err != nil {
		return fmt.Errorf("importing %s: %w", d, err)
	}
	return nil
}

// complete checks that the packages have a kernel and modules, or else says which package has.
func complete(controls []control, to *collection) error {
	switch {
	case !to.hasImage:
		err := errors.New("there is no kernel (boot/vmlinuz-*) in it")
		hint := "give a linux-image package"
		if image := depends(controls, "linux-image-"); image != "" {
			err = fmt.Errorf("there is no kernel in it: it only depends on %s, which has one", image)
			hint = "get that one: apt-get download " + image
		}
		return fault.New(fault.Unsupported, err, hint)
	case len(to.root.Children) == 0:
		err := errors.New("there are no modules (lib/modules) in it")
		hint := "give the package with the modules as well"
		if modules := depends(controls, "linux-modules-"); modules != "" {
			err = fmt.Errorf("the modules are in another package, %s", modules)
			hint = "give that one as well: apt-get download " + modules
		}
		return fault.New(fault.Unsupported, err, hint)
	}
	return nil
}

// depends returns the first package with the prefix that one of the packages depends on, or "".
func depends(controls []control, prefix string) string {
	for _, c := range controls {
		for field := range strings.SplitSeq(c["Depends"], ",") {
			// "linux-image-6.1.0-1-amd64 (= 6.1.4-1) | other"
			name, _, _ := strings.Cut(strings.TrimSpace(field), " ")
			if strings.HasPrefix(name, prefix) {
				return name
			}
		}
	}
	return ""
}

func collectDeb(ctx context.Context, file string, to *collection) (control, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, err, "")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	c, err := readDeb(reading(ctx, f), to)
	return c, damaged(ctx, err)
}

// damaged makes an error in the bytes of a package fault.Corrupt. Errors of the host's disk and of ctx stay as they
// are, and so do those that have a kind.
func damaged(ctx context.Context, err error) error {
	var path *fs.PathError
	var errno syscall.Errno
	var known *fault.Error
	if err == nil || ctx.Err() != nil || errors.As(err, &path) || errors.As(err, &errno) || errors.As(err, &known) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("it ends too early: %w", err)
	}
	return fault.New(fault.Corrupt, err, "download it again")
}

// readDeb reads a binary package (deb(5)): the members debian-binary, control.tar and data.tar, in that order.
func readDeb(r io.Reader, to *collection) (control, error) {
	archive, err := newArReader(r)
	if errors.Is(err, errNotAr) {
		return nil, notDeb(err)
	}
	if err != nil {
		return nil, err
	}
	if err := readFormat(archive); err != nil {
		return nil, err
	}
	c, err := nextMember(archive, "control.tar", readControl)
	if err != nil {
		return nil, err
	}
	if arch := c["Architecture"]; arch != "amd64" && arch != "all" {
		err := fmt.Errorf("it is for the architecture %q, and only amd64 is supported", arch)
		return nil, fault.New(fault.Unsupported, err, "")
	}
	_, err = nextMember(archive, "data.tar", func(t *tar.Reader) (struct{}, error) { return struct{}{}, readData(t, to) })
	return c, err
}

func notDeb(err error) error {
	return fault.New(fault.Unsupported, fmt.Errorf("it is no Debian package: %w", err), "")
}

// readFormat reads the first member: the format's version, of which the minor number may grow.
func readFormat(archive *arReader) error {
	member, err := archive.next()
	if err != nil {
		return err
	}
	if member.name != "debian-binary" {
		return notDeb(fmt.Errorf("it begins with %q", member.name))
	}
	version, err := io.ReadAll(io.LimitReader(member, 16))
	if err == nil && !strings.HasPrefix(string(version), "2.") {
		err = notDeb(fmt.Errorf("its format is %q, not 2.0", version))
	}
	return err
}

// nextMember reads the tar which the following member is, to the end of its compression's checksums. Members whose
// names begin with "_" may stand between the known ones, for later versions of the format.
func nextMember[T any](archive *arReader, name string, read func(*tar.Reader) (T, error)) (T, error) {
	var none T
	member, err := archive.next()
	for err == nil && strings.HasPrefix(member.name, "_") {
		member, err = archive.next()
	}
	if err != nil {
		return none, fmt.Errorf("looking for %s: %w", name, err)
	}
	if !strings.HasPrefix(member.name, name) {
		return none, notDeb(fmt.Errorf("it has %q in place of %s", member.name, name))
	}
	plain, err := decompress(member)
	if err != nil {
		return none, fmt.Errorf("decompressing %s: %w", member.name, err)
	}
	defer func() { _ = plain.Close() }()
	value, err := read(tar.NewReader(plain))
	if err == nil {
		_, err = io.Copy(io.Discard, plain)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, member)
	}
	if err != nil {
		return none, fmt.Errorf("reading %s: %w", member.name, err)
	}
	return value, nil
}

// control are the fields of a package's control file (deb-control(5)), folded lines joined.
type control map[string]string

func readControl(t *tar.Reader) (control, error) {
	for {
		header, err := t.Next()
		if err == io.EOF {
			return nil, errors.New("there is no control file")
		}
		if err != nil {
			return nil, err
		}
		if path.Clean(header.Name) == "control" {
			text, err := io.ReadAll(io.LimitReader(t, maxControl))
			return parseControl(string(text)), err
		}
	}
}

func parseControl(text string) control {
	c := control{}
	field := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, " ") && field != "" {
			c[field] += line
		} else if name, value, ok := strings.Cut(line, ":"); ok {
			field = name
			c[field] = strings.TrimSpace(value)
		}
	}
	return c
}

// readData collects the kernel and its modules from a package's files.
func readData(t *tar.Reader, to *collection) error {
	for {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = collectMember(header, t, to)
		}
		if err != nil {
			return err
		}
	}
}

func collectMember(header *tar.Header, r io.Reader, to *collection) error {
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	if strings.HasPrefix(name, "boot/vmlinuz-") && header.Typeflag == tar.TypeReg {
		return to.addImage(r)
	}
	// Debian 13 and later have no /lib of their own any more.
	name, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	if !ok {
		return nil
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return to.addDirectory(name, header.ModTime)
	case tar.TypeReg:
		return to.addFile(name, uint16(header.Mode&0o777), header.ModTime, r)
	case tar.TypeSymlink:
		return nil
	}
	return fault.New(fault.Unsupported, fmt.Errorf("%q is neither a file nor a directory", header.Name), "")
}
