package rootfs

import (
	"maps"
	"slices"
)

// Walk calls fn for every name in the tree with its absolute path ("/" is the root): a directory before what is in it,
// and the names of a directory in the order of their bytes. A node with several names comes once for each. It stops
// at fn's first error and returns it. fn may change the attributes of a node, but not add or remove names.
func (t *Tree) Walk(fn func(path string, n *Node) error) error {
	if err := fn("/", t.Root); err != nil {
		return err
	}
	// A stack of its own, and not the goroutine's, because a path may have very many components.
	for todo := []visit{{"", t.Root}}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if v.path != "" {
			if err := fn(v.path, v.node); err != nil {
				return err
			}
		}
		todo = v.appendChildren(todo)
	}
	return nil
}

// visit is a node that Walk has still to visit. The root's path is "", so that appending "/name" gives its children's.
type visit struct {
	path string
	node *Node
}

// appendChildren appends the children of a visited node, the first name last, so that it is visited next.
func (v visit) appendChildren(todo []visit) []visit {
	names := slices.Sorted(maps.Keys(v.node.Children))
	for _, name := range slices.Backward(names) {
		todo = append(todo, visit{v.path + "/" + name, v.node.Children[name]})
	}
	return todo
}
