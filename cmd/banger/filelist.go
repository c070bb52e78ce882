package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/engine"
)

// fileList prints names.
type fileList struct {
	*bufio.Writer
	end  string              // of a line
	name func(string) string // how a name is shown
}

// newFileList returns one on standard output.
func (a *app) newFileList(zero bool) *fileList {
	l := &fileList{Writer: bufio.NewWriterSize(a.stdout, 64<<10), end: "\n", name: func(name string) string { return name }}
	file, ok := a.stdout.(*os.File)
	switch {
	case zero:
		l.end = "\x00"
	case ok && term.IsTerminal(int(file.Fd())):
		l.name = quoteName
	}
	return l
}

// finish prints what is left, and returns err or why it could not.
func (l *fileList) finish(err error) error {
	flushed := l.Flush()
	if err != nil {
		return err
	}
	return flushed
}

func (l *fileList) line(text string) error {
	_, err := l.WriteString(text + l.end)
	return err
}

// quoteName quotes a name with bytes that a terminal does not show, or takes for more than characters.
func quoteName(name string) string {
	hidden := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if strings.ContainsFunc(name, hidden) || strings.HasPrefix(name, `"`) {
		return strconv.Quote(name)
	}
	return name
}

// longLine describes a file as ls -l does.
func longLine(f engine.File, name func(string) string) string {
	size := strconv.FormatInt(f.Size, 10)
	if f.Type == engine.TypeChar || f.Type == engine.TypeBlock {
		size = fmt.Sprintf("%d, %d", f.Major, f.Minor)
	}
	line := fmt.Sprintf("%s %3d %5d %5d %10s %s %s", modeText(f), f.Links, f.UID, f.GID, size,
		f.MTime.UTC().Format(time.RFC3339), name(f.Path))
	if f.Type == engine.TypeSymlink {
		line += " -> " + name(f.Target)
	}
	return line
}

// modeText is the first column of ls -l.
func modeText(f engine.File) string {
	types := map[string]byte{
		engine.TypeRegular: '-', engine.TypeDirectory: 'd', engine.TypeSymlink: 'l', engine.TypeChar: 'c',
		engine.TypeBlock: 'b', engine.TypeFIFO: 'p', engine.TypeSocket: 's',
	}
	mode, _ := strconv.ParseUint(f.Mode, 8, 16)
	text := []byte("?rwxrwxrwx ")
	text[0] = types[f.Type]
	for bit := range 9 {
		if mode>>(8-bit)&1 == 0 {
			text[1+bit] = '-'
		}
	}
	for _, special := range []struct {
		bit      uint64
		at       int
		execless byte // shown where nobody may execute
	}{{0o4000, 3, 'S'}, {0o2000, 6, 'S'}, {0o1000, 9, 'T'}} {
		switch {
		case mode&special.bit == 0:
		case text[special.at] == 'x':
			text[special.at] = special.execless + 'a' - 'A'
		default:
			text[special.at] = special.execless
		}
	}
	for _, x := range f.Xattrs {
		if strings.HasPrefix(x.Name, "system.posix_acl_") {
			text[10] = '+'
		}
	}
	return strings.TrimRight(string(text), " ")
}

// jsonList prints a JSON object with one list, an element on each line, as the elements come.
type jsonList struct {
	out   io.Writer
	name  string
	begun bool
}

func (l *jsonList) add(element any) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(element); err != nil {
		return err
	}
	before := ",\n"
	if !l.begun {
		before = fmt.Sprintf("{\"schema\": 1, %q: [\n", l.name)
	}
	l.begun = true
	_, err := fmt.Fprintf(l.out, "%s%s", before, bytes.TrimSuffix(text.Bytes(), []byte("\n")))
	return err
}

// end prints the end. After an error there is none: what was printed is not all.
func (l *jsonList) end(err error) error {
	switch {
	case err != nil:
		return err
	case l.begun:
		_, err = fmt.Fprint(l.out, "\n]}\n")
	default:
		_, err = fmt.Fprintf(l.out, "{\"schema\": 1, %q: []}\n", l.name)
	}
	return err
}
