package embedded

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/banger-vm/banger/internal/fault"
)

func TestWithAgent(t *testing.T) {
	files := fstest.MapFS{name: {Data: []byte("agent")}}
	if got, err := read(files); err != nil || string(got) != "agent" {
		t.Errorf("got %q, %v, want %q", got, err, "agent")
	}
	// printf agent | sha256sum
	if got, want := version(files), "d4f0bc5a29de"; got != want {
		t.Errorf("the version is %q, want %q", got, want)
	}
}

func TestWithoutAgent(t *testing.T) {
	_, err := read(fstest.MapFS{"banger-guest.txt": {}})
	if !errors.Is(err, fs.ErrNotExist) || fault.HintOf(err) == "" {
		t.Errorf("error %v with the hint %q, want one that there is no agent, and a hint", err, fault.HintOf(err))
	}
	if got := version(fstest.MapFS{}); got != "none" {
		t.Errorf("the version is %q, want %q", got, "none")
	}
}

// TestPattern: the program compiles whether the agent is built or not, because something always matches.
func TestPattern(t *testing.T) {
	if _, err := files.Open("banger-guest.txt"); err != nil {
		t.Errorf("the placeholder is not embedded: %v", err)
	}
}

// TestAgent: what is embedded, if anything, is a program, and not too big to be put into every image.
func TestAgent(t *testing.T) {
	agent, err := Agent()
	if errors.Is(err, fs.ErrNotExist) {
		if Version() != "none" {
			t.Errorf("the version of no agent is %q, want none", Version())
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	const limit = 8 << 20
	if len(agent) > limit || string(agent[:4]) != "\x7fELF" {
		t.Errorf("the agent has %d bytes and begins with %q, want at most %d and ELF", len(agent), agent[:4], limit)
	}
	if len(Version()) != 12 {
		t.Errorf("the version is %q, want 12 digits", Version())
	}
}
