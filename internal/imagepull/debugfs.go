package imagepull

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/system"
)

// debugfs is the program debugfs of e2fsprogs at work on one image. Its scripts and the files that they read are in a
// directory of its own beside the image, which is debugfs's working directory: so no path of the host is ever part of
// a script.
type debugfs struct {
	runner *system.CommandRunner
	image  string // as the caller named it
	dir    string
}

// imageLink is the name of the image in the working directory. libext2fs takes what follows a "?" in a file's name for
// options, so it is not given the real name.
const imageLink = "image"

// newDebugfs prepares the working directory. close removes it.
func newDebugfs(runner *system.CommandRunner, image string) (*debugfs, error) {
	file, err := filepath.Abs(image)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".debugfs-*")
	if err != nil {
		return nil, hostSpace(err)
	}
	d := &debugfs{runner: runner, image: image, dir: dir}
	if err := os.Symlink(file, filepath.Join(dir, imageLink)); err != nil {
		d.close()
		return nil, hostSpace(err)
	}
	return d, nil
}

func (d *debugfs) close() { _ = os.RemoveAll(d.dir) }

// script starts a new script with a name that is unique in d.
func (d *debugfs) script(name string) (*script, error) {
	f, err := os.Create(filepath.Join(d.dir, name))
	if err != nil {
		return nil, hostSpace(err)
	}
	return &script{name: name, file: f, out: bufio.NewWriter(f)}, nil
}

// script is a list of debugfs commands in a file, which can be very long.
//
// debugfs reads a line of at most 8191 bytes with its end (fgets into BUFSIZ, debugfs.c: source_file), which ends at
// the first line feed or carriage return, and splits it into words at blanks and tabs, where a word in double quotes
// may have any byte and a quote is doubled (lib/ss/parse.c). A line that begins with "#" is a comment, and is echoed.
type script struct {
	name string
	file *os.File
	out  *bufio.Writer
	cwd  string // directory entered last; "" before the first
	err  error  // the first error, which finish returns
}

const maxLine = 8190

// about begins the commands that concern path. Errors of debugfs are then reported with it.
func (s *script) about(path string) {
	text := strconv.QuoteToASCII(path)
	if len(text) > maxLine-1 {
		text = text[:maxLine-1]
	}
	s.write("#" + text)
}

// do appends a command. Its words are joined by blanks: those that could have any byte must have been through quote.
func (s *script) do(words ...string) {
	line := strings.Join(words, " ")
	if len(line) > maxLine && s.err == nil {
		s.err = unencodable(line, fmt.Sprintf("a command of %d bytes", len(line)))
	}
	s.write(line)
}

func (s *script) write(line string) {
	if s.err == nil {
		_, s.err = s.out.WriteString(line + "\n")
	}
}

// enter makes dir the directory in which names without a "/" are created. That is the only way to create in the root,
// and the only one at all for mknod.
func (s *script) enter(dir string) {
	if s.cwd != dir {
		s.do("cd", s.quote(dir))
		s.cwd = dir
	}
}

// quote returns word as one word of a line. A word that no line can have becomes the script's error.
func (s *script) quote(word string) string {
	if i := strings.IndexAny(word, "\n\r\x00"); i >= 0 && s.err == nil {
		s.err = unencodable(word, fmt.Sprintf("the character %q", word[i]))
	}
	return `"` + strings.ReplaceAll(word, `"`, `""`) + `"`
}

// finish ends the script, and returns the first error that anything in it had.
func (s *script) finish() error {
	// So that the errors of writing the image back come before the end of the output.
	s.about("/")
	s.do("close_filesys")
	if s.err == nil {
		s.err = s.out.Flush()
	}
	return hostSpace(errors.Join(s.err, s.file.Close()))
}

// unencodable says why a name of the image cannot be given to debugfs.
func unencodable(name, why string) error {
	const most = 300
	if len(name) > most {
		name = name[:most] + "…"
	}
	err := fmt.Errorf("the name %q has %s, which debugfs cannot be given", name, why)
	return fault.New(fault.Unsupported, err, "rename the file in the image")
}

