package engine

import (
	"fmt"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
)

// builder returns the builder of a name; "" is the default one.
func (e *Engine) builder(name string) (imagepull.Builder, error) {
	builders := []imagepull.Builder{imagepull.Native{}, imagepull.Mkfs{Runner: e.runner}}
	for _, b := range builders {
		if name == "" || name == b.Name() {
			return b, nil
		}
	}
	err := fmt.Errorf("choosing the builder: there is no %q", name)
	return nil, fault.New(fault.Usage, err, "pass --builder native or mkfs")
}
