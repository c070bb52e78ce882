package rootfs

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/layer"
)

func TestUsageOfTree(t *testing.T) {
	tree, err := Flatten(context.Background(), stack([]member{
		file("d/a", strings.Repeat("x", 5000)), hardlink("d/b", "d/a"), hardlink("c", "d/a"), file("e", ""),
		symlink("short", strings.Repeat("t", 59)), symlink("long", strings.Repeat("t", 60)), hardlink("long2", "long"),
		device("null", layer.CharDevice, 1, 3),
	}))
	if err != nil {
		t.Fatal(err)
	}
	// Data of a: 2; directories: 2; the long symlink: 1.
	want := Usage{Inodes: 7, Names: 10, Bytes: 5000, Blocks: 5}
	if got := tree.Usage(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBlocks(t *testing.T) {
	const mib, gib = int64(1) << 20, int64(1) << 30
	extents := func(pairs ...int64) []layer.Extent {
		var list []layer.Extent
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, layer.Extent{Logical: pairs[i], Length: pairs[i+1]})
		}
		return list
	}
	cases := []struct {
		name    string
		extents []layer.Extent
		data    int64
		runs    int64
		maps    int64
	}{
		{"nothing", nil, 0, 0, 0},
		{"an empty extent", extents(0, 0), 0, 0, 0},
		{"one byte", extents(0, 1), 1, 1, 0},
		{"one block", extents(0, 4096), 1, 1, 0},
		{"one byte more", extents(0, 4097), 2, 1, 0},
		{"two bytes across a border", extents(4095, 2), 2, 1, 0},
		{"two extents in one block", extents(0, 10, 100, 10), 1, 1, 0},
		{"two extents that meet in a block", extents(0, 5000, 5000, 5000), 3, 1, 0},
		{"two that touch", extents(0, 4096, 4096, 4096), 2, 1, 0},
		{"a hole between", extents(0, 4096, 8192, 4096), 2, 2, 0},
		{"beyond 4 GiB", extents(5*gib, 8192), 2, 1, 0},
		{"128 MiB", extents(0, 128*mib), 32768, 1, 0},
		{"256 MiB", extents(0, 256*mib), 65536, 1, 1},
		{"100 GiB", extents(0, 100*gib), 100 * gib / 4096, 1, 5 + 1},
	}
	for _, c := range cases {
		data, runs := dataBlocks(&Node{Extents: c.extents})
		if data != c.data || runs != c.runs {
			t.Errorf("%s: %d blocks in %d runs, want %d in %d", c.name, data, runs, c.data, c.runs)
		}
		if maps := mapBlocks(data, runs); maps != c.maps {
			t.Errorf("%s: %d blocks of the extent tree, want %d", c.name, maps, c.maps)
		}
	}
}

func TestDirectoryBlocks(t *testing.T) {
	names := func(count, length int) map[string]*Node {
		m := make(map[string]*Node)
		for i := range count {
			m[fmt.Sprintf("%0*d", length, i)] = nil
		}
		return m
	}
	cases := []struct {
		count, length int
		want          int64 // blocks
	}{
		{0, 1, 1},
		{1, 255, 1},
		{(4096 - 12 - 24) / 16, 8, 1},
		{(4096-12-24)/16 + 1, 8, 2 + 1},
		{15, 255, 1},
		{16, 255, 2 + 1},
		{30, 255, 3 + 1},
		{10_000, 8, 40 + 1},
		{507 * 254, 8, 507 + 1},
		{507 * 255, 8, 509 + 1 + 1},
	}
	for _, c := range cases {
		if got := directoryBlocks(names(c.count, c.length)); got != c.want {
			t.Errorf("%d names of %d bytes: %d blocks, want %d", c.count, c.length, got, c.want)
		}
	}
}

func TestXattrBlocks(t *testing.T) {
	capability := layer.Xattr{Name: "security.capability", Value: strings.Repeat("c", 20)}
	cases := []struct {
		name   string
		xattrs []layer.Xattr
		want   int64
	}{
		{"none", nil, 0},
		{"a capability", []layer.Xattr{capability}, 0},
		{"one with an empty value", []layer.Xattr{{Name: "user.overlay.origin"}}, 0},
		{"a long one", []layer.Xattr{{Name: "user.a", Value: strings.Repeat("v", 69)}}, 1},
		{"two that do not fit together", []layer.Xattr{capability, {Name: "user.a", Value: strings.Repeat("v", 30)}}, 1},
	}
	for _, c := range cases {
		if got := xattrBlocks(c.xattrs); got != c.want {
			t.Errorf("%s: %d blocks, want %d", c.name, got, c.want)
		}
	}
}

// The blocks that mkfs.ext4 takes for a staged tree are no more than Usage says, and not many fewer.
func TestUsageCoversMkfs(t *testing.T) {
	var members []member
	for i := range 3000 {
		members = append(members, file(fmt.Sprintf("d%d/%s%d", i%3, strings.Repeat("n", i%200), i), strings.Repeat("x", 3*i)))
	}
	for i := range 50 {
		members = append(members, symlink(fmt.Sprint("l", i), strings.Repeat("t", 40+i)), hardlink(fmt.Sprint("h", i), members[i].Name))
	}
	members = append(members, file("big", strings.Repeat("x", 20<<20)))
	full := flatten(t, members)
	used := int64(usedBlocks(t, full) - usedBlocks(t, flatten(t)))
	want := full.Usage().Blocks - 1 // the root's own is in the empty file system as well
	if used > want || used < want*95/100 {
		t.Errorf("mkfs.ext4 takes %d blocks for the tree, and Usage says %d", used, want)
	}
}

// usedBlocks returns how many blocks of a file system that mkfs.ext4 makes of the tree are in use.
func usedBlocks(t *testing.T, tree *Tree) int {
	t.Helper()
	staged, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	if err := Stage(t.Context(), tree, staged); err != nil {
		t.Fatal(err)
	}
	mkfs := exec.Command(requireTool(t, "mkfs.ext4"), "-F", "-q", "-b", "4096", "-O", "^has_journal", "-d", staged, image, "128M")
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 failed: %v\n%s", err, out)
	}
	out, err := exec.Command(requireTool(t, "dumpe2fs"), "-h", image).Output()
	if err != nil {
		t.Fatalf("dumpe2fs failed: %v", err)
	}
	return numberAfter(t, out, "Block count") - numberAfter(t, out, "Free blocks")
}

func numberAfter(t *testing.T, text []byte, label string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + label + `: +(\d+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("dumpe2fs does not say %q:\n%s", label, text)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
