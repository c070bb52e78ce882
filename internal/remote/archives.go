package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/banger-vm/banger/internal/api"
	"github.com/banger-vm/banger/internal/fault"
)

// told returns the error that a trailer has.
func told(trailer string) error {
	if trailer == "" {
		return nil
	}
	var sent api.Error
	if err := json.Unmarshal([]byte(trailer), &sent); err != nil {
		return fault.New(fault.Unreachable, fmt.Errorf("reading the daemon's error %q: %w", trailer, err), "")
	}
	return sent.Received()
}

// receiver remembers that it was the reading that failed.
type receiver struct {
	io.Reader
	err error
}

// Read reads from the daemon.
func (r *receiver) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
