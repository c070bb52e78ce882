package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// noVMs opens no streams.
type noVMs struct{}

func (noVMs) Stream(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }

// TestCopyIntoItself: a copy within one VM does not end up in what it reads.
func TestCopyIntoItself(t *testing.T) {
	for _, c := range []struct {
		from, to Location
		refused  bool
	}{
		{Location{"a", "/d"}, Location{"a", "/d/e"}, true},
		{Location{"a", "d"}, Location{"a", "/x/../d/"}, true},
		{Location{"a", "/d/."}, Location{"a", "/d"}, true},
		{Location{"a", "/"}, Location{"a", "/backup"}, true},
		{Location{"a", "/d"}, Location{"a", "/dd"}, false},
		{Location{"a", "/d/e"}, Location{"a", "/d"}, false},
		{Location{"a", "/d"}, Location{"b", "/d/e"}, false},
	} {
		_, err := CopyFiles(t.Context(), noVMs{}, Copy{From: c.from, To: c.to})
		if refused := fault.KindOf(err) == fault.Usage; refused != c.refused {
			t.Errorf("%v to %v: got the error %v, want that it is refused %v", c.from, c.to, err, c.refused)
		}
	}
}
