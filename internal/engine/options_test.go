package engine

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"": true, "web": true, "web-2": true, "0": true, strings.Repeat("a", 63): true,
		"Web": false, "-web": false, "web-": false, "a.b": false, "a_b": false, "a b": false, "../a": false, "é": false, strings.Repeat("a", 64): false,
	} {
		if got := validVMName(name); got != want {
			t.Errorf("--name %q: valid is %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]bool{
		"\u212A": false, // the sign of the kelvin, whose lower case is a "k"
		"web":    true, "Web.Example.org": true, strings.Repeat("a", 63) + ".b": false, strings.Repeat("a.", 31) + "ab": true,
		"": false, ".": false, "a..b": false, "a.": false, "a b": false, "a_b": false,
	} {
		if got := validHostname(name); got != want {
			t.Errorf("--hostname %q: valid is %v, want %v", name, got, want)
		}
	}
}

// TestCheck: what is wrong with options is said with the flag's name; the defaults lack only an image.
func TestCheck(t *testing.T) {
	if err := DefaultVMOptions().Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for flag, spoil := range map[string]func(*VMOptions){
		"--network":      func(o *VMOptions) { o.Network = "bridge" },
		"--pull":         func(o *VMOptions) { o.Pull = "" },
		"--cpus":         func(o *VMOptions) { o.CPUs = 0 },
		"--memory":       func(o *VMOptions) { o.Memory = MinMemory - 1 },
		"--boot-timeout": func(o *VMOptions) { o.Timeout = -time.Second },
		"--hostname":     func(o *VMOptions) { o.Hostname = "a b" },
		"--name":         func(o *VMOptions) { o.Name = "../a" },
	} {
		options := DefaultVMOptions()
		spoil(&options)
		err := options.Check()
		if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), flag) || fault.HintOf(err) == "" {
			t.Errorf("%s: got %v with the hint %q, want a usage error that names the flag", flag, err, fault.HintOf(err))
		}
	}
}

// TestNamesThatAreNone: a name that is a path finds no VM, and above all removes none.
func TestNamesThatAreNone(t *testing.T) {
	e, err := New(Config{Home: t.TempDir(), RuntimeDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../vms", "a/b", "/", ".gone-1"} {
		if err := e.RemoveVM(t.Context(), name, true); fault.KindOf(err) != fault.NotFound {
			t.Errorf("removing %q by force: %v, want an error of kind not found", name, err)
		}
	}
	if _, err := os.Stat(e.home.Dir()); err != nil {
		t.Errorf("removing names that are paths took the home away: %v", err)
	}
}
