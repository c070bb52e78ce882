package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestKindAndHint(t *testing.T) {
	plain := errors.New("plain")
	inner := New(NotFound, plain, "inner hint")
	for _, c := range []struct {
		name string
		err  error
		kind Kind
		hint string
	}{
		{"plain error", plain, Failure, ""},
		{"fault", inner, NotFound, "inner hint"},
		{"wrapped fault", fmt.Errorf("pulling: %w", inner), NotFound, "inner hint"},
		{"outer kind wins, inner hint is kept", New(Corrupt, inner, ""), Corrupt, "inner hint"},
		{"outer hint wins", New(Corrupt, inner, "outer hint"), Corrupt, "outer hint"},
		{"joined", errors.Join(plain, inner), NotFound, "inner hint"},
	} {
		if got := KindOf(c.err); got != c.kind {
			t.Errorf("%s: got kind %d, want %d", c.name, got, c.kind)
		}
		if got := HintOf(c.err); got != c.hint {
			t.Errorf("%s: got hint %q, want %q", c.name, got, c.hint)
		}
	}
	if !errors.Is(inner, plain) {
		t.Error("a fault hides the error that it wraps")
	}
	if New(Corrupt, nil, "hint") != nil {
		t.Error("a fault of no error is not nil")
	}
}
