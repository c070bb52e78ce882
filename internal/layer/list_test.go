package layer

import (
	"fmt"
	"testing"
)

// A list gives back what was put in, in that order, and once for Drain.
func TestList(t *testing.T) {
	for _, count := range []int{0, 1, listBlock - 1, listBlock, listBlock + 1, 3*listBlock + 7} {
		var l List
		for i := range count {
			l.Append(Entry{Name: fmt.Sprint(i)})
		}
		if last := l.Last(); count > 0 && last.Name != fmt.Sprint(count-1) || count == 0 && last != nil {
			t.Errorf("of %d entries, the last is %v", count, last)
		}
		for _, read := range []func() []Entry{
			func() []Entry { return collect(l) },
			func() (drained []Entry) {
				for e := range l.Drain() {
					drained = append(drained, *e)
				}
				return drained
			},
		} {
			got := read()
			if len(got) != count {
				t.Errorf("of %d entries, %d come back", count, len(got))
			}
			for i, e := range got {
				if e.Name != fmt.Sprint(i) {
					t.Fatalf("of %d entries, number %d is %q", count, i, e.Name)
				}
			}
		}
		if rest := collect(l); rest != nil {
			t.Errorf("after Drain, %d entries are left", len(rest))
		}
	}
}
