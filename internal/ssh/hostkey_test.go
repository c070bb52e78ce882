package ssh

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// TestIdentity: whoever asks first, all get the same key, and known_hosts names it.
func TestIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ssh")
	keys := make([][]byte, 8)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			identity, err := LoadIdentity(t.Context(), dir, "*.banger")
			if err != nil {
				t.Error(err)
				return
			}
			keys[i] = identity.HostKey.PublicKey().Marshal()
		})
	}
	all.Wait()
	for _, key := range keys[1:] {
		if !bytes.Equal(key, keys[0]) {
			t.Fatal("those who asked at the same time have different keys")
		}
	}
	known, err := os.ReadFile(filepath.Join(dir, knownHostsFile))
	if !strings.HasPrefix(string(known), "*.banger ssh-ed25519 ") || strings.Count(string(known), "\n") != 1 {
		t.Errorf("known_hosts is %q (%v)", known, err)
	}
	for file, want := range map[string]os.FileMode{".": os.ModeDir | 0o700, keyFile: 0o600, knownHostsFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode() != want {
			t.Errorf("%s has the mode %v (%v), want %v", file, info.Mode(), err, want)
		}
	}
}

// TestDamagedIdentity: known_hosts is mended; a key is not replaced, which clients would take for an attack.
func TestDamagedIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIdentity(t.Context(), dir, "*.banger"); err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(dir, knownHostsFile)
	want, _ := os.ReadFile(known)
	for _, damage := range []func() error{
		func() error { return os.WriteFile(known, want[:10], 0o600) },
		func() error { return os.Remove(known) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(t.Context(), dir, "*.banger"); err != nil {
			t.Error(err)
		}
		if got, _ := os.ReadFile(known); !bytes.Equal(got, want) {
			t.Errorf("known_hosts is %q, want %q", got, want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(t.Context(), dir, "*.banger"); fault.KindOf(err) != fault.Corrupt || fault.HintOf(err) == "" {
		t.Errorf("a damaged key gave %v, want a fault with a hint", err)
	}
}

func TestIdentityIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(ctx, filepath.Join(dir, "file", "below"), "*.banger"); err == nil {
		t.Error("an identity was made below a file")
	}
}
