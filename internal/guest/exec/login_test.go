package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// loginGuest is a guest in which the test's user has a home and the given shell; others are where else to look for one.
func loginGuest(t *testing.T, shell string, others []string) (g *Guest, home string) {
	t.Helper()
	home = t.TempDir()
	g = testGuest()
	g.Config.Env = append(g.Config.Env, "USER=image", "HOME=/image")
	g.Config.WorkingDir = "/usr"
	line := fmt.Sprintf("tester:x:%d:%d::%s:%s\n", os.Getuid(), os.Getgid(), home, shell)
	g.Etc = fstest.MapFS{"passwd": {Data: []byte(line)}}
	g.shells = others
	return g, home
}

func TestLogin(t *testing.T) {
	const about = `echo $0 $HOME $USER $LOGNAME $SHELL $FROM_IMAGE $(pwd)`
	none := []string{}
	tests := []struct {
		name   string
		shell  string // in passwd
		others []string
		argv   []string
		stdin  string
		dir    string
		want   string // HOME stands for the home
		fails  frame.Reason
		words  string // part of the refusal
	}{
		{name: "shell", shell: "/bin/sh", stdin: about, want: "-sh HOME tester tester /bin/sh yes HOME\n"},
		{name: "command line", shell: "/bin/sh", argv: []string{about}, want: "sh HOME tester tester /bin/sh yes HOME\n"},
		{name: "program", shell: "/bin/sh", argv: []string{"echo", "$USER  x"}, want: "$USER  x\n"},
		{name: "directory", shell: "/bin/sh", argv: []string{"pwd"}, dir: "/usr", want: "/usr\n"},
		{name: "shell is missing", shell: "/bin/no-such-shell", argv: []string{"echo $0 $SHELL"}, want: "bash /bin/bash\n"},
		{name: "no shell in passwd", shell: "", argv: []string{"echo $0"}, want: "bash\n"},
		{name: "second of the usual shells", shell: "", others: []string{"/no/bash", "/bin/sh"}, argv: []string{"echo $0"}, want: "sh\n"},
		{name: "shell that refuses", shell: "/bin/false", argv: []string{"echo never"}, want: ""},
		{name: "no shell at all", shell: "/no/shell", others: none, fails: frame.NotFound, words: "banger vm exec"},
		{name: "words without a shell", shell: "", others: none, argv: []string{`printf "%s|" 'a b' c\ d`}, want: "a b|c d|"},
		{name: "pipe without a shell", shell: "", others: none, argv: []string{"echo a | cat"}, fails: frame.NotFound, words: "needs a shell"},
		{name: "program without a shell", shell: "", others: none, argv: []string{"echo", "a|b"}, want: "a|b\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g, home := loginGuest(t, test.shell, test.others)
			got := run(t, g, Command{Login: true, Argv: test.argv, Dir: test.dir, Stdin: test.stdin != ""}, test.stdin)
			var refused *frame.Refusal
			if test.fails != "" {
				if !errors.As(got.err, &refused) || refused.Reason != test.fails || !strings.Contains(refused.Message, test.words) {
					t.Errorf("error %v, want a refusal for %q with %q", got.err, test.fails, test.words)
				}
				return
			}
			if want := strings.ReplaceAll(test.want, "HOME", home); got.err != nil && test.shell != "/bin/false" || got.stdout != want {
				t.Errorf("got %q and %q (error %v), want %q", got.stdout, got.stderr, got.err, want)
			}
		})
	}
}

// TestLoginWithoutHome: a home that is missing is not made, and the own environment wins.
func TestLoginWithoutHome(t *testing.T) {
	g := testGuest() // its user's home is /home/nobody-in-particular
	got := run(t, g, Command{Login: true, Argv: []string{"pwd; echo $USER"}, Env: []string{"USER=other"}}, "")
	if want := "/\nother\n"; got.stdout != want || got.err != nil {
		t.Errorf("got %q, %v, want %q", got.stdout, got.err, want)
	}
}

