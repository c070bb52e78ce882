package engine

import (
	"fmt"
	"os"

	"github.com/banger-vm/banger/internal/ext4/volume"
	"github.com/banger-vm/banger/internal/store"
)

// FileSystem is what the superblock of an image's disk says.
type FileSystem struct {
	UUID       string `json:"uuid"`
	FreeBytes  int64  `json:"free_bytes"`
	FreeInodes int64  `json:"free_inodes"`
}

// FileSystemOf reads the superblock of an image's disk.
func (e *Engine) FileSystemOf(image store.Image) (FileSystem, error) {
	disk, err := os.Open(e.DiskOf(image))
	if err != nil {
		return FileSystem{}, fmt.Errorf("inspecting the image: %w", err)
	}
	defer func() { _ = disk.Close() }()
	v, err := volume.Open(disk, image.Size)
	if err != nil {
		return FileSystem{}, fmt.Errorf("inspecting %q: %w", disk.Name(), err)
	}
	s := v.Superblock()
	id := s.UUID
	return FileSystem{
		UUID:      fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]),
		FreeBytes: s.FreeBlocks * s.BlockSize, FreeInodes: s.FreeInodes,
	}, nil
}
