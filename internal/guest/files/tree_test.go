package files

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/rootfs/treetest"
)

// forest makes random trees on a disk: every kind of file that the user of the test can make, odd names, hard links, holes,
// owners, modes and times at their limits, extended attributes and ACLs.
type forest struct {
	*rand.Rand
	t     *testing.T
	root  bool
	dirs  []string
	files []string
}

// grow makes a tree of so many names in an empty directory.
func grow(t *testing.T, seed uint64, dir string, names int) {
	t.Helper()
	f := &forest{Rand: rand.New(rand.NewPCG(seed, 1)), t: t, root: os.Geteuid() == 0, dirs: []string{dir}}
	for range names {
		f.add()
	}
	for i := len(f.dirs) - 1; i >= 0; i-- {
		f.dress(f.dirs[i], true)
	}
}

func (f *forest) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func oneOf[T any](f *forest, list ...T) T { return list[f.IntN(len(list))] }

func (f *forest) name() string {
	if f.IntN(3) > 0 {
		return fmt.Sprintf("n%d", f.IntN(1_000_000))
	}
	odd := []string{"a b", " lead", "trail ", "tab\there", "line\nfeed", `quo"te'`, `back\slash`, "-f", "*", "ünï", "\xff\xfe\x01bad",
		"...", " ", strings.Repeat("x", 255), ".banger-ABCDEFGHIJKLMNOP"}
	return oneOf(f, odd...)
}

func (f *forest) add() {
	path := oneOf(f, f.dirs...) + "/" + f.name()
	if _, err := os.Lstat(path); err == nil {
		return
	}
	switch f.IntN(10) {
	case 0, 1:
		f.must(os.Mkdir(path, 0o755))
		f.dirs = append(f.dirs, path)
		return
	case 2:
		f.must(os.Symlink(oneOf(f, "/etc/passwd", "..", "nothing\n\xff", strings.Repeat("y", 4000)), path))
		f.dress(path, false)
	case 3:
		f.must(unix.Mkfifo(path, 0o644))
		f.dress(path, true)
	case 4:
		if f.root {
			f.must(unix.Mknod(path, oneOf[uint32](f, unix.S_IFCHR, unix.S_IFBLK)|0o600, int(unix.Mkdev(f.Uint32N(4096), f.Uint32N(1<<20)))))
			f.dress(path, true)
		}
	case 5:
		if len(f.files) > 0 {
			f.must(os.Link(oneOf(f, f.files...), path))
		}
		return
	default:
		f.file(path)
		f.dress(path, true)
	}
	if _, err := os.Lstat(path); err == nil {
		f.files = append(f.files, path)
	}
}

// file makes a regular file with data and holes.
func (f *forest) file(path string) {
	file, err := os.Create(path)
	f.must(err)
	defer func() { f.must(file.Close()) }()
	for at := int64(0); f.IntN(4) > 0; {
		at += oneOf(f, 0, 0, 1, 4096, f.Int64N(3_000_000))
		data := bytes.Repeat([]byte{byte(f.UintN(256)), 7, 0}, oneOf(f, 1, 1000, 100_000, f.IntN(300_000)))
		_, err := file.WriteAt(data, at)
		f.must(err)
		at += int64(len(data))
	}
	if f.IntN(4) == 0 {
		info, err := file.Stat()
		f.must(err)
		f.must(file.Truncate(info.Size() + f.Int64N(1_000_000)))
	}
}

// dress gives a file random attributes.
func (f *forest) dress(path string, mode bool) {
	if f.root && f.IntN(2) == 0 {
		f.must(os.Lchown(path, int(f.Uint32N(1<<31)), int(f.Uint32N(70000))))
	}
	if mode {
		f.must(unix.Chmod(path, f.mode()))
		f.attributes(path)
	}
	when := time.Unix(f.Int64N(4_000_000_000)-1_000_000_000, f.Int64N(1e9))
	spec, err := unix.TimeToTimespec(when)
	f.must(err)
	f.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{spec, spec}, unix.AT_SYMLINK_NOFOLLOW))
}

// mode returns any mode for root, and for others one that lets them do what they like with what they have made.
func (f *forest) mode() uint32 {
	if f.root {
		return f.Uint32N(0o10000)
	}
	return f.Uint32N(0o1000) | 0o700
}

