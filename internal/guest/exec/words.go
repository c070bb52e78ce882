package exec

import (
	"strings"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// shellOnly are the characters that mean more than themselves outside quotes, to a shell alone (POSIX, Shell Command
// Language, 2.2): operators and expansions. Patterns and "~" stand for themselves, as in a shell that finds no match.
const shellOnly = "|&;<>()$`\n"

// blanks are what may stand around a command line.
const blanks = " \t\n"

// splitWords splits a command line into words by the shell's rules of quoting, for an image without a shell. What only
// a shell can do is refused, rather than done otherwise.
func splitWords(line string) ([]string, *frame.Refusal) {
	s := splitter{rest: strings.TrimLeft(line, blanks)}
	for s.rest != "" && s.refused == nil {
		s.next()
	}
	s.end()
	if s.refused == nil && len(s.words) == 0 {
		s.refused = frame.Refuse(frame.NotFound, "running the command: it is empty")
	}
	return s.words, s.refused
}

// splitter is the state of splitWords.
type splitter struct {
	rest    string
	word    strings.Builder
	open    bool // a word has begun; it may be empty, by quotes
	words   []string
	refused *frame.Refusal
}

// next takes one character, or one quoted part.
func (s *splitter) next() {
	c := s.rest[0]
	s.rest = s.rest[1:]
	switch {
	case c == ' ' || c == '\t', c == '\n' && strings.Trim(s.rest, blanks) == "":
		s.end()
	case c == '\'':
		s.singleQuoted()
	case c == '"':
		s.doubleQuoted()
	case c == '\\':
		s.escaped()
	case strings.IndexByte(shellOnly, c) >= 0:
		s.needsShell(c)
	default:
		s.add(string([]byte{c}))
	}
}

func (s *splitter) add(text string) {
	s.open = true
	s.word.WriteString(text)
}

// end ends the word at hand, if there is one.
func (s *splitter) end() {
	if s.open {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.open = false
}

// escaped takes the character after a backslash. An escaped newline joins lines; a backslash at the end is itself.
func (s *splitter) escaped() {
	if s.rest == "" {
		s.add(`\`)
		return
	}
	if s.rest[0] != '\n' {
		s.add(s.rest[:1])
	}
	s.rest = s.rest[1:]
}

func (s *splitter) singleQuoted() {
	text, rest, closed := strings.Cut(s.rest, "'")
	s.add(text)
	s.rest = rest
	if !closed {
		s.unclosed('\'')
	}
}

// doubleQuoted takes what follows a double quote, in which a backslash escapes only some characters (POSIX, 2.2.3).
func (s *splitter) doubleQuoted() {
	s.add("")
	for s.rest != "" {
		c := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case c == '"':
			return
		case c == '$' || c == '`':
			s.needsShell(c)
			return
		case c == '\\' && s.rest != "" && strings.IndexByte("$`\"\\\n", s.rest[0]) >= 0:
			s.escaped()
		default:
			s.add(string([]byte{c}))
		}
	}
	s.unclosed('"')
}

func (s *splitter) needsShell(c byte) {
	s.refused = frame.Refuse(frame.NotFound, "running the command: %q needs a shell, and the image has none", c)
}

func (s *splitter) unclosed(quote byte) {
	s.refused = frame.Refuse(frame.Refused,
		"running the command: there is no second %c, and the image has no shell to ask", quote)
}
