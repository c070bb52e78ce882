package lock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestSecondWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "lock")
	first, err := Acquire(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Try(path); second != nil || err != nil {
		t.Fatalf("Try of a taken lock gives (%v, %v), want (nil, nil)", second, err)
	}
	got := make(chan error)
	go func() {
		second, err := Acquire(context.Background(), path)
		if err == nil {
			second.Release()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("the second holder did not wait: %v", err)
	case <-time.After(4 * poll):
	}
	first.Release()
	if err := <-got; err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// TestShared: any number share a lock, and while they do nobody gets it alone.
func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "lock")
	var sharing []*Lock
	for range 2 {
		l, err := Share(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		sharing = append(sharing, l)
	}
	for n, l := range sharing {
		if alone, err := Try(path); alone != nil || err != nil {
			t.Fatalf("with %d that share the lock, Try gives (%v, %v), want (nil, nil)", len(sharing)-n, alone, err)
		}
		l.Release()
	}
	alone, err := Try(path)
	if alone == nil || err != nil {
		t.Fatalf("once nobody shares the lock, Try gives (%v, %v)", alone, err)
	}
	got := make(chan error)
	go func() {
		_, err := Share(t.Context(), path)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("a lock that one holds alone was shared at once: %v", err)
	case <-time.After(4 * poll):
	}
	alone.Release()
	if err := <-got; err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// TestDirectoryIsRemoved: who waits for a lock in a directory that is removed learns of it, and does not make it anew.
func TestDirectoryIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	for _, replaced := range []bool{false, true} {
		first, err := Acquire(t.Context(), filepath.Join(dir, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		type result struct {
			*Lock
			error
		}
		got := make(chan result)
		go func() {
			l, err := AcquireIn(t.Context(), dir, "lock")
			got <- result{l, err}
		}()
		time.Sleep(2 * poll)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if replaced {
			if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		first.Release()
		second := <-got
		switch {
		case replaced && (second.error != nil || !Held(filepath.Join(dir, "lock"))):
			t.Errorf("a directory that was replaced: got (%v, %v), want a lock on the new file", second.Lock, second.error)
		case !replaced && !errors.Is(second.error, fs.ErrNotExist):
			t.Errorf("a directory that was removed: got (%v, %v), want fs.ErrNotExist", second.Lock, second.error)
		}
		if _, err := os.Stat(dir); replaced != (err == nil) {
			t.Errorf("replaced %v: the directory is there: %v", replaced, err == nil)
		}
	}
}

func TestWaitIsCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := Acquire(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(2*poll, func() { cancel(why) })
	if _, err := Acquire(ctx, path); !errors.Is(err, why) {
		t.Errorf("waiting ended with %v, want %v", err, why)
	}
}

// TestDeathReleases: a holder that is killed does not keep its lock.
func TestDeathReleases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if os.Getenv("HOLD_LOCK") != "" {
		if _, err := Acquire(context.Background(), os.Getenv("HOLD_LOCK")); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("held\n")
		select {}
	}
	holder := exec.Command(os.Args[0], "-test.run", "TestDeathReleases")
	holder.Env = append(os.Environ(), "HOLD_LOCK="+path)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatalf("the holder did not take the lock: %v", err)
	}
	if l, _ := Try(path); l != nil {
		t.Fatal("the lock of another process is free")
	}
	_ = holder.Process.Kill()
	_ = holder.Wait()
	if l, err := Try(path); l == nil || err != nil {
		t.Errorf("after its holder's death the lock gives (%v, %v)", l, err)
	}
}

// TestDirectoryItself: a locked directory gets no file in it.
func TestDirectoryItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	first, err := AcquireDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*poll)
	defer cancel()
	if _, err := AcquireDir(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock on the directory: got %v, want it to wait", err)
	}
	first.Release()
	second, err := AcquireDir(t.Context(), dir)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	second.Release()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the directory has %v (%v), want nothing", entries, err)
	}
}

// TestHold: an open file's lock keeps others waiting until the file is closed.
func TestHold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	open := func() *os.File {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first, second := open(), open()
	defer func() { _ = second.Close() }()
	if err := Hold(first); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { got <- Hold(second) }()
	select {
	case err := <-got:
		t.Fatalf("the second one did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
	if !Held(path) {
		t.Error("nobody holds the lock of the second one")
	}
}
