package rootfs

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/banger-vm/banger/internal/layer"
)

func TestOpen(t *testing.T) {
	source := strings.NewReader("....abcdefghij")
	cases := []struct {
		name string
		node Node
		want string
	}{
		{"empty", Node{}, ""},
		{"only a hole", Node{Size: 5}, "\x00\x00\x00\x00\x00"},
		{"one extent", Node{Size: 3, Source: source, Extents: []layer.Extent{{Logical: 0, Offset: 4, Length: 3}}}, "abc"},
		{
			"extents out of the source's order, holes around them",
			Node{Size: 12, Source: source, Extents: []layer.Extent{
				{Logical: 1, Offset: 10, Length: 2}, {Logical: 3, Offset: 4, Length: 1}, {Logical: 5, Offset: 5, Length: 0},
				{Logical: 6, Offset: 12, Length: 2},
			}},
			"\x00gha\x00\x00ij\x00\x00\x00\x00",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if err := iotest.TestReader(c.node.Open(), []byte(c.want)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenShortSource(t *testing.T) {
	n := Node{Size: 8, Source: strings.NewReader("abc"), Extents: []layer.Extent{{Logical: 2, Offset: 1, Length: 6}}}
	got, err := io.ReadAll(n.Open())
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "\x00\x00bc" {
		t.Errorf("reading a file whose blob is cut off gave %q and error %v, want the part before and %v", got, err, io.ErrUnexpectedEOF)
	}
}
