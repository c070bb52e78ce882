package layer

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/lock"
)

func TestPrune(t *testing.T) {
	store := NewStore(t.TempDir())
	dir := filepath.Join(store.dir, "sha256")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	wanted, unwanted, busy := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	writing := wanted + partial
	for _, name := range []string{wanted, unwanted, busy, writing} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := lock.Try(store.lockPath(busy))
	if err != nil || held == nil {
		t.Fatalf("locking: %v", err)
	}
	defer held.Release()
	keep := func(diffID string) bool { return diffID == "sha256:"+wanted }
	if err := store.Prune(context.Background(), keep); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{wanted: true, unwanted: false, busy: true, writing: true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("after pruning, %s… exists: %v, want %v", name[:4]+strings.TrimLeft(name[4:], name[:1]), err == nil, want)
		}
	}
}
