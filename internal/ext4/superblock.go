package ext4

// Features (fs/ext4/ext4.h, EXT4_FEATURE_*).
const (
	compatHasJournal  = 0x0004
	compatExtAttr     = 0x0008
	compatResizeInode = 0x0010
	compatDirIndex    = 0x0020

	incompatFiletype = 0x0002
	incompatExtents  = 0x0040
	incompat64Bit    = 0x0080
	incompatFlexBG   = 0x0200

	roCompatSparseSuper  = 0x0001
	roCompatLargeFile    = 0x0002
	roCompatHugeFile     = 0x0008
	roCompatDirNlink     = 0x0020
	roCompatExtraIsize   = 0x0040
	roCompatMetadataCsum = 0x0400
)

const (
	superMagic    = 0xEF53
	superOffset   = 1024 // of the superblock in the file system; a backup is at the beginning of its block
	superSize     = 1024
	superSumAt    = 0x3FC
	unsignedHash  = 2      // EXT2_FLAGS_UNSIGNED_HASH, in s_flags
	mountXattrACL = 0x000C // EXT4_DEFM_XATTR_USER and EXT4_DEFM_ACL, in s_default_mount_opts
	crc32c        = 1      // EXT4_CRC32C_CHKSUM
)

// writeSuper writes the superblock, or its backup, at the beginning of a group, and the descriptors behind it.
func (w *writer) writeSuper(group uint32, label string, descriptors record) error {
	first := w.groupStart(group)
	b, err := w.sink.block(first)
	if err != nil {
		return err
	}
	if group == 0 {
		b = b[superOffset:]
	}
	w.encodeSuper(b[:superSize], group, label)
	for i := range w.descriptorBlocks {
		b, err := w.sink.block(first + 1 + i)
		if err != nil {
			return err
		}
		copy(b, descriptors[i*BlockSize:])
	}
	return nil
}

// encodeSuper fills in struct ext4_super_block of fs/ext4/ext4.h. All times are 0: there is no clock. Nothing is reserved
// for root, because a VM's disk is full when it is full.
func (w *writer) encodeSuper(b record, group uint32, label string) {
	b.u32(0x00, w.inodeCount())
	b.split64(0x04, 0x150, uint64(w.blocks))
	b.split64(0x0C, 0x158, uint64(w.freeBlocks()))
	b.u32(0x10, w.inodeCount()-w.last()) // s_free_inodes_count
	b.u32(0x18, 2)                       // s_log_block_size: 1024 << 2
	b.u32(0x1C, 2)                       // s_log_cluster_size
	b.u32(0x20, blocksPerGroup)
	b.u32(0x24, blocksPerGroup) // s_clusters_per_group
	b.u32(0x28, w.inodesPerGroup)
	b.u16(0x36, 0xFFFF) // s_max_mnt_count: never checked for being mounted often
	b.u16(0x38, superMagic)
	b.u16(0x3A, 1) // s_state: clean
	b.u16(0x3C, 1) // s_errors: continue
	b.u32(0x4C, 1) // s_rev_level: dynamic
	b.u32(0x54, firstInode)
	b.u16(0x58, inodeSize)
	b.u16(0x5A, uint16(group)) // s_block_group_nr
	encodeFeatures(b)
	copy(b[0x68:0x78], w.uuid[:])
	copy(b[0x78:0x88], label)
	b.u16(0xCE, uint16(w.reservedBlocks))
	w.encodeJournalFields(b)
	for i, word := range w.hashSeed {
		b.u32(0xEC+4*i, word)
	}
	b[0xFC] = halfMD4 // s_def_hash_version
	b.u16(0xFE, descriptorSize)
	b.u32(0x100, mountXattrACL)
	b.u16(0x15C, extraSize) // s_min_extra_isize
	b.u16(0x15E, extraSize) // s_want_extra_isize
	b.u32(0x160, unsignedHash)
	b[0x174] = w.logFlex()
	b[0x175] = crc32c
	b.u32(superSumAt, checksum(^uint32(0), b[:superSumAt]))
}

func encodeFeatures(b record) {
	b.u32(0x5C, compatHasJournal|compatExtAttr|compatResizeInode|compatDirIndex)
	b.u32(0x60, incompatFiletype|incompatExtents|incompat64Bit|incompatFlexBG)
	b.u32(0x64, roCompatSparseSuper|roCompatLargeFile|roCompatHugeFile|roCompatDirNlink|roCompatExtraIsize|
		roCompatMetadataCsum)
}

// encodeJournalFields names the journal. s_journal_uuid stays zero: it would mean a journal on another disk. A copy of
// the inode's map and size is kept for e2fsck (s_jnl_blocks; EXT3_JNL_BACKUP_BLOCKS).
func (w *writer) encodeJournalFields(b record) {
	b.u32(0xE0, journalInode)
	b[0xFD] = 1 // s_jnl_backup_type
	inode := make(record, inodeSize)
	w.encodeInode(inode, journalInode)
	copy(b[0x10C:], inode[blockMapAt:blockMapAt+blockMapSize])
	copy(b[0x10C+blockMapSize:], inode[0x6C:0x70])   // i_size_high
	copy(b[0x10C+blockMapSize+4:], inode[0x04:0x08]) // i_size_lo
}

// logFlex returns the binary logarithm of the groups in a flex group.
func (g *geometry) logFlex() byte {
	var log byte
	for n := g.flex; n > 1; n /= 2 {
		log++
	}
	return log
}

// freeBlocks returns how many blocks are free.
func (w *writer) freeBlocks() uint32 {
	used := w.space.taken
	for _, r := range w.metadata() {
		used += r.end - r.start
	}
	return w.blocks - used
}
