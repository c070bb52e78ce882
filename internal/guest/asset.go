package guest

import "github.com/banger-vm/banger/internal/rootfs"

// Asset is one file, directory or symbolic link that banger adds to an image.
type Asset struct {
	Path string       // absolute and clean, without symbolic links on the way to its last component
	Node *rootfs.Node // a Directory (its Children are not looked at), Regular or Symlink
}
