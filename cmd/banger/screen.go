package main

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// screen shows some lines at the end of what is on a terminal, and replaces them. Below them is an empty line, where the
// cursor waits: what the terminal itself prints there, such as ^C, is replaced as well.
type screen struct {
	out     io.Writer
	size    func() (columns, rows int) // of the terminal, at the moment
	shown   []string
	columns int // of the terminal when they were written
}

// show replaces the lines. Each is cut to the terminal's width; there must be fewer than the terminal has rows. What is there
// already is left alone: some terminals wrap lines anew before they tell their size, and a line that is written between the
// two would be in the wrong place.
func (s *screen) show(lines []string) {
	columns, _ := s.size()
	fitting := make([]string, len(lines))
	for n, line := range lines {
		fitting[n] = cut(line, columns)
	}
	if slices.Equal(fitting, s.shown) && (columns == s.columns || len(lines) == 0) {
		return
	}
	text := s.erase(columns)
	for _, line := range fitting {
		text += line + "\n"
	}
	s.shown, s.columns = fitting, columns
	_, _ = io.WriteString(s.out, text) // at once, so that nothing flickers
}

// erase takes the lines away, row by row (ECMA-48: CUU, cursor up, and EL, erase in line): what erases the whole screen at
// once has tmux keep it in its history. Terminals wrap lines anew when they become narrower, so that a line may take several
// rows by now.
func (s *screen) erase(columns int) string {
	rows := 0
	for _, line := range s.shown {
		rows += max(1, (utf8.RuneCountInString(line)+columns-1)/columns)
	}
	if rows == 0 {
		return ""
	}
	return "\r\x1b[2K" + strings.Repeat("\x1b[A\x1b[2K", rows)
}

// cut shortens a line to a number of columns.
func cut(line string, columns int) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	return string([]rune(line)[:max(0, columns-1)]) + "…"
}
