package imagepull

// What mke2fs makes of a size in bytes.
const (
	blockSize = 4096
	// smallLimit is the size below which mke2fs makes an inode per smallRatio bytes instead of one per inodeRatio
	// (mke2fs.conf(5), the "small" type), and blocks of 1 KiB.
	smallLimit = 512 << 20
	smallRatio = 4096
	inodeRatio = 16384
)

// capacity returns how many bytes of blocks a file system of this size leaves for files: what remains after the
// journal, the inode tables, the reserved descriptor blocks and the bitmaps of mke2fs.
func capacity(size int64) int64 {
	const descriptors = 2 << 20
	tables := inodeCount(size) * 256
	return size - size/50 - tables - journalSize(size) - descriptors
}

func inodeCount(size int64) int64 {
	if size < smallLimit {
		return size / smallRatio
	}
	return size / inodeRatio
}

// journalSize returns the size of the journal that mke2fs makes (ext2fs_default_journal_size in e2fsprogs).
func journalSize(size int64) int64 {
	blocks := size / blockSize
	switch {
	case size < smallLimit: // 1 KiB blocks
		return 16 << 20
	case blocks < 256*1024:
		return 4096 * blockSize
	case blocks < 512*1024:
		return 8192 * blockSize
	case blocks < 4096*1024:
		return 16384 * blockSize
	case blocks < 8192*1024:
		return 32768 * blockSize
	case blocks < 16384*1024:
		return 65536 * blockSize
	case blocks < 32768*1024:
		return 131072 * blockSize
	}
	return 262144 * blockSize
}