// answer is one line that debugfs printed in answer to a command.
type answer struct {
	number  int    // of the command, from 0; comments do not count
	command string // the command's line
	path    string // of the last about, quoted
	text    string
}

// refused returns the error for an answer that should not be.
func (a answer) refused() error {
	text := fmt.Sprintf("debugfs: %s: %s", a.command, a.text)
	if a.path != "" {
		text = a.path + ": " + text
	}
	return spaceFault(errors.New(text))
}

// run runs a finished script. debugfs exits with 0 whatever happens, so all that it prints is matched with the
// script: each command is echoed, and what follows an echo is passed to accept. What comes before the first echo, but
// for the version, is an error, as are a missing echo and accept's first error.
func (d *debugfs) run(ctx context.Context, s *script, writable bool, accept func(answer) error) error {
	args := []string{"-f", s.name, imageLink}
	if writable {
		args = append([]string{"-w"}, args...)
	}
	f, err := os.Open(filepath.Join(d.dir, s.name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	t := &transcript{script: bufio.NewReader(f), accept: accept}
	t.next()
	err = d.start(ctx, args, t)
	if ctx.Err() != nil {
		return fmt.Errorf("running debugfs on %q: %w", d.image, context.Cause(ctx))
	}
	if ended := t.finish(); ended != nil && err != nil {
		return fmt.Errorf("%w (%w)", ended, err)
	} else if ended != nil {
		return ended
	}
	return err
}

// start runs debugfs to its end with both of its outputs going to out.
func (d *debugfs) start(ctx context.Context, args []string, out io.Writer) error {
	// The same writer twice gives the program one pipe for both, so that errors stay between the echoes.
	p, err := d.runner.Start(ctx, system.Command{Name: "debugfs", Args: args, Dir: d.dir}, out, out)
	if err != nil {
		return err
	}
	return p.Wait()
}

// transcript matches what debugfs prints with the script that it runs. It is debugfs's output.
type transcript struct {
	script   *bufio.Reader
	expected string // the next line that debugfs has to echo; "" at the script's end
	accept   func(answer) error

	line    []byte // the beginning of a line that is not complete
	command answer // the command that debugfs is at; its text is empty
	begun   bool   // whether there was an echo
	err     error
}

// Write takes a part of the output. It never fails, so that debugfs can end its work on the image in order.
func (t *transcript) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			t.line = append(t.line, rest...)
			break
		}
		t.take(string(append(t.line, rest[:end]...)))
		t.line, rest = t.line[:0], rest[end+1:]
	}
	return len(p), nil
}

// take judges one line.
func (t *transcript) take(line string) {
	switch {
	case t.expected != "" && line == t.expected:
		t.advance(line)
	case line == "" || t.err != nil:
	case !t.begun && strings.HasPrefix(line, "debugfs 1."):
		// The version, which goes to standard error.
	case !t.begun:
		t.err = spaceFault(fmt.Errorf("opening the image: %s", line))
	default:
		a := t.command
		a.text = line
		t.err = t.accept(a)
	}
}

// advance goes on to the line that was echoed.
func (t *transcript) advance(line string) {
	if path, ok := strings.CutPrefix(line, "#"); ok {
		t.command.path = path
	} else {
		t.command.command = strings.TrimPrefix(line, echoPrefix)
		if t.begun {
			t.command.number++
		}
		t.begun = true
	}
	t.next()
}

const echoPrefix = "debugfs: "

// next reads the next line of the script.
func (t *transcript) next() {
	line, err := t.script.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) && t.err == nil {
		t.err = err
	}
	line = strings.TrimSuffix(line, "\n")
	if line != "" && line[0] != '#' {
		line = echoPrefix + line
	}
	t.expected = line
}

// finish returns the first error of the output, now that it is complete.
func (t *transcript) finish() error {
	if len(t.line) > 0 {
		t.take(string(t.line))
	}
	if t.err == nil && t.expected != "" {
		t.err = fmt.Errorf("debugfs ended before %q", t.expected)
	}
	return t.err
}
