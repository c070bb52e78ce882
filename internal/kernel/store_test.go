package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/rootfs"
)

func TestImport(t *testing.T) {
	s := NewStore(filepath.Join(t.TempDir(), "kernels"))
	k := importInto(t, s, "", testSource(t, testRelease))
	if k.Name != testRelease || k.Version != testRelease || k.Modules != 10 || !k.Created.Equal(testTime()) {
		t.Errorf("the kernel is %+v, want %s with 10 modules, made at %v", k, testRelease, testTime())
	}
	got, err := s.Get(testRelease)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{got.Vmlinuz(), got.Initramfs(), got.ModulesImage()} {
		if _, err := os.Stat(path); err != nil || filepath.Dir(path) != filepath.Join(s.dir, testRelease) {
			t.Errorf("the path %q is not in the kernel's directory: %v", path, err)
		}
	}
	if string(readFile(t, got.Vmlinuz())) != string(bzImage(testRelease)) {
		t.Error("the kernel has other bytes than the source")
	}
	if !slices.Equal(got.Missing, k.Missing) || got.ModulesSHA256 != k.ModulesSHA256 || len(got.ModulesSHA256) != 64 {
		t.Errorf("read back it is %+v, want %+v", got, k)
	}
	wantEntries(t, s, testRelease)
}

// TestImportAgain: the same content is the same kernel, whatever it comes from; other content needs another name.
func TestImportAgain(t *testing.T) {
	s := NewStore(t.TempDir())
	first := importInto(t, s, "mine", testSource(t, testRelease))
	stop := func(context.Context, *rootfs.Tree, string) error { return errors.New("it was built again") }
	deb := FromDeb(debFile(t, "Architecture: amd64", kernelFiles("usr/lib/modules")))
	again, err := s.Import(t.Context(), "mine", deb, stop, testTime().Add(time.Hour))
	if err != nil {
		t.Fatalf("importing the same kernel again: %v", err)
	}
	if !again.Created.Equal(first.Created) || again.Vmlinuz() != first.Vmlinuz() {
		t.Errorf("importing it again gave %+v, want the first one, %+v", again, first)
	}
	_, err = s.Import(t.Context(), "mine", testSource(t, "6.2.0"), listing, testTime())
	wantFault(t, err, fault.Conflict, `"mine"`, "--name")
	importInto(t, s, "other", testSource(t, "6.2.0"))
	wantEntries(t, s, "mine", "other")
}

func TestImportFails(t *testing.T) {
	s := NewStore(t.TempDir())
	full := errors.New("the disk is full")
	_, err := s.Import(t.Context(), "", testSource(t, testRelease), func(_ context.Context, _ *rootfs.Tree, out string) error {
		return errors.Join(os.WriteFile(out, []byte("half"), 0o600), full)
	}, testTime())
	if !errors.Is(err, full) {
		t.Errorf("the error is %v, want %v", err, full)
	}
	wantEntries(t, s)
	reason := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = s.Import(ctx, "", testSource(t, testRelease), func(ctx context.Context, tree *rootfs.Tree, out string) error {
		defer cancel(reason)
		return listing(ctx, tree, out)
	}, testTime())
	if !errors.Is(err, reason) {
		t.Errorf("cancelled at the end of the build, the error is %v, want %v", err, reason)
	}
	wantEntries(t, s)
}

// TestImportAfterKill: what a killed import has left is removed by the next one, whatever characters the store's path has.
func TestImportAfterKill(t *testing.T) {
	s := NewStore(filepath.Join(t.TempDir(), "a [home] *?"))
	writeFiles(t, s.dir, map[string][]byte{tempPrefix + "123/kernel/vmlinuz": []byte("half")})
	importInto(t, s, "k", testSource(t, testRelease))
	wantEntries(t, s, "k")
}

// TestImportTogether: of many imports of one kernel at once, one builds, and all get it.
func TestImportTogether(t *testing.T) {
	s := NewStore(t.TempDir())
	source := testSource(t, testRelease)
	var builds sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			_, err := s.Import(t.Context(), "", source, func(ctx context.Context, tree *rootfs.Tree, out string) error {
				builds.Store(i, true)
				return listing(ctx, tree, out)
			}, testTime())
			if err != nil {
				t.Errorf("import %d: %v", i, err)
			}
		})
	}
	group.Wait()
	count := 0
	builds.Range(func(any, any) bool { count++; return true })
	if count != 1 {
		t.Errorf("%d of 8 imports built the modules, want 1", count)
	}
	wantEntries(t, s, testRelease)
}

