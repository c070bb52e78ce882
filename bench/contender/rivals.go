package contender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

// mkfs runs mkfs.ext4 as banger's builder does, and on a tree that has its owners.
func mkfs(ctx context.Context, job Job) (Measurement, error) {
	out, err := job.create()
	if err != nil {
		return Measurement{}, err
	}
	if err := errors.Join(out.Truncate(job.Size), out.Close()); err != nil {
		return Measurement{}, err
	}
	command := []string{"mkfs.ext4", "-F", "-q", "-d", job.tree(), "-L", label, "-E", "root_owner=0:0", job.Out}
	if _, err := os.Stat(job.owners()); err == nil {
		command = append([]string{"fakeroot", "-i", job.owners(), "--"}, command...)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Measurement{}, err
	}
	syncs := always
	if job.NoSync {
		syncs, command = faked, append([]string{"eatmydata", "--"}, command...)
	}
	if err := readTree(job.tree()); err != nil {
		return Measurement{}, err
	}
	return measure(job.Out, syncs, func() error {
		text, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		return nil
	})
}

// tarToExt4 gives hcsshim the size of the disk so that it reserves as much for its growth. The file that it makes is
// only as long as its content.
func tarToExt4(_ context.Context, job Job) (Measurement, error) {
	tar, err := os.Open(job.tar())
	if err != nil {
		return Measurement{}, err
	}
	defer func() { _ = tar.Close() }()
	if err := rewindRead(tar); err != nil {
		return Measurement{}, err
	}
	return measure(job.Out, never, func() error {
		out, err := job.create()
		if err != nil {
			return err
		}
		err = tar2ext4.ConvertTarToExt4(tar, out, tar2ext4.MaximumDiskSize(job.Size))
		return errors.Join(err, out.Close())
	})
}

// rewindRead brings a file into the page cache.
func rewindRead(f *os.File) error {
	if _, err := io.Copy(io.Discard, f); err != nil {
		return err
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// readTree brings a directory's files into the page cache.
func readTree(dir string) error {
	tree := os.DirFS(dir)
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := tree.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, f)
		return errors.Join(err, f.Close())
	})
}
