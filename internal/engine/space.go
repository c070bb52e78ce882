package engine

import (
	"errors"
	"syscall"

	"github.com/banger-vm/banger/internal/fault"
)

// noSpace makes a full disk of the host a fault of its own, wherever it was noticed.
func noSpace(err error) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && fault.KindOf(err) != fault.NoSpace {
		return fault.New(fault.NoSpace, err, "free some space below BANGER_HOME; `banger image ls` shows what the images take")
	}
	return err
}
