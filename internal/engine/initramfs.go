package engine

import (
	"errors"
	"fmt"
	"os"

	"github.com/banger-vm/banger/internal/guest/embedded"
	"github.com/banger-vm/banger/internal/kernel"
)

// writeInitramfs writes the kernel's modules followed by this banger's agent, which is the initramfs's /init, to path.
func writeInitramfs(linux *kernel.Kernel, path string) (err error) {
	agent, err := embedded.Agent()
	if err != nil {
		return err
	}
	modules, err := os.Open(linux.Initramfs())
	if err != nil {
		return fmt.Errorf("reading the modules of kernel %q: %w", linux.Name, err)
	}
	defer func() { _ = modules.Close() }()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the initramfs: %w", err)
	}
	if err := errors.Join(kernel.InitramfsWithInit(modules, agent, out), out.Close()); err != nil {
		return fmt.Errorf("writing the initramfs: %w", err)
	}
	return nil
}
