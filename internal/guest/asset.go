package guest

import (
	"errors"
	"io/fs"

	"github.com/banger-vm/banger/internal/rootfs"
)

// Asset is one file, directory or symbolic link that banger adds to an image.
type Asset struct {
	Path string       // absolute and clean, without symbolic links on the way to its last component
	Node *rootfs.Node // a Directory (its Children are not looked at), Regular or Symlink
}

// Add puts the assets that Assets chose for the tree into it: a file or symbolic link that is there already is renewed,
// a directory is left as it is. No other node of the tree changes, not even the times of the directories that get new
// names. The assets' nodes belong to the tree from then on. What stands in the way is a fault.Conflict.
func Add(t *rootfs.Tree, assets []Asset) error {
	for _, a := range assets {
		if err := add(t, a); errors.Is(err, fs.ErrExist) {
			return conflict(a.Path, fs.ErrExist)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func add(t *rootfs.Tree, a Asset) error {
	if a.Node.Kind != rootfs.Directory {
		return t.Replace(a.Path, a.Node)
	}
	if there, err := t.Lookup(a.Path); err == nil && there.Kind == rootfs.Directory {
		return nil
	}
	return t.Add(a.Path, a.Node)
}
