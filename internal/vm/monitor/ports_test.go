package monitor

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/banger-vm/banger/internal/port"
	"github.com/banger-vm/banger/internal/vm/instance"
)

// TestWithout: what is published no longer leaves the configuration, and nothing else that is like it.
func TestWithout(t *testing.T) {
	const v4, v6 = "127.0.0.1:8080:80/tcp", "[::1]:8080:80/tcp"
	for _, c := range []struct {
		name    string
		texts   []string
		removed string // address
		want    []string
	}{
		{"the only one", []string{"8080:80/tcp"}, "127.0.0.1:8080", nil},
		{"one of a free port", []string{"80/tcp"}, "127.0.0.1:40000", nil},
		{"the same port of another address", []string{v4, v6}, "[::1]:8080", []string{v4}},
		{"the first of two addresses", []string{v4, v6}, "127.0.0.1:8080", []string{v6}},
		{"a port beside a free one", []string{"80/tcp", "8080:80/tcp"}, "127.0.0.1:8080", []string{"80/tcp"}},
		{"a free one beside a port", []string{"8080:80/tcp", "80/tcp"}, "127.0.0.1:40000", []string{"8080:80/tcp"}},
		{"a free one of another address", []string{"[::1]::80/tcp", "80/tcp"}, "127.0.0.1:40000", []string{"[::1]::80/tcp"}},
		{"of every address", []string{v4, "0.0.0.0:8081:80/tcp"}, "0.0.0.0:8081", []string{v4}},
	} {
		gone := []port.Published{{Address: netip.MustParseAddrPort(c.removed), Guest: 80, Protocol: port.TCP}}
		if got := without(c.texts, gone); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q without %s is %q, want %q", c.name, c.texts, c.removed, got, c.want)
		}
	}
}

// TestPortsThatCannotBeKept: ports that the VM's configuration does not take are not published either.
func TestPortsThatCannotBeKept(t *testing.T) {
	b := newBox(t, "")
	b.launch()
	config := b.Path(instance.ConfigFile)
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(config, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if added, err := b.client().AddPorts(patiently(t), []string{"80", "81"}); err == nil {
		t.Errorf("%v is published", added)
	}
	status, err := b.client().Status(patiently(t))
	if err != nil || len(status.Ports) > 0 {
		t.Errorf("after an error %v is published (%v)", status.Ports, err)
	}
	if _, err := b.client().Kill(patiently(t)); err != nil {
		t.Error(err)
	}
	_, _ = b.ended()
}
