package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/fault"
)

// testApp is an app with these variables and nothing on its standard input.
func testApp(variables map[string]string) *app {
	lookup := func(name string) (string, bool) {
		value, ok := variables[name]
		return value, ok
	}
	sys := system{stdin: os.Stdin, stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}, lookupEnv: lookup}
	return &app{system: sys, progress: newProgress(sys)}
}

func TestEnvironmentFiles(t *testing.T) {
	variables := map[string]string{"SET": "from here", "EMPTY": ""}
	for _, c := range []struct {
		name, text string
		want       []string // nil is a usage error
	}{
		{"nothing", "", []string{}},
		{"values", "A=b\nC=d=e\nF=\n", []string{"A=b", "C=d=e", "F="}},
		{"no newline at the end", "A=b", []string{"A=b"}},
		{"comments and empty lines", "# A=b\n\n   \n  # c\nD=e # no comment\n", []string{"D=e # no comment"}},
		{"blanks before a name", " \tA=b \n", []string{"A=b "}},
		{"quotes are the value's", `A="b c"`, []string{`A="b c"`}},
		{"line ends of Windows", "A=b\r\nC=d\r\n", []string{"A=b", "C=d"}},
		{"byte order mark", "\ufeffA=b\n", []string{"A=b"}},
		{"from here", "SET\nEMPTY\n", []string{"SET=from here", "EMPTY="}},
		{"not set here", "UNSET\nA=b\n", []string{"A=b"}},
		{"without a name", "A=b\n=c\n", nil},
		{"blank in a name", "A B=c\n", nil},
		{"blank after a name", "A =c\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "env")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := testApp(variables).environmentFiles([]string{file})
			if c.want == nil {
				if fault.KindOf(err) != fault.Usage || !strings.Contains(err.Error(), file) {
					t.Errorf("got %q (%v), want a usage error that names the file", got, err)
				}
				return
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
	if _, err := testApp(nil).environmentFiles([]string{"/nonexistent/env"}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a file that is not there gives %v", err)
	}
}

// TestEnvironment: -e KEY takes the value from here, and takes the variable away if there is none.
func TestEnvironment(t *testing.T) {
	a := testApp(map[string]string{"SET": "x", "EMPTY": ""})
	got, err := a.environment([]string{"A=b", "SET", "EMPTY", "UNSET", "C="})
	if want := []string{"A=b", "SET=x", "EMPTY=", "UNSET", "C="}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	for _, nameless := range []string{"", "=", "=x"} {
		if _, err := a.environment([]string{nameless}); fault.KindOf(err) != fault.Usage {
			t.Errorf("-e %q gives %v, want an error of the command line", nameless, err)
		}
	}
}

func TestTimeLimits(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "5": 5 * time.Second, "90": 90 * time.Second, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond,
		"": -1, "-1": -1, "-1s": -1, "soon": -1, "1.5": -1, "99999999999": -1,
	} {
		var got limitValue
		err := got.Set(text)
		if (err != nil) != (want < 0) || err == nil && time.Duration(got) != want {
			t.Errorf("--time %q: got %v (%v), want %v", text, &got, err, want)
		}
	}
}

func TestLogOptions(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		tail, since string
		wantTail    int
		wantSince   time.Time
		bad         bool
	}{
		{tail: "all", wantTail: -1},
		{tail: "0"},
		{tail: "20", wantTail: 20},
		{tail: "-1", bad: true},
		{tail: "many", bad: true},
		{tail: "all", since: "10m", wantTail: -1, wantSince: now.Add(-10 * time.Minute)},
		{tail: "all", since: "2026-01-02T15:04:05Z", wantTail: -1, wantSince: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)},
		{tail: "all", since: "2026-01-02T15:04:05.5+02:00", wantTail: -1, wantSince: time.Date(2026, 1, 2, 13, 4, 5, 5e8, time.UTC)},
		{tail: "all", since: "yesterday", bad: true},
	} {
		got, err := vmLogs{tail: c.tail, since: c.since}.options()
		if c.bad {
			if fault.KindOf(err) != fault.Usage {
				t.Errorf("--tail %q --since %q: got %v, want a usage error", c.tail, c.since, err)
			}
			continue
		}
		if err != nil || got.Tail != c.wantTail || got.Since.Sub(c.wantSince).Abs() > time.Minute/2 {
			t.Errorf("--tail %q --since %q: got %d, %v (%v), want %d, %v", c.tail, c.since, got.Tail, got.Since, err, c.wantTail, c.wantSince)
		}
	}
}

