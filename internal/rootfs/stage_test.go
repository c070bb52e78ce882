package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/layer"
)

// flatten returns the tree of these layers.
func flatten(t *testing.T, layers ...[]member) *Tree {
	t.Helper()
	tree, err := Flatten(context.Background(), stack(layers...))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// stagedLines returns a line for everything below dir, as the host's file system has it.
func stagedLines(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		line, err := stagedLine(name, strings.TrimPrefix(name, dir))
		lines = append(lines, line)
		return err
	})
	if err != nil {
		t.Fatalf("reading the staged tree: %v", err)
	}
	return lines
}

func stagedLine(name, path string) (string, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	var extra string
	switch info.Mode().Type() {
	case fs.ModeDir:
		return fmt.Sprintf("%s %v", path, info.Mode()), nil
	case fs.ModeSymlink:
		extra, err = os.Readlink(name)
	case 0:
		var content []byte
		content, err = os.ReadFile(name)
		extra = string(content)
	}
	if st.Uid != uint32(os.Geteuid()) {
		err = fmt.Errorf("%q belongs to %d", name, st.Uid)
	}
	return strings.TrimSpace(fmt.Sprintf("%s %v %d %s", path, info.Mode(), st.Nlink, extra)), err
}

func TestStage(t *testing.T) {
	tree := flatten(t, []member{
		dir("/").mode(0o555), file("usr/bin/sh", "shell").mode(0o4111).owner(7, 8), file("empty", "").mode(0),
		symlink("bin", "usr/bin"), symlink("abs", "/etc/../../etc/passwd"), hardlink("bin/dash", "usr/bin/sh"),
		hardlink("zz", "bin/sh"), hardlink("bin2", "bin"), fifo("run/p"), hardlink("run/p2", "run/p"),
		device("dev/null", layer.CharDevice, 1, 3), hardlink("dev/null2", "dev/null"), dir("tmp").mode(0o1777).owner(1, 1),
		file("odd/\xff\n\"\\ -", "name"),
	})
	staged := t.TempDir()
	if err := Stage(t.Context(), tree, staged); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/abs Lrwxrwxrwx 1 /etc/../../etc/passwd",
		"/bin Lrwxrwxrwx 2 usr/bin",
		"/bin2 Lrwxrwxrwx 2 usr/bin",
		"/dev drwx------",
		"/empty -rw------- 1",
		"/odd drwx------",
		"/odd/\xff\n\"\\ - -rw------- 1 name",
		"/run drwx------",
		"/run/p prw------- 2",
		"/run/p2 prw------- 2",
		"/tmp drwx------",
		"/usr drwx------",
		"/usr/bin drwx------",
		"/usr/bin/dash -rw------- 3 shell",
		"/usr/bin/sh -rw------- 3 shell",
		"/zz -rw------- 3 shell",
	}
	if diff := diffLines(stagedLines(t, staged), want); diff != "" {
		t.Errorf("the staged directory is wrong:\n%s", diff)
	}
}

// data returns a regular file of size bytes with these extents of the content.
func sparse(name, content string, size int64, extents ...layer.Extent) member {
	m := file(name, content)
	m.Size, m.Extents = size, extents
	return m
}

func TestStageHoles(t *testing.T) {
	const mib = 1 << 20
	block := strings.Repeat("x", 4096)
	zeros := strings.Repeat("\x00", 3*mib)
	cases := []struct {
		name   string
		member member
		blocks int64 // of 4096 bytes, at most
	}{
		{"a hole before and after the data", sparse("f", block, 64*mib, layer.Extent{Logical: 32 * mib, Length: 4096}), 1},
		{"only a hole", sparse("f", "", 1<<40), 0},
		{"zeros that are data", file("f", zeros), 0},
		{"data among zeros", file("f", zeros+"abc"+zeros+block+zeros+"z"), 4},
		{"data that is not aligned", sparse("f", "\x00"+zeros[:8192]+"y"+zeros+"z", 5*mib, layer.Extent{Logical: 4095, Length: 8194 + 3*mib + 1}), 2},
		{"many extents that share blocks", sparse("f", "abcd", 8193, layer.Extent{Logical: 1, Length: 1},
			layer.Extent{Logical: 3, Offset: 1, Length: 1}, layer.Extent{Logical: 8191, Offset: 2, Length: 2}), 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree := flatten(t, []member{c.member})
			staged := t.TempDir()
			if err := Stage(t.Context(), tree, staged); err != nil {
				t.Fatal(err)
			}
			compareFile(t, filepath.Join(staged, "f"), at(tree, "/f"))
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(staged, "f"), &st); err != nil {
				t.Fatal(err)
			}
			if st.Blocks*512 > c.blocks*4096 {
				t.Errorf("the file takes %d bytes of the disk, want at most %d blocks", st.Blocks*512, c.blocks)
			}
		})
	}
}

