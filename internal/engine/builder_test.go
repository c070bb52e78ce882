package engine

import (
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

func TestBuilder(t *testing.T) {
	for name, want := range map[string]string{"": "native", "native": "native", "mkfs": "mkfs"} {
		b, err := (&Engine{}).builder(name)
		if err != nil || b.Name() != want {
			t.Errorf("the builder %q: got %v (%v), want %q", name, b, err, want)
		}
	}
	_, err := (&Engine{}).builder("magic")
	hint := fault.HintOf(err)
	if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), "magic") || !strings.Contains(hint, "mkfs") {
		t.Errorf("an unknown builder gives %v, want a fault that names it, with a hint of what there is", err)
	}
}