func (f *forest) attributes(path string) {
	info, err := os.Lstat(path)
	f.must(err)
	plain := info.Mode().IsRegular() || info.IsDir()
	set := func(name, value string) {
		if f.IntN(5) == 0 {
			if err := unix.Lsetxattr(path, name, []byte(value), 0); err != nil {
				f.t.Fatalf("setting %s of %s: %v", name, path, err)
			}
		}
	}
	if plain && info.Mode().Perm()&0o200 != 0 {
		set("user.x", strings.Repeat("v\x00", f.IntN(100)))
		set("user.odd \xff", "")
	}
	if !f.root {
		return
	}
	set("trusted.y", "z")
	if plain {
		set("system.posix_acl_access", treetest.ACL(f.Uint32N(1000)))
		set("security.capability", treetest.Capability(f.Uint32()))
	}
	if info.IsDir() {
		set("system.posix_acl_default", treetest.ACL(f.Uint32N(1000)))
	}
}

// describe lists a tree with everything that is kept of it, by tools of the machine. Links are told by the first name of
// the file; data by its hash and by where it lies.
func describe(t testing.TB, dir string) string {
	t.Helper()
	out := shell(t, dir, `
		export LC_ALL=C
		find . -printf '%p\t%y\t%m\t%U:%G\t%T@\t%n\t%l\n' | sort | od -An -c -w256 -v | tr -d ' ' | sed 's/\\n/\n/g' | tr -d '\n' | sed 's/\\t/ /g'
		find . -type f -size -2000k -print0 | sort -z | xargs -0r sha256sum
		find . -type f -printf '%p %s\n' | sort
		find . \( -type b -o -type c \) -print0 | sort -z | xargs -0r stat -c '%n %t %T'
		find . -print0 | sort -z | xargs -0r getfattr -h -d -m - -e hex 2>&1
		find . -type f -links +1 -printf '%i %p\0' | sort -z | awk -v RS='\0' '{n=$1; $1=""; if (!(n in first)) first[n]=$0; print $0 " = " first[n]}' | sort`)
	return out + extents(t, dir)
}

// extents lists where the data of each file lies.
func extents(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		fmt.Fprintf(&out, "%q", strings.TrimPrefix(path, dir))
		for at := int64(0); ; {
			from, err := f.Seek(at, unix.SEEK_DATA)
			if err != nil {
				break
			}
			if at, err = f.Seek(from, unix.SEEK_HOLE); err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d-%d", from, at)
		}
		out.WriteString("\n")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// sameTree fails the test where a tree is not another. rsync, which compares what it would copy, has a word as well.
func sameTree(t testing.TB, got, want string) {
	t.Helper()
	if g, w := describe(t, got), describe(t, want); g != w {
		t.Errorf("the copy differs:\n%s", firstDifference(g, w))
	}
	rsyncAgrees(t, got, want)
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("got  %s\nwant %s", g[i], w[i])
		}
	}
	return fmt.Sprintf("got %d lines, want %d", len(g), len(w))
}

// ways are the ways to copy a tree exactly.
var ways = map[string]func(t *testing.T, src, dest string) error{
	"in": func(t *testing.T, src, dest string) error {
		_, err := CopyIn(deadline(t), dial(t), src, dest, Options{Archive: true})
		return err
	},
	"out": func(t *testing.T, src, dest string) error {
		_, err := CopyOut(deadline(t), dial(t), src, dest, Options{Archive: true})
		return err
	},
	"between": func(t *testing.T, src, dest string) error {
		_, err := Between(deadline(t), dial(t), src, dial(t), dest, Options{Archive: true})
		return err
	},
	"multiplexer in": func(t *testing.T, src, dest string) error {
		_, err := CopyIn(deadline(t), dialMux(t, Handlers().Serve), src, dest, Options{Archive: true})
		return err
	},
	"multiplexer out": func(t *testing.T, src, dest string) error {
		_, err := CopyOut(deadline(t), dialMux(t, Handlers().Serve), src, dest, Options{Archive: true})
		return err
	},
}

// TestRandomTrees: an exact copy of a random tree is that tree, whichever way it goes.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(3) {
		src := filepath.Join(t.TempDir(), "src")
		if err := os.Mkdir(src, 0o755); err != nil {
			t.Fatal(err)
		}
		grow(t, seed, src, 120)
		for name, copy := range ways {
			t.Run(fmt.Sprintf("%s %d", name, seed), func(t *testing.T) {
				dest := filepath.Join(t.TempDir(), "dest")
				if err := copy(t, src, dest); err != nil {
					t.Fatal(err)
				}
				sameTree(t, dest, src)
				if os.Geteuid() != 0 {
					return // times of directories that exist change
				}
				// A second copy over the first one changes nothing.
				if err := copy(t, src+"/.", dest); err != nil {
					t.Fatal(err)
				}
				sameTree(t, dest, src)
			})
		}
	}
}