// compareFile fails the test unless the file has the node's content; of very large files it compares the size alone.
func compareFile(t *testing.T, name string, n *Node) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil || info.Size() != n.Size {
		t.Fatalf("%q is %v with error %v, want %d bytes", name, info, err, n.Size)
	}
	if n.Size > 1<<30 {
		return
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(n.Open())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q has another content than the tree", name)
	}
}

// An image can name any path of the host: as a name, as a symlink's target on the way to a name, in whiteouts and in
// hard links. Nothing of the host may be changed, and nothing of it may come into the tree.
func TestStageStaysInside(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "passwd")
	if err := os.WriteFile(victim, []byte("host"), 0o640); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40)
	layers := [][]member{
		{symlink("etc", outside), symlink("rel", up+outside), symlink("passwd", victim), symlink("root", "/")},
		{
			file("etc/passwd", "guest"), file("rel/shadow", "guest"), gone("etc/.wh.group"), file("root/"+outside+"/x", "guest"),
			file("passwd", "guest"), file(up+outside+"/y", "guest"), file(outside+"/z", "guest"),
		},
		{
			gone("etc/.wh.passwd"), gone("rel/.wh..wh..opq"), hardlink("etc/link", "etc/new"), file("rel/new", "guest"),
			hardlink("here", up+outside+"/new"), dir("etc/sub").mode(0o777), symlink("passwd", victim),
		},
		{hardlink("copy", "passwd"), symlink("etc/back", outside), file("etc/back/w", "guest")},
	}
	before := stagedLines(t, outside)
	for depth := range layers {
		staged := t.TempDir()
		if err := Stage(t.Context(), flatten(t, layers[:depth+1]...), staged); err != nil {
			t.Fatal(err)
		}
		for _, line := range stagedLines(t, staged) {
			if strings.HasSuffix(line, "host") {
				t.Errorf("with %d layers a file of the host came into the tree: %s", depth+1, line)
			}
		}
	}
	if after := stagedLines(t, outside); !slices.Equal(before, after) {
		t.Errorf("the host's directory was changed:\n%s", diffLines(after, before))
	}
	if _, err := Flatten(context.Background(), stack(layers[0], []member{hardlink("steal", "etc/passwd")})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a hard link to a file of the host gave the error %v, want %v", err, fs.ErrNotExist)
	}
}

func TestStagePathLongerThanTheKernelTakes(t *testing.T) {
	deep := strings.Repeat(strings.Repeat("n", 200)+"/", 40)
	tree := flatten(t, []member{file(deep+"f", "deep"), hardlink("a", deep+"f"), hardlink(deep+"g", "a"), hardlink("z", "a"), file("zz", "last")})
	staged := t.TempDir()
	if err := Stage(t.Context(), tree, staged); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "deep", "z": "deep", "zz": "last"} {
		if got, err := os.ReadFile(filepath.Join(staged, name)); string(got) != want {
			t.Errorf("%s has %q and error %v, want %q", name, got, err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(staged, "a"), &st); err != nil || st.Nlink != 4 {
		t.Errorf("the file has %d names and error %v, want 4", st.Nlink, err)
	}
}

// hook is a blob that does something when it is read.
type hook func() error

func (h hook) ReadAt(p []byte, _ int64) (int, error) {
	if err := h(); err != nil {
		return 0, err
	}
	clear(p)
	p[0] = 1
	return len(p), nil
}

// hooked returns a tree in which the content of /d/hook calls h when it is staged, with files on both sides.
func hooked(t *testing.T, h hook) *Tree {
	tree := flatten(t, []member{file("a", "1"), file("d/a", "2"), file("d/hook", "3"), file("d/z", "4"), file("z", "5")})
	at(tree, "/d/hook").Source = h
	return tree
}

func TestStageErrors(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	many := flatten(t, []member{file("a", "1"), hardlink("b", "a")})
	many.Root.Children["a"].Links = maxLinks + 1
	short := flatten(t, []member{file("d/short", "1")})
	at(short, "/d/short").Source = strings.NewReader("")
	long := flatten(t)
	long.Root.put(strings.Repeat("n", 256), &Node{Kind: FIFO})
	cases := []struct {
		name string
		ctx  context.Context
		tree *Tree
		is   error
		kind fault.Kind
		path string
	}{
		{"cancelled", ended, many, context.Canceled, fault.Failure, "/"},
		{"too many names", t.Context(), many, unix.EMLINK, fault.Unsupported, "/a"},
		{"short blob", t.Context(), short, io.ErrUnexpectedEOF, fault.Failure, "/d/short"},
		{"full disk", t.Context(), hooked(t, func() error { return unix.ENOSPC }), unix.ENOSPC, fault.NoSpace, "/d/hook"},
		{"quota", t.Context(), hooked(t, func() error { return unix.EDQUOT }), unix.EDQUOT, fault.NoSpace, "/d/hook"},
		{"name that the host does not take", t.Context(), long, unix.ENAMETOOLONG, fault.Failure, "/nnn"},
		{"node without a kind", t.Context(), &Tree{Root: &Node{Kind: Directory, Children: map[string]*Node{"x": {}}}}, errEntryType, fault.Failure, "/x"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := Stage(c.ctx, c.tree, t.TempDir())
			if !errors.Is(err, c.is) || fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), `"`+c.path) {
				t.Errorf("got the error %v of kind %d, want %v of kind %d naming %q", err, fault.KindOf(err), c.is, c.kind, c.path)
			}
		})
	}
}

func TestStageCancelledWithinAFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tree := hooked(t, func() error { cancel(); return nil })
	n := at(tree, "/d/hook")
	n.Size, n.Extents = 1<<40, []layer.Extent{{Length: 1 << 40}}
	if err := Stage(ctx, tree, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("got the error %v, want %v", err, context.Canceled)
	}
}

func TestStageRefusesDirectory(t *testing.T) {
	base := t.TempDir()
	full := filepath.Join(base, "full")
	if err := os.Mkdir(full, 0o700); err != nil {
		t.Fatal(err)
	}
	regular := filepath.Join(full, "file")
	if err := os.WriteFile(regular, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		dir string
		is  error
	}{
		{full, errNotEmpty},
		{regular, unix.ENOTDIR},
		{filepath.Join(base, "missing"), fs.ErrNotExist},
	}
	for _, c := range cases {
		err := Stage(t.Context(), flatten(t, []member{file("a", "1")}), c.dir)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.dir) {
			t.Errorf("staging into %q gave the error %v, want %v with the name", c.dir, err, c.is)
		}
	}
	if got := stagedLines(t, base); len(got) != 2 {
		t.Errorf("after the refusals there is %q, want only what was there", got)
	}
}

// Somebody who can write in the directory plants a symlink where a file is to come, or moves a directory away.
func TestStageAgainstChanges(t *testing.T) {
	outside := t.TempDir()
	cases := []struct {
		name   string
		change func(staged string) error
		is     error
	}{
		{"a symlink planted at a name", func(s string) error { return os.Symlink(filepath.Join(outside, "x"), s+"/d/z") }, fs.ErrExist},
		{"the directory moved", func(s string) error {
			return os.Rename(s+"/d", filepath.Join(outside, "moved"))
		}, errMoved},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			staged := t.TempDir()
			tree := hooked(t, func() error { return c.change(staged) })
			if err := Stage(t.Context(), tree, staged); !errors.Is(err, c.is) {
				t.Errorf("got the error %v, want %v", err, c.is)
			}
			for _, name := range []string{"x", "z"} {
				if _, err := os.Lstat(filepath.Join(outside, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%q was made outside of the directory (%v)", name, err)
				}
			}
		})
	}
}

func TestStageClosesEverything(t *testing.T) {
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	deep := strings.Repeat("d/", 200)
	fine := flatten(t, []member{file(deep+"f", "1"), hardlink(deep+"g", deep+"f"), file("e/f", "2")})
	before, during := open(), 0
	at(fine, "/e/f").Source = hook(func() error { during = open(); return nil })
	for _, tree := range []*Tree{fine, hooked(t, func() error { return io.ErrClosedPipe })} {
		_ = Stage(t.Context(), tree, t.TempDir())
	}
	if after := open(); after != before {
		t.Errorf("Stage left %d descriptors open", after-before)
	}
	if during-before > 5 {
		t.Errorf("Stage has %d descriptors open at once, want few at any depth", during-before)
	}
}

// BenchmarkStage stages a tree of the size of a Debian with a desktop's libraries.
func BenchmarkStage(b *testing.B) {
	content := strings.Repeat("0123456789abcdef", 512)
	var members []member
	for i := range 36_000 {
		members = append(members, file(fmt.Sprintf("usr/share/%d/%d", i/20, i), content))
	}
	tree, err := Flatten(context.Background(), stack(members))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		if err := Stage(b.Context(), tree, dir); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlatten merges a million entries.
func BenchmarkFlatten(b *testing.B) {
	var members []member
	for i := range 1_000_000 {
		members = append(members, file(fmt.Sprintf("usr/share/%d/%d", i/20, i), ""))
	}
	layers := stack(members)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Flatten(context.Background(), layers); err != nil {
			b.Fatal(err)
		}
	}
}
