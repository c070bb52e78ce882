package rootfs

import "time"

// newDirectory returns a directory that no layer describes: 0755, root, and the epoch as its time, so that equal
// layers give equal trees.
func newDirectory() *Node {
	return &Node{Kind: Directory, Mode: 0o755, MTime: time.Unix(0, 0).UTC()}
}

// child returns the node that n has under name, or nil. n may be nil or no directory.
func (n *Node) child(name string) *Node {
	if n == nil || n.Kind != Directory {
		return nil
	}
	return n.Children[name]
}

// put makes child stand under name in the directory n, in place of whatever is there.
func (n *Node) put(name string, child *Node) {
	n.remove(name)
	if n.Children == nil {
		n.Children = make(map[string]*Node)
	}
	n.Children[name] = child
	if child.Kind != Directory {
		child.Links++
	}
}

// remove takes name out of the directory n. A file loses one name; a directory is emptied as well, so that each file
// below it loses the names that it had there. Removing what is not there does nothing.
func (n *Node) remove(name string) {
	gone, ok := n.Children[name]
	if !ok {
		return
	}
	delete(n.Children, name)
	for todo := []*Node{gone}; len(todo) > 0; {
		last := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if last.Kind != Directory {
			last.Links--
			continue
		}
		for _, child := range last.Children {
			todo = append(todo, child)
		}
		last.Children = nil
	}
}