// TestCommandArguments: a command may have empty arguments, but an image or a VM has to be named, and exec has a command.
func TestCommandArguments(t *testing.T) {
	a := testApp(nil)
	for _, c := range []struct {
		cmd  *cobra.Command
		args []string
		good bool
	}{
		{newVMRun(a), []string{"image"}, true},
		{newVMRun(a), []string{"image", "printf", "%s", ""}, true},
		{newVMRun(a), []string{"image", "--", "sh", "-c", ""}, true},
		{newVMRun(a), nil, false},
		{newVMRun(a), []string{"", "sh"}, false},
		{newVMCreate(a), []string{"image", "echo", ""}, true},
		{newVMCreate(a), []string{""}, false},
		{newVMExec(a), []string{"vm", "sh", "-c", ""}, true},
		{newVMExec(a), []string{"vm", "--", "echo", ""}, true},
		{newVMExec(a), nil, false},
		{newVMExec(a), []string{"vm"}, false},
		{newVMExec(a), []string{"vm", "--"}, false},
		{newVMExec(a), []string{"", "sh"}, false},
	} {
		if err := c.cmd.Args(c.cmd, c.args); (err == nil) != c.good || err != nil && fault.KindOf(err) != fault.Usage {
			t.Errorf("%s %q: got the error %v, want one of usage %v", c.cmd.Name(), c.args, err, !c.good)
		}
	}
}

// TestEach: one name that fails does not stop the rest, and every failure is told.
func TestEach(t *testing.T) {
	a := testApp(nil)
	err := a.each([]string{"a", "bad", "b", "worse"}, func(name string) (string, error) {
		if len(name) > 1 {
			return "", fault.New(fault.NotFound, errors.New("no "+name), "")
		}
		return "did " + name, nil
	})
	if out := a.stdout.(*bytes.Buffer).String(); out != "did a\ndid b\n" {
		t.Errorf("printed %q", out)
	}
	if err == nil || !strings.Contains(err.Error(), "no bad") || !strings.Contains(err.Error(), "no worse") || fault.KindOf(err) != fault.NotFound {
		t.Errorf("got %v of kind %d, want both failures and their kind", err, fault.KindOf(err))
	}
}

// TestUnwrittenOutput: output that cannot be written is an error, and everything is done all the same.
func TestUnwrittenOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	a := testApp(nil)
	a.stdout = full
	did := ""
	err = a.each([]string{"a", "b"}, func(name string) (string, error) {
		did += name
		return name, nil
	})
	if did != "ab" || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("did %q and got the error %v, want all and that the disk is full", did, err)
	}
	if err := a.printLines([]string{"a", "b"}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got the error %v, want that the disk is full", err)
	}
}

// TestShorten: nothing that a guest or an image chose can steer the terminal or break the table.
func TestShorten(t *testing.T) {
	for line, want := range map[string]string{
		"sh -c true": "sh -c true", "a\tb\nc": "a b c", "\x1b[31mred": " [31mred", "0123456789x": "012345678…", "ünïcödé…": "ünïcödé…",
	} {
		if got := shorten(line, 10); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// TestBrokenPipes: output that nobody reads ends banger in silence, and a connection that breaks does not.
func TestBrokenPipes(t *testing.T) {
	broken := os.NewSyscallError("write", syscall.EPIPE)
	for _, c := range []struct {
		err    error
		code   int
		silent bool
	}{
		{fmt.Errorf("printing: %w", &os.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}), exitOfPipe, true},
		{codedError{error: &os.PathError{Op: "write", Path: os.Stderr.Name(), Err: syscall.EPIPE}, code: exitOfRun}, exitOfPipe, true},
		{fault.New(fault.Unreachable, &net.OpError{Op: "write", Net: "unix", Err: broken}, ""), int(fault.Unreachable), false},
		{codedError{error: &net.OpError{Op: "write", Net: "unix", Err: broken}, code: exitOfRun}, exitOfRun, false},
		{&os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}, int(fault.Failure), false},
	} {
		a := testApp(nil)
		code := a.exitCode(t.Context(), c.err)
		if said := a.stderr.(*bytes.Buffer).String(); code != c.code || (said == "") != c.silent {
			t.Errorf("%v: exit code %d and %q, want %d, and silence %v", c.err, code, said, c.code, c.silent)
		}
	}
}

// TestErrorsAreText: an error may quote what a registry, an image or a guest says, and that does not steer the terminal.
func TestErrorsAreText(t *testing.T) {
	var out bytes.Buffer
	a := &app{system: system{stderr: &out}}
	a.printError(fault.New(fault.Failure, errors.New("one\x1b[2J\r\u009b\n\tzwei: ä"), "try\x07 again"))
	if got, want := out.String(), "banger: error: one[2J\n\tzwei: ä\nbanger: hint: try again\n"; got != want {
		t.Errorf("printed\n%q, want\n%q", got, want)
	}
}
