package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// Source is where a kernel comes from: FromDeb, FromHost or FromFiles. Nothing is read before Import.
type Source interface {
	// String says for people where the kernel comes from.
	String() string
	collect(ctx context.Context, to *collection) error
}

type files struct{ vmlinuz, modules string }

// FromFiles returns a kernel that is a vmlinuz and the directory of its modules (lib/modules/RELEASE; the name does
// not matter). With modulesDir "" all drivers have to be built in, which cannot be checked.
func FromFiles(vmlinuz, modulesDir string) Source { return files{vmlinuz, modulesDir} }

// String implements Source.
func (f files) String() string { return f.vmlinuz }

func (f files) collect(ctx context.Context, to *collection) error {
	image, err := openImage(f.vmlinuz, f.modules)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }()
	if err := to.addImage(reading(ctx, image)); err != nil {
		return fmt.Errorf("copying %q: %w", f.vmlinuz, err)
	}
	if f.modules == "" {
		return nil
	}
	version, err := to.imageVersion()
	if err != nil {
		return fmt.Errorf("reading %q: %w", f.vmlinuz, err)
	}
	if err := collectDirectory(ctx, os.DirFS(f.modules), version, to); err != nil {
		return fmt.Errorf("reading the modules in %q: %w", f.modules, err)
	}
	return nil
}

type host struct{ root string }

// FromHost returns the kernel that runs, and that is installed below root ("/").
func FromHost(root string) Source { return host{root} }

// String implements Source.
func (h host) String() string { return "host " + h.root }

func (h host) collect(ctx context.Context, to *collection) error {
	running, err := os.ReadFile(filepath.Join(h.root, "proc/sys/kernel/osrelease"))
	if err != nil {
		return fmt.Errorf("asking for the release of the running kernel: %w", err)
	}
	vmlinuz, modules, err := installed(h.root, strings.TrimSpace(string(running)))
	if err != nil {
		return err
	}
	return files{vmlinuz, modules}.collect(ctx, to)
}

// installed returns where a distribution has put a kernel and its modules.
func installed(root, release string) (vmlinuz, modules string, err error) {
	const hint = "import the distribution's linux-image package instead (apt-get download)"
	modules = filepath.Join(root, "lib/modules", release)
	if info, err := os.Stat(modules); err != nil || !info.IsDir() {
		err := fmt.Errorf("looking for the host's kernel %q: there are no modules at %q", release, modules)
		return "", "", fault.New(fault.NotFound, err, hint)
	}
	for _, file := range []string{filepath.Join(root, "boot/vmlinuz-"+release), filepath.Join(modules, "vmlinuz")} {
		if _, err := os.Stat(file); err == nil {
			return file, modules, nil
		}
	}
	err = fmt.Errorf("looking for the host's kernel %q: there is no vmlinuz in %q", release, filepath.Join(root, "boot"))
	return "", "", fault.New(fault.NotFound, err, hint)
}

// openImage opens a kernel. One that only root may read, as on Ubuntu, is an error that says what to do.
func openImage(vmlinuz, modulesDir string) (*os.File, error) {
	file, err := os.Open(vmlinuz)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.NotFound, fmt.Errorf("opening the kernel: %w", err), "")
	case errors.Is(err, fs.ErrPermission):
		hint := fmt.Sprintf("only root may read it: sudo install -m 644 %s . && banger kernel import --vmlinuz %s --modules %s",
			vmlinuz, filepath.Base(vmlinuz), modulesDir)
		return nil, fault.New(fault.Failure, fmt.Errorf("opening the kernel: %w", err), hint)
	case err != nil:
		return nil, fmt.Errorf("opening the kernel: %w", err)
	}
	return file, nil
}

// collectDirectory takes all files of a directory of modules, as those of version.
func collectDirectory(ctx context.Context, dir fs.FS, version string, to *collection) error {
	return fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return fault.New(fault.NotFound, err, "")
		}
		if err != nil {
			return err
		}
		return collectEntry(ctx, dir, version, name, entry, to)
	})
}

func collectEntry(ctx context.Context, dir fs.FS, version, name string, entry fs.DirEntry, to *collection) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case name == ".":
		return to.addDirectory(version, info.ModTime())
	case entry.IsDir():
		return to.addDirectory(version+"/"+name, info.ModTime())
	case !entry.Type().IsRegular():
		return nil
	}
	file, err := dir.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return to.addFile(version+"/"+name, uint16(info.Mode().Perm()), info.ModTime(), reading(ctx, file))
}

// contextReader fails once its context has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func reading(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
