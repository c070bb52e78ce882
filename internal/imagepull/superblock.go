package imagepull

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/banger-vm/banger/internal/fault"
)

// superblock is what banger needs to know of an ext4 file system.
type superblock struct {
	blockSize  int64 // bytes
	blocks     int64
	freeBlocks int64 // right only while the file system is clean
	unclean    bool  // the journal has to be replayed first
}

// readSuperblock reads the superblock of the ext4 file system in file: the 1024 bytes at 1024, with the offsets of
// struct ext4_super_block (Linux fs/ext4/ext4.h). Anything else is a fault.Unsupported.
func readSuperblock(file string) (superblock, error) {
	f, err := os.Open(file)
	if err != nil {
		return superblock{}, err
	}
	defer func() { _ = f.Close() }()
	raw := make([]byte, 1024)
	if _, err := f.ReadAt(raw, 1024); err != nil {
		return superblock{}, fmt.Errorf("reading the superblock of %q: %w", file, err)
	}
	s, err := parseSuperblock(raw)
	if err != nil {
		return superblock{}, fmt.Errorf("reading the superblock of %q: %w", file, err)
	}
	return s, nil
}

// parseSuperblock decodes the 1024 bytes of a superblock.
func parseSuperblock(raw []byte) (superblock, error) {
	const (
		magic             = 0xEF53 // s_magic
		recoverFeature    = 0x0004 // INCOMPAT_RECOVER
		wideFeature       = 0x0080 // INCOMPAT_64BIT
		largestLogBlock   = 6      // 64 KiB
		smallestBlockSize = 1024
	)
	field := func(offset int) int64 { return int64(binary.LittleEndian.Uint32(raw[offset:])) }
	logBlock := field(0x18)
	if binary.LittleEndian.Uint16(raw[0x38:]) != magic || logBlock > largestLogBlock {
		return superblock{}, fault.New(fault.Unsupported, errors.New("not an ext4 file system"), "")
	}
	s := superblock{
		blockSize:  smallestBlockSize << logBlock,
		blocks:     field(0x04),
		freeBlocks: field(0x0C),
		unclean:    field(0x60)&recoverFeature != 0,
	}
	if field(0x60)&wideFeature != 0 {
		s.blocks |= field(0x150) << 32
		s.freeBlocks |= field(0x158) << 32
	}
	return s, nil
}

// checkSize asserts that the file system fills a file of size bytes, but for a last group too small to be of use, and
// that something of it is free. It guards against a size in the wrong unit.
func (s superblock) checkSize(size int64) error {
	if got := s.blocks * s.blockSize; got > size || got < size-size/8 {
		return fmt.Errorf("mkfs.ext4 made a file system of %d bytes in a file of %d", got, size)
	}
	if s.freeBlocks == 0 {
		return fault.New(fault.NoSpace, errors.New("the file system has no free block"), sizeHint)
	}
	return nil
}
