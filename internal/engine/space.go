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
		hint := "free some space: `banger system df` shows what banger takes, `banger image prune` gives some back"
		return fault.New(fault.NoSpace, err, hint)
	}
	return err
}
