package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// TestFullDiskIsTold: that the host's disk is full is known to whoever has a VM started, who says what to do about it.
func TestFullDiskIsTold(t *testing.T) {
	full := fmt.Errorf("making the VM's logs: %w", &os.PathError{Op: "open", Path: "/vms/web/qemu.log", Err: syscall.ENOSPC})
	text, err := json.Marshal(answer{Error: failureOf(full)})
	if err != nil {
		t.Fatal(err)
	}
	var got answer
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	told := got.Error.err()
	if !errors.Is(told, syscall.ENOSPC) || told.Error() != full.Error() || fault.KindOf(told) != fault.Failure {
		t.Errorf("%v is told as %v, of which the cause is not known", full, told)
	}
}
