package symlink

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestTarget: the kernel, which makes a file where a path leads, is the judge.
func TestTarget(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"dir": "a/b", "one": "a/new1", "two": "a/link", "a/link": "b/new2", "up": "dir/../new3", "abs": dir + "/a/new4", "a/b/out": "../new5",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"plain", "one", "two", "up", "abs", "dir/out", "dir/plain"} {
		path := filepath.Join(dir, name)
		before, err := Target(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		want, err := filepath.EvalSymlinks(path)
		if after, _ := Target(path); err != nil || before != want || after != want {
			t.Errorf("%s leads to %q before there is something and %q then, want %q (%v)", name, before, after, want, err)
		}
	}
}

// TestRelative: a path without a directory is one of the working directory.
func TestRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Symlink("there", "link"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"link": "there", "./link": "there", "plain": "plain"} {
		if got, err := Target(path); err != nil || got != want {
			t.Errorf("%s leads to %q (%v), want %q", path, got, err, want)
		}
	}
}

func TestCircle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "circle")
	if err := os.Symlink("circle", path); err != nil {
		t.Fatal(err)
	}
	if to, err := Target(path); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a link to itself leads to %q (%v), want ELOOP", to, err)
	}
}