func TestImportWaitCancelled(t *testing.T) {
	s := NewStore(t.TempDir())
	held, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Import(ctx, "", testSource(t, testRelease), listing, testTime()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error is %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestNames(t *testing.T) {
	s := NewStore(t.TempDir())
	source := testSource(t, "6.9.0-rc3+Local")
	for _, name := range []string{"..", ".hidden", "a/b", "Upper", "-x", "ä", "a b", strings.Repeat("x", 200)} {
		_, err := s.Import(t.Context(), name, source, listing, testTime())
		wantFault(t, err, fault.Usage, "no name", "lower-case")
		_, err = s.Get(name)
		wantFault(t, err, fault.Usage, "no name", "")
		wantFault(t, s.Remove(t.Context(), name), fault.Usage, "no name", "")
	}
	if k := importInto(t, s, "", source); k.Name != "6.9.0-rc3-local" || k.Version != "6.9.0-rc3+Local" {
		t.Errorf("the kernel is named %q, version %q, want 6.9.0-rc3-local, version 6.9.0-rc3+Local", k.Name, k.Version)
	}
}

func TestListDefaultRemove(t *testing.T) {
	s := NewStore(filepath.Join(t.TempDir(), "none-yet"))
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("an empty store lists %v (%v), want nothing", list, err)
	}
	_, err := s.Default()
	wantFault(t, err, fault.NotFound, "there is none yet", "banger kernel import")
	source := testSource(t, testRelease)
	for i, name := range []string{"b", "c", "a"} {
		created := testTime().Add(time.Duration(min(i, 1)) * time.Hour)
		if _, err := s.Import(t.Context(), name, source, listing, created); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 3 || list[0].Name != "a" || list[2].Name != "c" {
		t.Errorf("the list is %v (%v), want a, b, c", list, err)
	}
	if k, err := s.Default(); err != nil || k.Name != "c" {
		t.Errorf("the default is %v (%v), want c, the last of the latest", k, err)
	}
	if err := s.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	wantFault(t, s.Remove(t.Context(), "c"), fault.NotFound, `"c"`, "kernel ls")
	wantEntries(t, s, "a", "b")
	if k, err := s.Default(); err != nil || k.Name != "a" {
		t.Errorf("the default is %v (%v), want a", k, err)
	}
}

// TestRemoveOnFullDisk: removing a kernel takes no space. The disk has room for what is there, and for nothing more.
func TestRemoveOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		excused(t, "mount", fmt.Sprintf("mounting a small disk: %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := NewStore(filepath.Join(dir, "kernels"))
	k := importInto(t, s, "", testSource(t, testRelease))
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
	if err := s.Remove(t.Context(), k.Name); err != nil {
		t.Errorf("removing a kernel on a full disk: %v", err)
	}
	wantEntries(t, s)
}

// TestRemoveTogether: of two who remove a kernel at once, one finds that there is none.
func TestRemoveTogether(t *testing.T) {
	s := NewStore(t.TempDir())
	k := importInto(t, s, "", testSource(t, testRelease))
	held, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 2)
	for range cap(removed) {
		go func() { removed <- s.Remove(t.Context(), k.Name) }()
	}
	time.Sleep(100 * time.Millisecond) // for both to find it
	held.Release()
	err = <-removed
	if second := <-removed; err == nil {
		err = second
	}
	wantFault(t, err, fault.NotFound, k.Name, "kernel ls")
	wantEntries(t, s)
}

// TestDamaged: a kernel whose files are not all there is named, does not hide the others, and can be removed.
func TestDamaged(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(k *Kernel) error
	}{
		{"no vmlinuz", func(k *Kernel) error { return os.Remove(k.Vmlinuz()) }},
		{"no metadata", func(k *Kernel) error { return os.Remove(filepath.Join(k.dir, metadataFile)) }},
		{"half the metadata", func(k *Kernel) error { return os.Truncate(filepath.Join(k.dir, metadataFile), 20) }},
		{"another schema", func(k *Kernel) error {
			return os.WriteFile(filepath.Join(k.dir, metadataFile), []byte(`{"schema":99,"name":"bad"}`), 0o600)
		}},
		{"another name", func(k *Kernel) error {
			return os.WriteFile(filepath.Join(k.dir, metadataFile), []byte(`{"schema":1,"name":"good"}`), 0o600)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := NewStore(t.TempDir())
			source := testSource(t, testRelease)
			importInto(t, s, "good", source)
			if err := test.damage(importInto(t, s, "bad", source)); err != nil {
				t.Fatal(err)
			}
			_, err := s.Get("bad")
			wantFault(t, err, fault.Corrupt, `"bad"`, "banger kernel rm bad")
			list, err := s.List()
			wantFault(t, err, fault.Corrupt, `"bad"`, "")
			if len(list) != 1 || list[0].Name != "good" {
				t.Errorf("the list is %v, want good alone", list)
			}
			if k, err := s.Default(); err != nil || k.Name != "good" {
				t.Errorf("the default is %v (%v), want good", k, err)
			}
			if err := s.Remove(t.Context(), "bad"); err != nil {
				t.Fatal(err)
			}
			wantEntries(t, s, "good")
		})
	}
}
