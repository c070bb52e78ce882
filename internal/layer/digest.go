package layer

import (
	_ "crypto/sha512" // go-digest has only those algorithms that are linked in
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/banger-vm/banger/internal/fault"
)

// parseDigest checks a digest of a layer. What passes is safe as a file name: an algorithm and its hexadecimal digits.
func parseDigest(what, text string) (digest.Digest, error) {
	d, err := digest.Parse(text)
	if err != nil {
		err = fmt.Errorf("reading the layer's %s %q: %w", what, text, err)
		return "", fault.New(fault.Unsupported, err, "")
	}
	return d, nil
}
