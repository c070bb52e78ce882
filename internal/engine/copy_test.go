package engine

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestCopyFault: the exit code says what was wrong, and the hint which side.
func TestCopyFault(t *testing.T) {
	for _, c := range []struct {
		err  error
		kind fault.Kind
		hint string
	}{
		{fmt.Errorf("writing: %w", syscall.ENOSPC), fault.NoSpace, "on the host"},
		{fmt.Errorf("reading: %w", syscall.ENOENT), fault.NotFound, ""},
		{frame.Refuse(frame.NoSpace, "full"), fault.NoSpace, "in the VM"},
		{frame.Refuse(frame.NotFound, "missing"), fault.NotFound, ""},
		{frame.Refuse(frame.Conflict, "taken"), fault.Conflict, ""},
		{frame.Refuse(frame.Failed, "failed"), fault.Failure, ""},
		{fault.New(fault.Boot, syscall.ENOENT, ""), fault.Boot, ""},
		{errors.New("other"), fault.Failure, ""},
	} {
		err := copyFault(c.err)
		if fault.KindOf(err) != c.kind || !strings.Contains(fault.HintOf(err), c.hint) {
			t.Errorf("%v is of kind %d with the hint %q, want %d and %q", c.err, fault.KindOf(err), fault.HintOf(err), c.kind, c.hint)
		}
	}
	if copyFault(nil) != nil {
		t.Error("no error became one")
	}
}
