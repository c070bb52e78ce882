package imagepull

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
	"github.com/banger-vm/banger/internal/system"
)

// fakeTool returns a runner that finds a shell script of ours in the place of a program.
func fakeTool(t *testing.T, name, script string) *system.CommandRunner {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return system.NewCommandRunner(dir + ":" + os.Getenv("PATH"))
}

func mustNotExist(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lstat(%q) = %v; want that it does not exist", file, err)
	}
}

// build stages a tree and makes an image of it by the steps of Mkfs, with e2fsck after each.
func build(t *testing.T, tree *rootfs.Tree, size int64) string {
	t.Helper()
	ctx := context.Background()
	image := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := BuildExt4(ctx, testRunner(), staged(t, tree), image, size); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	if err := ApplyOwnership(ctx, testRunner(), tree, image); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, image)
	mustLeaveOnly(t, image)
	return image
}

func TestBuildExt4OddNames(t *testing.T) {
	for _, name := range []string{"plain", "a b", "-d", "a=b", `quo"te`, "a?b", "line\nfeed", "LABEL=x"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			source := filepath.Join(t.TempDir(), name)
			if err := os.MkdirAll(filepath.Join(source, "sub"), 0o700); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(dir, name)
			if err := BuildExt4(context.Background(), testRunner(), source, image, MinExt4Size+512); err != nil {
				t.Fatal(err)
			}
			mustBeClean(t, image)
			tree := newTree()
			put(tree, "/sub", newDir())
			if err := ApplyOwnership(context.Background(), testRunner(), tree, image); err != nil {
				t.Errorf("ApplyOwnership: %v", err)
			}
			inject(t, image, agentAssets("x"))
		})
	}
}

func TestBuildExt4RunsMkfs(t *testing.T) {
	dir := t.TempDir()
	args := filepath.Join(dir, "args")
	runner := fakeTool(t, "mkfs.ext4", fmt.Sprintf(`printf '%%s\n' "$@" > %s; exec /sbin/mkfs.ext4 "$@"`, args))
	image := filepath.Join(dir, "image")
	if err := BuildExt4(context.Background(), runner, t.TempDir()+"/", image, MinExt4Size); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(mustRead(t, args)), "\n")
	want := []string{"-F", "-q", "-d", got[3], "-L", "banger-rootfs", "-E", "root_owner=0:0", image}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("mkfs.ext4 was run with\n got  %q\n want %q", got, want)
	}
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != MinExt4Size || info.Mode() != 0o600 {
		t.Errorf("the image has %d bytes and mode %v; want %d and 0600", info.Size(), info.Mode(), MinExt4Size)
	}
	if label := run(t, "e2label", image); label != "banger-rootfs" {
		t.Errorf("the label is %q; want banger-rootfs", label)
	}
}

// What is wrong with the arguments is found before the old file is touched.
func TestBuildExt4RefusesArguments(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, source string
		size         int64
		kind         fault.Kind
		want         string
	}{
		{"size below the least", dir, MinExt4Size - 1, fault.NoSpace, "67108864"},
		{"negative size", dir, -1, fault.NoSpace, "67108864"},
		{"missing source", filepath.Join(dir, "absent"), MinExt4Size, fault.Failure, "absent"},
		{"source that is a file", plain, MinExt4Size, fault.Failure, "not a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := BuildExt4(context.Background(), testRunner(), tt.source, image, tt.size)
			if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v of kind %d, want one with %q of kind %d", err, fault.KindOf(err), tt.want, tt.kind)
			}
			if got := mustRead(t, image); got != "old" {
				t.Errorf("the old file has %q now; want that it is not touched", got)
			}
		})
	}
}

func TestBuildExt4TooSmall(t *testing.T) {
	large := newTree()
	put(large, "/large", file(strings.Repeat("0123456789abcdef", 5<<20)))
	many := newTree()
	for i := range 200 {
		put(many, fmt.Sprintf("/%d", i), file(""))
	}
	tests := []struct {
		name   string
		tree   *rootfs.Tree
		runner *system.CommandRunner
	}{
		{"no block", large, testRunner()},
		{"no inode", many, fakeTool(t, "mkfs.ext4", `exec /sbin/mkfs.ext4 -N 100 "$@"`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			err := BuildExt4(context.Background(), tt.runner, staged(t, tt.tree), image, MinExt4Size)
			if fault.KindOf(err) != fault.NoSpace || !strings.Contains(fmt.Sprint(err), "Could not allocate") {
				t.Errorf("got error %v of kind %d, want mkfs's words and kind %d", err, fault.KindOf(err), fault.NoSpace)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, "--size") {
				t.Errorf("got hint %q, want one with --size", hint)
			}
			mustNotExist(t, image)
		})
	}
}

func TestBuildExt4Failures(t *testing.T) {
	tests := []struct {
		name, script string
		kind         fault.Kind
		want         string
	}{
		{"host full", `echo "mkfs.ext4: No space left on device while writing" >&2; exit 1`, fault.NoSpace, "left on device"},
		{"own words", `echo "mkfs.ext4: the moon is full" >&2; exit 1`, fault.Failure, "the moon is full"},
		{"nothing made", `exit 0`, fault.Unsupported, "not an ext4 file system"},
		{"wrong unit", `for f; do :; done; exec /sbin/mkfs.ext4 -q -F "$f" 16384`, fault.Failure, "16777216 bytes in a file of 67108864"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			err := BuildExt4(context.Background(), fakeTool(t, "mkfs.ext4", tt.script), t.TempDir(), image, MinExt4Size)
			if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v of kind %d, want one with %q of kind %d", err, fault.KindOf(err), tt.want, tt.kind)
			}
			mustNotExist(t, image)
		})
	}
}

func TestBuildExt4Cancelled(t *testing.T) {
	before, cancel := context.WithCancel(context.Background())
	cancel()
	during, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	for name, ctx := range map[string]context.Context{"before": before, "during": during} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			start := time.Now()
			err := BuildExt4(ctx, fakeTool(t, "mkfs.ext4", "exec sleep 60"), t.TempDir(), image, MinExt4Size)
			if !errors.Is(err, context.Cause(ctx)) {
				t.Errorf("got error %v, want %v", err, context.Cause(ctx))
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			mustNotExist(t, image)
		})
	}
}

func FuzzParseSuperblock(f *testing.F) {
	image := filepath.Join(f.TempDir(), "image")
	if err := createSparse(image, MinExt4Size); err != nil {
		f.Fatal(err)
	}
	if _, err := testRunner().Run(context.Background(), system.Command{Name: "mkfs.ext4", Args: []string{"-q", image}}); err != nil {
		f.Fatal(err)
	}
	file, err := os.Open(image)
	if err != nil {
		f.Fatal(err)
	}
	raw := make([]byte, 1024)
	if _, err := file.ReadAt(raw, 1024); err != nil {
		f.Fatal(err)
	}
	_ = file.Close()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseSuperblock(append(raw, make([]byte, 1024)...)[:1024])
		if err == nil && (s.blockSize < 1024 || s.blockSize > 65536) {
			t.Errorf("a block size of %d", s.blockSize)
		}
	})
}
