package agent

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// renew mounts this program, which is the running banger's, over the agent of the image at root, which is the one of
// the banger that made the image: host and agent then speak one version of the protocol. The disk stays as it is. It
// reports whether the program must be kept, which is a file of the initramfs. An image without an agent stays without.
func renew(program, root string) (kept bool, err error) {
	target, err := resolveIn(root, agentPath)
	if err != nil {
		return false, fmt.Errorf("finding the image's agent: %w", err)
	}
	if !exists(target) {
		return false, nil
	}
	if err := unix.Mount(program, target, "", unix.MS_BIND, ""); err != nil {
		return false, fmt.Errorf("mounting this banger's agent over the image's %q: %w", filepath.Base(target), err)
	}
	return true, nil
}
