package volume

import (
	"fmt"

	"github.com/banger-vm/banger/internal/layer"
)

// inlineParts returns where the data of an inode with inline data is, as parts of the inode: the 60 bytes of i_block,
// and the value of the attribute system.data (Documentation/filesystems/ext4, "Inline Data").
func (v *Volume) inlineParts(in *Inode) ([]raw, []int, error) {
	if !v.super.hasIncompat(incompatInlineData) {
		return nil, nil, corrupt("inode %d has inline data, the file system has not the feature", in.Number)
	}
	attrs, err := v.bodyAttrs(in)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range attrs {
		if a.index != indexSystem || a.name != inlineDataName {
			continue
		}
		if a.inode != 0 {
			return nil, nil, corrupt("the inline data of inode %d is in inode %d", in.Number, a.inode)
		}
		return []raw{in.iBlock(), a.value}, []int{iBlockAt, a.at}, nil
	}
	return nil, nil, corrupt("inode %d has inline data without an attribute for it", in.Number)
}

// inlineExtents returns the extents of a file with inline data.
func (v *Volume) inlineExtents(in *Inode) ([]layer.Extent, error) {
	parts, at, err := v.inlineParts(in)
	if err != nil {
		return nil, err
	}
	var extents []layer.Extent
	logical := int64(0)
	for i, part := range parts {
		if length := min(int64(len(part)), in.Size-logical); length > 0 {
			extents = append(extents, layer.Extent{Logical: logical, Offset: in.offset + int64(at[i]), Length: length})
			logical += length
		}
	}
	if logical < in.Size {
		return nil, corrupt("inode %d has %d bytes of inline data for the size %d", in.Number, logical, in.Size)
	}
	return extents, nil
}

// inlineBytes returns the content of an inode with inline data.
func (v *Volume) inlineBytes(in *Inode) (raw, error) {
	parts, _, err := v.inlineParts(in)
	if err != nil {
		return nil, err
	}
	content := append(append(raw{}, parts[0]...), parts[1]...)
	if int64(len(content)) < in.Size {
		return nil, corrupt("inode %d has %d bytes of inline data for the size %d", in.Number, len(content), in.Size)
	}
	return content[:in.Size], nil
}

// readInlineDir reads a directory without blocks: the inode that ".." names, and then entries, which stay within
// either part (fs/ext4/inline.c).
func (v *Volume) readInlineDir(d *directory) error {
	parts, _, err := v.inlineParts(d.in)
	if err != nil {
		return err
	}
	d.self, d.parent = d.in.Number, parts[0].u32(0)
	parts[0] = parts[0][4:]
	for _, part := range parts {
		if err := v.appendEntries(d, part); err != nil {
			return fmt.Errorf("inline data: %w", err)
		}
	}
	return nil
}
