package lock

import (
	"context"
	"errors"
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
