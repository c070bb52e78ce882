package system

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

func runner() *CommandRunner { return NewCommandRunner("/usr/bin:/bin") }

func TestRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		command Command
		stdout  string
		failure []string // words of the error
	}{
		{name: "output", command: Command{Name: "echo", Args: []string{"hello"}}, stdout: "hello\n"},
		{name: "standard input", command: Command{Name: "cat", Stdin: strings.NewReader("in")}, stdout: "in"},
		{name: "no standard input", command: Command{Name: "cat"}},
		{name: "environment", command: Command{Name: "sh", Args: []string{"-c", "echo $A $LC_ALL"}, Env: []string{"A=b"}}, stdout: "b C\n"},
		{name: "directory", command: Command{Name: "pwd", Dir: "/usr"}, stdout: "/usr\n"},
		{name: "the program's own words", command: Command{Name: "ls", Args: []string{"/nonexistent"}},
			failure: []string{"ls: exit status 2", "cannot access '/nonexistent'"}},
		{name: "silent failure", command: Command{Name: "false"}, failure: []string{"false: exit status 1"}},
		{name: "missing program", command: Command{Name: "no-such-tool"}, failure: []string{`finding "no-such-tool"`, "/usr/sbin"}},
	} {
		result, err := runner().Run(context.Background(), c.command)
		if got := string(result.Stdout); got != c.stdout {
			t.Errorf("%s: standard output is %q, want %q", c.name, got, c.stdout)
		}
		if (err != nil) != (c.failure != nil) {
			t.Errorf("%s: got error %v, want words %q", c.name, err, c.failure)
			continue
		}
		for _, word := range c.failure {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: error %q lacks %q", c.name, err, word)
			}
		}
	}
}

func TestMissingToolNamesItsPackage(t *testing.T) {
	_, err := NewCommandRunner("").Find("no-such-tool")
	if fault.KindOf(err) != fault.NoTool || !strings.Contains(fault.HintOf(err), "apt-get install no-such-tool") {
		t.Errorf("got %v with hint %q", err, fault.HintOf(err))
	}
	for program, want := range map[string]string{
		"mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs", "qemu-img": "qemu-utils", "qemu-system-x86_64": "qemu-system-x86",
	} {
		if got := packageOf(program); got != want {
			t.Errorf("package of %s: got %s, want %s", program, got, want)
		}
	}
}

func TestFindLooksInSbin(t *testing.T) {
	file, err := NewCommandRunner("/nonexistent").Find("mkfs.ext4")
	if err != nil || !strings.HasSuffix(file, "sbin/mkfs.ext4") {
		t.Errorf("mkfs.ext4 with an ordinary user's PATH: got (%q, %v)", file, err)
	}
}

func TestFindIgnoresWhatCannotRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if file, err := NewCommandRunner(dir).Find("tool"); err == nil {
		t.Errorf("a file without execute permission was found: %s", file)
	}
}

func TestCancelledRunEndsWithItsCause(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	start := time.Now()
	_, err := runner().Run(ctx, Command{Name: "sleep", Args: []string{"60"}})
	if !errors.Is(err, why) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: got %v, want %v", time.Since(start), err, why)
	}
}

func TestStart(t *testing.T) {
	var out strings.Builder
	p, err := runner().Start(context.Background(), Command{Name: "sh", Args: []string{"-c", "echo hello; exit 3"}}, &out, &out)
	if err != nil {
		t.Fatal(err)
	}
	var exit *ExitError
	if err := p.Wait(); !errors.As(err, &exit) || exit.Code != 3 || out.String() != "hello\n" {
		t.Errorf("got error %v and output %q", err, out.String())
	}
	p.Kill() // of a process that has ended: nothing happens
}

func TestKill(t *testing.T) {
	p, err := runner().Start(context.Background(), Command{Name: "sleep", Args: []string{"60"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := p.Wait(); err == nil {
		t.Error("a killed process has no error")
	}
}
