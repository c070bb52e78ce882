package engine

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci"
	"github.com/banger-vm/banger/internal/store"
)

// TestVariantsBoot: an image for a variant of this host's architecture gets the agent, and can be run.
func TestVariantsBoot(t *testing.T) {
	for text, boots := range map[string]bool{
		"linux/amd64": true, "linux/amd64/v2": true, "linux/amd64/v3": true, "linux/arm64": false, "linux/arm/v7": false,
	} {
		platform, err := oci.ParsePlatform(text)
		if err != nil {
			t.Fatal(err)
		}
		agent, err := agentFor(&oci.Image{Platform: platform}, PullOptions{})
		wanted := agent != nil || errors.Is(err, fs.ErrNotExist) // in a program that was built without it
		if wanted != boots {
			t.Errorf("an image for %s has the agent: %t (%v), want %t", text, wanted, err, boots)
		}
		err = bootable(store.Image{Platform: platform.String(), Guest: "0123"}, "x")
		if (err == nil) != boots || err != nil && fault.KindOf(err) != fault.Platform {
			t.Errorf("running an image for %s: got %v, want it possible: %t", text, err, boots)
		}
	}
}
