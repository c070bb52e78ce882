package port

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

func TestParse(t *testing.T) {
	ip := netip.MustParseAddr
	tests := []struct {
		text string
		want []Spec
	}{
		{"80", []Spec{{Guest: 80, Protocol: TCP}}},
		{"80/tcp", []Spec{{Guest: 80, Protocol: TCP}}},
		{"80/UDP", []Spec{{Guest: 80, Protocol: UDP}}},
		{":80", []Spec{{Guest: 80, Protocol: TCP}}},
		{"0:80", []Spec{{Guest: 80, Protocol: TCP}}},
		{"8080:80", []Spec{{Host: 8080, Guest: 80, Protocol: TCP}}},
		{"65535:1/udp", []Spec{{Host: 65535, Guest: 1, Protocol: UDP}}},
		{"0.0.0.0:8080:80", []Spec{{ip("0.0.0.0"), 8080, 80, TCP}}},
		{"127.0.0.2::80", []Spec{{ip("127.0.0.2"), 0, 80, TCP}}},
		{"[::1]:8080:80/udp", []Spec{{ip("::1"), 8080, 80, UDP}}},
		{"[::]::80", []Spec{{ip("::"), 0, 80, TCP}}},
		{"[::1]:80", []Spec{{ip("::1"), 0, 80, TCP}}},
		{"[::ffff:127.0.0.1]:1:2", []Spec{{ip("127.0.0.1"), 1, 2, TCP}}},
		{"8000-8001:9000-9001", []Spec{{Host: 8000, Guest: 9000, Protocol: TCP}, {Host: 8001, Guest: 9001, Protocol: TCP}}},
		{"9000-9001/udp", []Spec{{Guest: 9000, Protocol: UDP}, {Guest: 9001, Protocol: UDP}}},
		{"80-80:90", []Spec{{Host: 80, Guest: 90, Protocol: TCP}}},
	}
	for _, test := range tests {
		got, err := Parse(test.text)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q is %v, %v; want %v", test.text, got, err, test.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", ":", "::", "/tcp", "0", "65536", "-1", "80x", " 80", "http", "80/sctp", "80/", "8080:", "8080:0", "a:80", "localhost:8080:80",
		"::1:8080:80", "1.2.3.4:1:2:3", "[::1]80", "[::1", "[127.0.0.1:80", "[x]:1:2", "8000-8001:80", "80:8000-8001", "8001-8000:1-2", "1-2-3",
		"1-65535:1-65535", "8080:80/tcp/udp",
	} {
		got, err := Parse(text)
		if err == nil {
			t.Errorf("%q is taken for %v", text, got)
		} else if fault.KindOf(err) != fault.Usage || fault.HintOf(err) == "" {
			t.Errorf("%q is refused by %v, kind %d, hint %q", text, err, fault.KindOf(err), fault.HintOf(err))
		}
	}
}

// FuzzParse: any text is ports or an error, and what was understood is read back as the same.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"80", "127.0.0.1:8080:80/tcp", "[fe80::1%eth0]:1-3:4-6/udp", "::80", "0:0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := Parse(text)
		if err != nil {
			return
		}
		if len(specs) == 0 || len(specs) > maxPorts {
			t.Fatalf("%q is %d ports", text, len(specs))
		}
		for _, want := range specs {
			got, err := Parse(want.String())
			if err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("%q is %v, which is written %q and read back as %v, %v", text, want, want.String(), got, err)
			}
		}
	})
}
