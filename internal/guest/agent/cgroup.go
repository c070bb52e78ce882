package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// cgroupRoot is where the control groups are, of version 2.
const cgroupRoot = "/sys/fs/cgroup"

// delegate gives the groups below dir every controller that dir has, so that container engines can limit their
// containers. The root group may have processes all the same (Documentation/admin-guide/cgroup-v2.rst, "No Internal
// Process Constraint"). A controller that cannot be given, as cpu while there are realtime processes, holds up no
// other.
func delegate(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("listing the controllers of control groups: %w", err)
	}
	var failed []error
	for _, controller := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			failed = append(failed, fmt.Errorf("delegating the controller %q: %w", controller, err))
		}
	}
	return errors.Join(failed...)
}
