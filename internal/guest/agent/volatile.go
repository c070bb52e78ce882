package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxVolatile is how many bytes an image may have in /run for it to be kept in memory.
const maxVolatile = 8 << 20

var errTooLarge = errors.New("it is too large")

// mountRun makes /run below root a file system in memory, as on any machine: what is in it must not outlive a boot
// (Filesystem Hierarchy Standard, 3.15), and container engines tell a boot by it. It begins with what the image has
// there, since there are programs that count on it. An image with too much of that keeps its own.
func mountRun(root string) error {
	target := filepath.Join(root, "/run")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making /run: %w", err)
	}
	if mounted(target) {
		return nil
	}
	own, err := os.OpenRoot(target)
	if err != nil {
		return fmt.Errorf("opening /run: %w", err)
	}
	defer func() { _ = own.Close() }()
	if err := fits(own.FS(), maxVolatile); err != nil {
		return fmt.Errorf("leaving /run on the disk: %w", err)
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=20%"); err != nil {
		return fmt.Errorf("mounting a tmpfs at /run: %w", err)
	}
	if err := copyTree(own, target); err != nil {
		return fmt.Errorf("filling /run: %w", err)
	}
	return nil
}

// fits returns errTooLarge if the files of a tree have more than limit bytes.
func fits(tree fs.FS, limit int64) error {
	return fs.WalkDir(tree, ".", func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			limit -= info.Size()
		}
		if limit < 0 {
			return errTooLarge
		}
		return err
	})
}

// copyTree copies the directories, files and symbolic links of from into to, with owners and modes. Sockets, pipes and
// devices are of no use without who made them.
func copyTree(from *os.Root, to string) error {
	return fs.WalkDir(from.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return copyNode(from, name, filepath.Join(to, name), info)
	})
}

func copyNode(from *os.Root, name, target string, info fs.FileInfo) error {
	var err error
	switch mode := info.Mode(); {
	case mode.IsDir():
		err = os.MkdirAll(target, 0o755)
	case mode.IsRegular():
		err = copyFile(from, name, target)
	case mode.Type() == fs.ModeSymlink:
		var link string
		if link, err = from.Readlink(name); err == nil {
			err = os.Symlink(link, target)
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return copyOwner(target, info)
}

// copyOwner gives target the owner of info, and its mode, which a change of the owner may reduce.
func copyOwner(target string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil || info.Mode().Type() == fs.ModeSymlink {
		return err
	}
	return unix.Chmod(target, st.Mode&0o7777)
}

func copyFile(from *os.Root, name, target string) error {
	source, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, source)
	return errors.Join(err, file.Close())
}
