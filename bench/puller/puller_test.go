package puller

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// TestDecompress: each layer's content is in a file of its own, also after an earlier run.
func TestDecompress(t *testing.T) {
	dir := t.TempDir()
	layers := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	for _, file := range layers {
		if err := os.WriteFile(file, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := &Puller{Dir: t.TempDir()}
	for range 2 {
		took, err := p.Decompress(context.Background(), layers, "cat", "--")
		if err != nil || took <= 0 {
			t.Fatalf("Decompress took %v: %v", took, err)
		}
		for i, file := range layers {
			got, err := os.ReadFile(filepath.Join(p.out(), []string{"0", "1"}[i]))
			if err != nil || string(got) != file {
				t.Errorf("the output of layer %d is %q (%v), want %q", i, got, err, file)
			}
		}
	}
	if _, err := p.Decompress(context.Background(), layers, "false"); err == nil {
		t.Error("a decompressor that fails is no error")
	}
}

// TestPull: the home is banger's own, and a failure says what banger said.
func TestPull(t *testing.T) {
	p := &Puller{Program: "/bin/sh", Dir: t.TempDir()}
	if err := p.Pull(context.Background(), "image"); err == nil {
		t.Error("a program that fails is no error")
	}
	script := filepath.Join(t.TempDir(), "banger")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nmkdir -p \"$BANGER_HOME\" && test ! -e \"$BANGER_HOME/$3\" && touch \"$BANGER_HOME/$3\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.Program = script
	for range 2 { // the second one begins anew
		if _, err := p.Cold(context.Background(), "image"); err != nil {
			t.Fatal(err)
		}
	}
	if p.Memory < 100<<10 {
		t.Errorf("the memory of a shell is %d bytes", p.Memory)
	}
	if err := p.Prepare(context.Background(), "base"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Timed(context.Background(), "base"); err == nil {
		t.Error("the timed pull does not find the home of the one before")
	}
}
