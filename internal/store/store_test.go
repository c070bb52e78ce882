package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
)

// testHome is a home whose path has characters that mean something to shells.
func testHome(t *testing.T) *Home {
	t.Helper()
	home, err := OpenHome(filepath.Join(t.TempDir(), "a [home] *?"))
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// publish puts an image of a few bytes into the store. ids are padded to the length of real ones.
func publish(t *testing.T, home *Home, id, reference, digest string) Image {
	t.Helper()
	stage, err := home.NewStage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stage.Close() }()
	if err := os.Mkdir(stage.Path("image"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(StagedDisk(stage), []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	image := Image{Schema: Schema, ID: id + strings.Repeat("0", 64-len(id)), Reference: reference, Digest: digest, Size: 4, Created: time.Unix(1e9, 0)}
	if err := home.Images().Publish(context.Background(), stage, image); err != nil {
		t.Fatal(err)
	}
	return image
}

func allow([]string) error { return nil }

func TestPublishedImageIsFound(t *testing.T) {
	home := testHome(t)
	images := home.Images()
	debian := publish(t, home, "aaaa1", "localhost:5000/debian:bookworm", "sha256:d1")
	alpine := publish(t, home, "aaaa2", "docker.io/library/alpine:latest", "sha256:d2")
	for name, image := range map[string]Image{
		"localhost:5000/debian:bookworm": debian, "alpine:latest": alpine, "other/alpine:latest": alpine, "third/debian:bookworm": alpine,
	} {
		if err := images.Tag(context.Background(), Name{Name: name, ID: image.ID, Digest: image.Digest}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		query, canonical string
		want             string
		failure          string
	}{
		{query: "localhost:5000/debian:bookworm", want: debian.ID},
		{query: "alpine", canonical: "alpine:latest", want: alpine.ID},
		{query: "debian:bookworm", failure: "may be any of"},
		{query: "aaaa1", want: debian.ID},
		{query: "aaaa", failure: "2 images match"},
		{query: "aaa", failure: "none of that name"},
		{query: "sha256:d2", want: alpine.ID},
		{query: "nonsense", canonical: "nonsense:latest", failure: "none of that name"},
	} {
		got, err := images.Find(c.query, c.canonical)
		if c.failure != "" {
			if err == nil || !strings.Contains(err.Error(), c.failure) {
				t.Errorf("finding %q: got (%s, %v), want an error with %q", c.query, got.ID, err, c.failure)
			}
			continue
		}
		if err != nil || got.ID != c.want {
			t.Errorf("finding %q: got (%s, %v), want %s", c.query, got.ID, err, c.want)
		}
	}
}

func TestNameTakenByAnotherDigest(t *testing.T) {
	images := testHome(t).Images()
	first := Name{Name: "x", ID: "1", Digest: "sha256:d1", Reference: "oci:a:v1"}
	if err := images.Tag(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		next Name
		kind fault.Kind // 0: allowed
	}{
		{"same digest", Name{Name: "x", ID: "2", Digest: "sha256:d1", Reference: "oci:b:v1"}, 0},
		{"same reference, which moved on", Name{Name: "x", ID: "2", Digest: "sha256:d2", Reference: "oci:a:v1"}, 0},
		{"another image", Name{Name: "x", ID: "2", Digest: "sha256:d2", Reference: "oci:b:v1"}, fault.Conflict},
	} {
		err := images.CheckName(c.next)
		if c.kind == 0 && err != nil || c.kind != 0 && fault.KindOf(err) != c.kind {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

func TestDamagedImageIsNotTrusted(t *testing.T) {
	home := testHome(t)
	image := publish(t, home, "ffff", "r", "d")
	if err := os.Truncate(home.Images().Disk(image.ID), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := home.Images().Get(image.ID); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("an image whose disk was cut short: got %v, want a corrupt one", err)
	}
	defer func() {
		match, err := home.Images().Find(image.ID[:8], "")
		if err != nil || match.ID != image.ID {
			t.Errorf("finding a damaged image by its id: got (%v, %v)", match, err)
		}
		if err := home.Images().Remove(context.Background(), image.ID, allow); err != nil {
			t.Errorf("removing a damaged image: %v", err)
		}
	}()
	images, err := home.Images().List()
	if len(images) != 0 || err == nil {
		t.Errorf("listing: got %d images and error %v, want the damage reported", len(images), err)
	}
}

func TestRemoveTakesTheNamesAlong(t *testing.T) {
	home := testHome(t)
	image := publish(t, home, "eeee", "r", "d")
	if err := home.Images().Tag(context.Background(), Name{Name: "a/b:c", ID: image.ID}); err != nil {
		t.Fatal(err)
	}
	if err := home.Images().Remove(context.Background(), image.ID, allow); err != nil {
		t.Fatal(err)
	}
	names, err := home.Images().Names()
	if len(names) != 0 || err != nil {
		t.Errorf("names after the removal: %v, %v", names, err)
	}
	if _, err := home.Images().Get(image.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the removed image gives %v", err)
	}
}

// TestRemoveOnFullDisk: removing an image takes no space, nor does clearing away what a killed removal left. The disk has room for
// what is there, and for nothing more.
func TestRemoveOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		excuse(t, "mount", fmt.Sprintf("mounting a small disk: %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	home, err := OpenHome(filepath.Join(dir, "home"))
	if err != nil {
		t.Fatal(err)
	}
	image := publish(t, home, "eeee", "r", "d")
	making, err := home.Images().LockImage(t.Context(), image.ID) // as the pull that has made it
	if err != nil {
		t.Fatal(err)
	}
	making.Release()
	using, err := home.Images().Use(t.Context(), image.ID) // as a VM that was made of it
	if err != nil {
		t.Fatal(err)
	}
	using.Release()
	if err := home.Images().Untag(t.Context(), "none", image.ID, allow); err != nil {
		t.Fatal(err)
	}
	for what, remove := range map[string]func() error{
		"images/" + image.ID: func() error { return home.Images().Remove(t.Context(), image.ID, allow) },
		"tmp/dead":           func() error { return home.Sweep(t.Context()) },
	} {
		if err := os.MkdirAll(home.Path(what), 0o700); err != nil {
			t.Fatal(err)
		}
		fill(t, dir)
		if err := remove(); err != nil {
			t.Errorf("removing %s: %v", what, err)
		}
		if _, err := os.Stat(home.Path(what)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", what, err)
		}
	}
}

// fill leaves a disk no room for another file.
func fill(t *testing.T, dir string) {
	t.Helper()
	var info unix.Statfs_t
	if err := unix.Statfs(dir, &info); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("nr_inodes=%d", info.Files-info.Ffree)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "more"), 0o700); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("making one more directory: got %v, want ENOSPC", err)
	}
}

// excuse skips the test if the environment excuses the reason by its name, and fails it otherwise.
func excuse(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("excused %q: %s", name, reason)
	}
	t.Fatalf("%s (set BANGER_TEST_EXCUSE=%s to go on without)", reason, name)
}

func TestDeadStagesAreSwept(t *testing.T) {
	home := testHome(t)
	alive, err := home.NewStage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	dead := home.Path("tmp", "dead")
	if err := os.MkdirAll(filepath.Join(dead, "image"), 0o700); err != nil {
		t.Fatal(err)
	}
	next, err := home.NewStage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stage of a dead process is still there: %v", err)
	}
	if _, err := os.Stat(alive.Dir); err != nil {
		t.Errorf("the stage of a living process is gone: %v", err)
	}
	if err := alive.Close(); err != nil {
		t.Error(err)
	}
}

func TestPrivateNameIsTaken(t *testing.T) {
	home := testHome(t)
	first, err := NewPrivate(context.Background(), home.Path("vms"), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, err := NewPrivate(context.Background(), home.Path("vms"), "box"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second directory of the same name: got %v, want fs.ErrExist", err)
	}
}

// TestStagesOfManyProcesses: making, sweeping and removing stages at once do not get in each other's way.
func TestStagesOfManyProcesses(t *testing.T) {
	home := testHome(t)
	results := make(chan error)
	for range 4 {
		go func() {
			var failed error
			for range 50 {
				stage, err := home.NewStage(context.Background())
				if err == nil {
					err = stage.Close()
				}
				failed = errors.Join(failed, err)
			}
			results <- failed
		}()
	}
	for range 4 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
