// Package embedded carries the built guest agent inside the host's program, so that banger is one file.
//
// The agent is the file banger-guest in this directory, which `make build` makes before it builds the host's program
// and which is no part of the source. A host program that is built without it works, but cannot prepare images.
package embedded

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/banger-vm/banger/internal/fault"
)

// name is the file of the agent. Its other match, banger-guest.txt, is there so that the pattern always has one.
const name = "banger-guest"

//go:embed banger-guest*
var files embed.FS

// Agent returns the built agent, an ELF executable. If this program was built without it, the error wraps
// fs.ErrNotExist.
func Agent() ([]byte, error) { return read(files) }

// Version returns the version of the agent: the first 12 hex digits of its SHA-256, or "none" without an agent.
// Another agent always has another version, and so gives images another id.
func Version() string { return version(files) }

func read(from fs.FS) ([]byte, error) {
	agent, err := fs.ReadFile(from, name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("this banger was built without its guest agent: %w", fs.ErrNotExist)
		return nil, fault.New(fault.Unsupported, err, "build it again: make build")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the guest agent: %w", err)
	}
	return agent, nil
}

func version(from fs.FS) string {
	agent, err := read(from)
	if err != nil {
		return "none"
	}
	sum := sha256.Sum256(agent)
	return hex.EncodeToString(sum[:])[:12]
}
