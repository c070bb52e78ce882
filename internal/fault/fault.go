// Package fault gives errors that reach the user a kind, which decides the exit code, and a hint, which says what to do.
//
// A package returns a fault where it knows something that its callers cannot: that a tag does not exist, that a digest
// does not match. Everything else is an ordinary wrapped error and counts as Failure.
package fault

import "errors"

// Kind classifies an error for the user. The numbers are the process's exit codes (docs/exit-codes.md).
type Kind int

// The zero Kind is invalid. 125, 126, 127 and 130 are reserved for what docker and the shell use them for.
const (
	Failure     Kind = 1  // anything without a kind of its own
	Usage       Kind = 2  // the command line is wrong
	NotFound    Kind = 3  // no such image, tag, kernel, file or VM
	Unreachable Kind = 4  // a registry or the daemon does not answer, or a registry refuses us
	Corrupt     Kind = 5  // bytes do not match their digest or length
	Unsupported Kind = 6  // not an image, not an archive, or a feature that banger does not have
	Platform    Kind = 7  // the image has no variant for the platform asked for
	NoSpace     Kind = 8  // the disk asked for is too small, or the host's disk is full
	Conflict    Kind = 9  // the name is taken by something else
	NoTool      Kind = 10 // a host program is missing
	Boot        Kind = 11 // the virtual machine did not come up; `vm run` turns it into 125
	NotRunning  Kind = 12 // the virtual machine does not run, or runs where it must not
	Interrupted Kind = 130
)

// Error is an error with a kind and a hint. Err is never nil; Hint may be empty.
type Error struct {
	Kind Kind
	Hint string
	Err  error
}

// Error returns the text of the wrapped error alone: the hint is shown apart from it.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// New returns err with a kind and a hint, which may be empty. A nil err gives nil.
func New(kind Kind, err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Hint: hint, Err: err}
}

// KindOf returns the kind of the outermost fault in err's chain, or Failure.
func KindOf(err error) Kind {
	var f *Error
	if errors.As(err, &f) {
		return f.Kind
	}
	return Failure
}

// HintOf returns the first non-empty hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var f *Error
		if !errors.As(err, &f) {
			return ""
		}
		if f.Hint != "" {
			return f.Hint
		}
		err = f.Err
	}
	return ""
}
