package engine

import (
	"fmt"
	"os"
)

// settle has a published image brought to the host's disk, by a process that outlives this one. It takes as long as the host's
// disk does, and nobody has to wait: see store.Images.Settle. Whoever uses the image calls it again, in case that process
// was killed.
func (e *Engine) settle(id string) error {
	if !e.images.Unsettled(id) {
		return nil
	}
	if len(e.config.Settle) == 0 || e.detach(append(e.config.Settle[:len(e.config.Settle):len(e.config.Settle)], id)) != nil {
		return e.images.Settle(id)
	}
	return nil
}

// detach starts a process that says nothing to anybody.
func (e *Engine) detach(argv []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening %q: %w", os.DevNull, err)
	}
	defer func() { _ = null.Close() }()
	return e.runner.Detach(argv, null, null)
}

// SettleImage brings an image to the host's disk.
func (e *Engine) SettleImage(id string) error { return e.images.Settle(id) }
