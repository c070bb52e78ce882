package rootfs

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// pathTree is a tree with links of every sort.
func pathTree(t *testing.T) *Tree {
	t.Helper()
	tree, err := Flatten(context.Background(), stack([]member{
		file("usr/bin/sh", "sh"), file("usr/lib/x/y", "y"), symlink("bin", "usr/bin"), symlink("lib", "/usr/lib"),
		symlink("sh", "../../bin/sh"), symlink("dangling", "usr/new/./file"), symlink("loop", "loop2"), symlink("loop2", "/loop"),
		symlink("self", "."), symlink("through", "usr/bin/sh/.."), symlink("gap", "no/../usr/bin"),
	}))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestLookupAndResolve(t *testing.T) {
	cases := []struct {
		path     string
		resolved string
		exists   bool
	}{
		{"/", "/", true},
		{"", "/", true},
		{"..", "/", true},
		{"usr/bin/sh", "/usr/bin/sh", true},
		{"/bin/sh", "/usr/bin/sh", true},
		{"bin//./sh/", "/usr/bin/sh", true},
		{"/sh", "/usr/bin/sh", true},
		{"lib/x/../x/y", "/usr/lib/x/y", true},
		{"lib/../bin/sh", "/usr/bin/sh", true}, // the parent of /usr/lib, not of /lib
		{"lib/../../sh", "/usr/bin/sh", true},
		{"self/self/bin/sh", "/usr/bin/sh", true},
		{"../../../bin", "/usr/bin", true},
		{"dangling", "/usr/new/file", false},
		{"no/such/./path/", "/no/such/path", false},
		{"bin/no/x", "/usr/bin/no/x", false},
		{"usr/bin/sh/x", "/usr/bin/sh/x", false},
		{"usr/no/../bin", "/usr/bin", false}, // as the kernel: there is no usr/no to leave
		{"through", "/usr/bin", false},
		{"gap/sh", "/usr/bin/sh", false},
	}
	tree := pathTree(t)
	for _, c := range cases {
		got, err := tree.Resolve(c.path)
		if err != nil || got != c.resolved {
			t.Errorf("Resolve(%q) = %q and error %v, want %q", c.path, got, err, c.resolved)
		}
		n, err := tree.Lookup(c.path)
		if c.exists && (err != nil || n == nil) {
			t.Errorf("Lookup(%q) = %v and error %v, want a node", c.path, n, err)
		}
		if !c.exists && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Lookup(%q) = %v and error %v, want an error that wraps fs.ErrNotExist", c.path, n, err)
		}
	}
}

func TestLoopsAreErrors(t *testing.T) {
	tree := pathTree(t)
	for _, path := range []string{"loop", "/loop2/x/y"} {
		_, lookupErr := tree.Lookup(path)
		_, resolveErr := tree.Resolve(path)
		addErr := tree.Add(path+"/new", &Node{Kind: FIFO})
		for _, err := range []error{lookupErr, resolveErr, addErr} {
			if !errors.Is(err, errLoop) || !strings.Contains(err.Error(), path) {
				t.Errorf("the error for %q is %v, want one of a loop that names the path", path, err)
			}
		}
	}
}

// The kernel follows 40 symlinks in one path and refuses the 41st.
func TestHopLimit(t *testing.T) {
	var members []member
	for i := range 41 {
		members = append(members, symlink(strings.Repeat("l", i+1), strings.Repeat("l", i)+"/."))
	}
	members[0] = file("l", "1")
	for i := range members[1:] {
		members[i+1].Link = strings.Repeat("l", i+1)
	}
	members = append(members, symlink(strings.Repeat("l", 42), strings.Repeat("l", 41)))
	tree, err := Flatten(context.Background(), stack(members))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Lookup(strings.Repeat("l", 41)); err != nil {
		t.Errorf("looking up a path through 40 symlinks: %v", err)
	}
	if _, err := tree.Lookup(strings.Repeat("l", 42)); !errors.Is(err, errLoop) {
		t.Errorf("looking up a path through 41 symlinks gave the error %v, want %v", err, errLoop)
	}
}

