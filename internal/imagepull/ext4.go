package imagepull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/system"
)

// sizeHint is what to do about an image that does not fit its disk.
const sizeHint = "the disk is too small for the image: pass a larger --size"

// BuildExt4 makes outFile an ext4 file system of sizeBytes with the content of the directory srcDir, by mkfs.ext4. The
// file is sparse: it takes the host's space only as it fills. A file that is already there is replaced; on any
// failure, the end of ctx included, there is no outFile. Owners, and what the caller could not make in srcDir, are
// left to ApplyOwnership.
//
// A size below MinExt4Size, or too small for srcDir, and a full disk of the host are a fault.NoSpace.
func BuildExt4(ctx context.Context, runner *system.CommandRunner, srcDir, outFile string, sizeBytes int64) error {
	if err := checkBuild(srcDir, sizeBytes); err != nil {
		return fmt.Errorf("building %q: %w", outFile, err)
	}
	// Absolute paths: mkfs.ext4 takes "-" as standard input, and a leading "-" as an option.
	source, err := filepath.Abs(srcDir)
	if err != nil {
		return fmt.Errorf("building %q: %w", outFile, err)
	}
	file, err := filepath.Abs(outFile)
	if err != nil {
		return fmt.Errorf("building %q: %w", outFile, err)
	}
	if err := createSparse(file, sizeBytes); err != nil {
		return fmt.Errorf("building %q: %w", outFile, hostSpace(err))
	}
	if err := makeExt4(ctx, runner, source, file, sizeBytes); err != nil {
		_ = os.Remove(file)
		return fmt.Errorf("building %q: %w", outFile, err)
	}
	return nil
}

// checkBuild refuses what cannot be built, before anything is touched.
func checkBuild(srcDir string, sizeBytes int64) error {
	if err := checkSize(sizeBytes); err != nil {
		return err
	}
	info, err := os.Stat(srcDir)
	if err != nil {
		return fmt.Errorf("reading the source: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("reading the source %q: %w", srcDir, syscall.ENOTDIR)
	}
	return nil
}

// checkSize refuses a size that no builder makes.
func checkSize(size int64) error {
	if size < MinExt4Size {
		err := fmt.Errorf("%d bytes are fewer than the least, %d", size, MinExt4Size)
		return fault.New(fault.NoSpace, err, "pass a --size of at least 64MiB")
	}
	return nil
}

// createFile makes an empty file in place of an old one. Only the caller can read it: a root file system has secrets.
// On failure there is no file, or the old one that could not be replaced.
func createFile(file string) (*os.File, error) {
	// unlink and not os.Remove, which would remove an empty directory, too.
	if err := syscall.Unlink(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the old %q: %w", file, err)
	}
	return os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// createSparse is createFile with a length: the file is zeros that take no space.
func createSparse(file string, size int64) error {
	f, err := createFile(file)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err := errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(file)
		return err
	}
	return nil
}

// makeExt4 formats file, which has its size already, and asserts that the file system has that size, too.
func makeExt4(ctx context.Context, runner *system.CommandRunner, source, file string, size int64) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	// No size is given: mkfs.ext4 counts it in KiB whatever the block size (mke2fs(8)), and the file's own is exact.
	_, err := runner.Run(ctx, system.Command{
		Name: "mkfs.ext4",
		Args: []string{"-F", "-q", "-d", source, "-L", label, "-E", "root_owner=0:0", file},
	})
	if err != nil {
		return spaceFault(err)
	}
	s, err := readSuperblock(file)
	if err != nil {
		return err
	}
	return s.checkSize(size)
}

// spaceFault makes err a fault.NoSpace if a program's words in it say that the file system or the host's disk is
// full, and a fault.Unsupported if an inode has no room for its attributes.
func spaceFault(err error) error {
	text := err.Error()
	if strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, "No space left on device") {
		return hostSpace(fmt.Errorf("%w (%w)", err, syscall.ENOSPC))
	}
	// The messages of EXT2_ET_BLOCK_ALLOC_FAIL, EXT2_ET_INODE_ALLOC_FAIL and EXT2_ET_TOOSMALL
	// (e2fsprogs lib/ext2fs/ext2_err.et.in).
	if strings.Contains(text, "Insufficient space to store extended attribute data") { // EXT2_ET_EA_NO_SPACE
		return fault.New(fault.Unsupported, err, "a file's attributes have to fit into one block: 1 KiB below 512MiB, else 4 KiB")
	}
	for _, words := range []string{"Could not allocate block", "Could not allocate inode", "too small"} {
		if strings.Contains(text, words) {
			return fault.New(fault.NoSpace, err, sizeHint)
		}
	}
	return err
}

// hostSpace makes err a fault.NoSpace if it is the host's disk that is full.
func hostSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.NoSpace, err, "the host's disk is full: free some space, or move BANGER_HOME")
	}
	return err
}
