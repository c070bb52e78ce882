package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// screen shows some lines at the end of what is on a terminal, and replaces them. Below them is an empty line, where the
// cursor waits: what the terminal itself prints there, such as ^C, is replaced as well.
type screen struct {
	out   io.Writer
	size  func() (columns, rows int) // of the terminal, at the moment
	shown []string
}

// show replaces the lines. Each is cut to the terminal's width; there must be fewer than the terminal has rows.
func (s *screen) show(lines []string) {
	if len(s.shown) == 0 && len(lines) == 0 {
		return
	}
	columns, _ := s.size()
	var text strings.Builder
	text.WriteString(s.erase(columns))
	s.shown = s.shown[:0]
	for _, line := range lines {
		line = cut(line, columns)
		s.shown = append(s.shown, line)
		text.WriteString(line + "\n")
	}
	_, _ = io.WriteString(s.out, text.String()) // at once, so that nothing flickers
}

// erase takes the lines away (ECMA-48: CUU, cursor up, and ED, erase to the end). Terminals wrap lines anew when they
// become narrower, so that a line may take several rows by now.
func (s *screen) erase(columns int) string {
	rows := 0
	for _, line := range s.shown {
		rows += max(1, (utf8.RuneCountInString(line)+columns-1)/columns)
	}
	if rows == 0 {
		return ""
	}
	return fmt.Sprintf("\r\x1b[%dA\x1b[J", rows)
}

// cut shortens a line to a number of columns.
func cut(line string, columns int) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	return string([]rune(line)[:max(0, columns-1)]) + "…"
}