func TestAdd(t *testing.T) {
	tree := pathTree(t)
	link := &Node{Kind: Regular}
	added := []struct {
		path, real string
		node       *Node
	}{
		{"/lib/banger/agent", "/usr/lib/banger/agent", &Node{Kind: Regular, Mode: 0o755}},
		{"dangling/x", "/usr/new/file/x", &Node{Kind: FIFO}},
		{"bin/d", "/usr/bin/d", newDirectory()},
		{"../bin/d/e", "/usr/bin/d/e", &Node{Kind: Symlink, Target: "x"}},
		{"one", "/one", link},
		{"two", "/two", link},
	}
	for _, a := range added {
		if err := tree.Add(a.path, a.node); err != nil {
			t.Errorf("adding %q: %v", a.path, err)
			continue
		}
		if got := at(tree, a.real); got != a.node {
			t.Errorf("after adding %q, %q is %+v, want the added node", a.path, a.real, got)
		}
	}
	if d := at(tree, "/usr/lib/banger"); d.Mode != 0o755 || d.UID != 0 || d.GID != 0 {
		t.Errorf("the parent that Add made is %+v, want a directory 0755 of root", d)
	}
	if link.Links != 2 {
		t.Errorf("the node added twice has %d names, want 2", link.Links)
	}
	checkInvariants(t, tree)
}

// at returns the node at a path without symlinks, or nil.
func at(tree *Tree, path string) *Node {
	n := tree.Root
	for _, name := range split(path) {
		n = n.child(name)
	}
	return n
}

func TestAddRefuses(t *testing.T) {
	cases := []struct {
		path string
		is   error
	}{
		{"/", fs.ErrExist},
		{"a/..", fs.ErrExist},
		{"usr/bin/sh", fs.ErrExist},
		{"bin", fs.ErrExist},
		{"dangling", fs.ErrExist},
		{"usr/bin/sh/x", errNotDir},
		{"usr/bin/sh/x/y", errNotDir},
		{"sh/x", errNotDir},
		{strings.Repeat("n", 256), errNameLong},
		{"a/b\x00c/d", errNameNUL},
	}
	tree := pathTree(t)
	before := describe(t, tree)
	for _, c := range cases {
		err := tree.Add(c.path, &Node{Kind: Regular})
		if !errors.Is(err, c.is) {
			t.Errorf("adding %q gave the error %v, want %v", c.path, err, c.is)
		}
	}
	if after := describe(t, tree); !slices.Equal(before, after) {
		t.Errorf("a refused Add changed the tree:\n%s", diffLines(after, before))
	}
}

// Replace takes one name away from what was there, and leaves directories alone.
func TestReplace(t *testing.T) {
	tree := pathTree(t)
	old := at(tree, "/usr/bin/sh")
	if err := tree.Add("/other name", old); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"bin/sh", "dangling", "usr/bin/new"} {
		n := &Node{Kind: Regular}
		if err := tree.Replace(path, n); err != nil || n.Links != 1 {
			t.Errorf("replacing %q gave the error %v and %d names, want none and 1", path, err, n.Links)
		}
	}
	if old.Links != 1 || at(tree, "/other name") != old || at(tree, "/usr/bin/sh") == old {
		t.Errorf("the replaced file has %d names, want the other one", old.Links)
	}
	checkInvariants(t, tree)
	before := describe(t, tree)
	for path, n := range map[string]*Node{
		"usr/bin": {Kind: Regular}, "usr/lib": {Kind: Directory}, "usr/bin/sh": {Kind: Directory}, "/": {Kind: Regular},
	} {
		if err := tree.Replace(path, n); !errors.Is(err, fs.ErrExist) {
			t.Errorf("replacing %q by a node of kind %d gave the error %v, want %v", path, n.Kind, err, fs.ErrExist)
		}
	}
	if after := describe(t, tree); !slices.Equal(before, after) {
		t.Errorf("a refused Replace changed the tree:\n%s", diffLines(after, before))
	}
}

func TestWalkOrder(t *testing.T) {
	tree, err := Flatten(context.Background(), stack([]member{file("b/z", ""), file("b.c", ""), file("b/a/x", ""), file("B", ""), file("\xff", ""), file("a", "")}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	stop := errors.New("stop")
	err = tree.Walk(func(path string, _ *Node) error {
		got = append(got, path)
		if path == "/b.c" {
			return stop
		}
		return nil
	})
	if want := []string{"/", "/B", "/a", "/b", "/b/a", "/b/a/x", "/b/z", "/b.c"}; !slices.Equal(got, want) {
		t.Errorf("Walk went to %q, want %q", got, want)
	}
	if !errors.Is(err, stop) {
		t.Errorf("Walk returned %v, want the function's error", err)
	}
}
