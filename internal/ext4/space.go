package ext4

import (
	"errors"

	"github.com/banger-vm/banger/internal/fault"
)

// space gives away the free blocks of a file system in ascending order, around the metadata. What has been given away is
// thus all that is before next, and needs no bitmap.
type space struct {
	next   uint32 // the lowest block that is not given away; metadata may begin there
	blocks uint32
	fixed  []region // metadata that begins at next or later
	taken  uint32   // how many blocks were given away
}

func newSpace(g geometry) space {
	return space{blocks: g.blocks, fixed: g.metadata()}
}

// free returns the free run that begins at the lowest free block.
func (s *space) free() (start, length uint32, err error) {
	for len(s.fixed) > 0 && s.fixed[0].start <= s.next {
		s.next = max(s.next, s.fixed[0].end)
		s.fixed = s.fixed[1:]
	}
	end := s.blocks
	if len(s.fixed) > 0 {
		end = s.fixed[0].start
	}
	if s.next >= end {
		err := errors.New("writing the file system: it has no room for all of the tree")
		return 0, 0, fault.New(fault.NoSpace, err, "pass a larger --size")
	}
	return s.next, end - s.next, nil
}

// take gives away the first n blocks of the run that free has returned.
func (s *space) take(n uint32) {
	s.next += n
	s.taken += n
}