// TestBusybox: a busybox is started as its sh.
func TestBusybox(t *testing.T) {
	busybox := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(busybox, []byte("#!/bin/sh\necho \"$SHELL|$1|$2\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	g, _ := loginGuest(t, "", []string{busybox})
	p, refused := g.plan(Command{Login: true})
	if refused != nil || p.file != busybox || !reflect.DeepEqual(p.argv, []string{"-sh"}) {
		t.Errorf("the login shell is %q as %q (%v), want %q as -sh", p.file, p.argv, refused, busybox)
	}
	if got := run(t, g, Command{Login: true, Argv: []string{"x y"}}, ""); got.stdout != "|-c|x y\n" {
		t.Errorf("the command line reached busybox as %q (%v)", got.stdout, got.err)
	}
}

func TestSplitWords(t *testing.T) {
	tests := []struct {
		line  string
		want  []string
		fails frame.Reason
	}{
		{line: "true", want: []string{"true"}},
		{line: "  a\t b ", want: []string{"a", "b"}},
		{line: `a 'b  "c' "d 'e"f`, want: []string{"a", `b  "c`, `d 'ef`}},
		{line: `a "" ''`, want: []string{"a", "", ""}},
		{line: `\a\ \'b "\"\\\n\$"`, want: []string{"a 'b", `"\\n$`}},
		{line: `a\`, want: []string{`a\`}},
		{line: "a \\\nb", want: []string{"a", "b"}},
		{line: `a\ \ `, want: []string{"a  "}},
		{line: "a b\u00a0", want: []string{"a", "b\u00a0"}},
		{line: "\n\ta\n \n", want: []string{"a"}},
		{line: "*.go ~ #x ä", want: []string{"*.go", "~", "#x", "ä"}},
		{line: "'$x' '|'", want: []string{"$x", "|"}},
		{line: "", fails: frame.NotFound},
		{line: " ", fails: frame.NotFound},
		{line: "a $x", fails: frame.NotFound},
		{line: `a "$x"`, fails: frame.NotFound},
		{line: "a; b", fails: frame.NotFound},
		{line: "a\nb", fails: frame.NotFound},
		{line: "'a", fails: frame.Refused},
		{line: `"a`, fails: frame.Refused},
	}
	for _, test := range tests {
		got, refused := splitWords(test.line)
		switch {
		case test.fails == "" && (refused != nil || !reflect.DeepEqual(got, test.want)):
			t.Errorf("splitWords(%q) = %q, %v, want %q", test.line, got, refused, test.want)
		case test.fails != "" && (refused == nil || refused.Reason != test.fails):
			t.Errorf("splitWords(%q) = %q, %v, want a refusal for %q", test.line, got, refused, test.fails)
		}
	}
}

// FuzzSplitWords: whatever is quoted comes back, and no line is a panic.
func FuzzSplitWords(f *testing.F) {
	f.Add(`a 'b' "c" \d`)
	f.Add(`"\`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = splitWords(text)
		quoted := "x '" + strings.ReplaceAll(text, "'", `'\''`) + "'"
		got, refused := splitWords(quoted)
		if refused != nil || len(got) != 2 || got[1] != text {
			t.Errorf("splitWords(%q) = %q, %v, want the quoted text %q", quoted, got, refused, text)
		}
	})
}

// TestStart: a detached command goes on after the stream's end, has no input, and can be refused.
func TestStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	script := fmt.Sprintf("cat; test -t 1 || echo 1; sleep 0.3; echo $$ > %s.new; mv %[1]s.new %[1]s; sleep 60", file)
	cmd := shell(script)
	cmd.TTY, cmd.Stdin = &Size{Rows: 1, Columns: 1}, true
	pid, err := Start(t.Context(), open(t, testGuest()), cmd)
	if err != nil || pid <= 1 {
		t.Fatalf("Start = %d, %v, want a process id", pid, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if text, err := os.ReadFile(file); err == nil {
			if string(text) != fmt.Sprintln(pid) {
				t.Errorf("the command has the process id %q, Start returned %d", text, pid)
			}
			break
		}
		if time.Now().After(end) {
			t.Error("the command did not go on after the end of its stream")
			break
		}
	}
	killGroup(t, fmt.Sprint(pid))
	waitGone(t, fmt.Sprint(pid))
	var refused *frame.Refusal
	if _, err := Start(t.Context(), open(t, testGuest()), Command{Argv: []string{"/no/such/file"}}); !errors.As(err, &refused) || refused.Reason != frame.NotFound {
		t.Errorf("starting what is not there gave %v, want a refusal", err)
	}
}

func TestLookUp(t *testing.T) {
	g := testGuest()
	g.Config.User = "tester"
	want := Account{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: "/home/nobody-in-particular"}
	for _, spec := range []string{"tester", ""} {
		if got, err := LookUp(t.Context(), open(t, g), spec); got != want || err != nil {
			t.Errorf("LookUp(%q) = %+v, %v, want %+v", spec, got, err, want)
		}
	}
	var refused *frame.Refusal
	if _, err := LookUp(t.Context(), open(t, g), "nobody-here"); !errors.As(err, &refused) || refused.Reason != frame.BadUser {
		t.Errorf("looking up a user who is not there gave %v, want a refusal for %q", err, frame.BadUser)
	}
}
