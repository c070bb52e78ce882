package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"syscall"

	"github.com/banger-vm/banger/internal/jsonfile"
	"github.com/banger-vm/banger/internal/lock"
)

// digestName is the file beside a disk that keeps the disk's digest, once somebody has asked for it.
const digestName = "rootfs.sha256.json"

// diskDigest is the content of that file. Size and MTime are those of the disk that was read: they tell whether the
// disk is still the same file.
type diskDigest struct {
	Schema int    `json:"schema"`
	SHA256 string `json:"sha256"` // in hex
	Size   int64  `json:"size"`   // bytes
	MTime  int64  `json:"mtime"`  // nanoseconds since 1970
}

// KnownSHA256 returns what DiskSHA256 found out earlier, or "".
func (s *Images) KnownSHA256(id string) string {
	info, err := os.Stat(s.Disk(id))
	if err != nil {
		return ""
	}
	var known diskDigest
	if jsonfile.Read(s.path(id, digestName), &known) != nil || known.Schema != Schema || !known.isOf(info) {
		return ""
	}
	return known.SHA256
}

func (d diskDigest) isOf(info os.FileInfo) bool {
	return d.Size == info.Size() && d.MTime == info.ModTime().UnixNano()
}

// DiskSHA256 returns the SHA-256, in hex, of all bytes of an image's ext4 file, as sha256sum prints it. It reads the
// file, without its holes, unless an earlier call did.
func (s *Images) DiskSHA256(ctx context.Context, id string) (string, error) {
	if known := s.KnownSHA256(id); known != "" {
		return known, nil
	}
	file, err := os.Open(s.Disk(id))
	if err != nil {
		return "", fmt.Errorf("hashing the disk of image %s: %w", short(id), err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return "", fmt.Errorf("hashing the disk of image %s: %w", short(id), err)
	}
	sum := sha256.New()
	if err := hashSparse(ctx, sum, file, info.Size()); err != nil {
		return "", fmt.Errorf("hashing the disk of image %s: %w", short(id), err)
	}
	found := diskDigest{Schema, hex.EncodeToString(sum.Sum(nil)), info.Size(), info.ModTime().UnixNano()}
	s.remember(id, found)
	return found.SHA256, nil
}

// remember keeps a digest for the next caller. Whoever is at work on the image, and a home that cannot be written, only
// mean that the next caller has to hash again.
func (s *Images) remember(id string, found diskDigest) {
	held, err := lock.Try(s.home.Path("locks", lockOf(id)))
	if err != nil || held == nil {
		return
	}
	defer held.Release()
	if info, err := os.Stat(s.Disk(id)); err != nil || !found.isOf(info) {
		return
	}
	removeUnfinished(s.path(id))
	_ = jsonfile.Write(s.path(id, digestName), found)
}

// hashChunk is how many bytes are hashed between two looks at the context.
const hashChunk = 1 << 20

// hashSparse hashes size bytes of file. Holes are not read: they are as many zeros.
func hashSparse(ctx context.Context, sum hash.Hash, file *os.File, size int64) error {
	zeros, data := make([]byte, hashChunk), make([]byte, hashChunk)
	for at := int64(0); at < size; {
		start, end, err := nextData(file, at, size)
		if err != nil {
			return err
		}
		for at < end {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			part := zeros[:min(hashChunk, max(start-at, 0))]
			if at >= start {
				part = data[:min(hashChunk, end-at)]
				if _, err := file.ReadAt(part, at); err != nil {
					return err
				}
			}
			_, _ = sum.Write(part) // never fails (hash.Hash)
			at += int64(len(part))
		}
	}
	return nil
}

// seekData and seekHole are the values of whence in lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// nextData returns where the first data at or behind offset begins and ends; both are size if there is none.
func nextData(file *os.File, offset, size int64) (start, end int64, err error) {
	start, err = syscall.Seek(int(file.Fd()), offset, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return size, size, nil
	}
	if err == nil {
		end, err = syscall.Seek(int(file.Fd()), start, seekHole)
	}
	return start, end, err
}
