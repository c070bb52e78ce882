package imagepull

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

// debugfs succeeds whatever happens, so that each of these must be found in what it prints.
func TestDebugfsOutputIsJudged(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"says nothing", "exit 0", "ended before"},
		{"fails", "exit 3", "exit status 3"},
		{"cannot open the image", `echo "debugfs 1.47.0 (5-Feb-2023)"; echo "debugfs: Bad magic number" >&2`, "Bad magic number"},
		{"warns of the image", `echo "Checksum errors in superblock!  Retrying..."; exec /sbin/debugfs "$@"`, "Checksum errors"},
		{"stops early", `echo '#"/"'; echo 'debugfs: cd "/"'; kill -9 $$`, "signal: killed"},
		{"leaves a command out", `echo 'debugfs: cd "/lost+found"'`, `debugfs: cd "/lost+found"`},
		{"complains", `echo 'debugfs: cd "/"'; echo "first: no such thing" >&2; echo 'debugfs: cd "/lost+found"'`, "first: no such thing"},
		{"complains at the end", `/sbin/debugfs "$@"; echo "ext2fs_close: I/O error" >&2`, "I/O error"},
		{"complains without a line end", `/sbin/debugfs "$@"; printf "ext2fs_close: I/O error" >&2`, "I/O error"},
	}
	image := build(t, newTree(), MinExt4Size)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := newDebugfs(fakeTool(t, "debugfs", tt.script), image)
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			s, err := d.script("script")
			if err != nil {
				t.Fatal(err)
			}
			s.do(`cd "/"`)
			s.do(`cd "/lost+found"`)
			if err := s.finish(); err != nil {
				t.Fatal(err)
			}
			err = d.run(context.Background(), s, true, acceptChange)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// The error of a command names the path, whatever the command does, and the kind of a full disk is known.
func TestDebugfsErrorsNameThePath(t *testing.T) {
	image := build(t, newTree(), MinExt4Size)
	d, err := newDebugfs(testRunner(), image)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := os.WriteFile(filepath.Join(d.dir, "large"), make([]byte, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		`sif "/absent" uid 1`:         "File not found",
		`sif "/" nonsense 1`:          "invalid field",
		`sif "/" mtime_lo 4294967296`: "exceeds",
		`nonsense`:                    "Command not found",
		`sif "/`:                      "Unbalanced quotes",
		`cd "/absent"`:                "File not found",
		`rm absent`:                   "File not found",
		`mkdir lost+found`:            "exists",
		`write absent x`:              "No such file",
		`write large lost+found`:      "exists",
		`ea_set -f absent "/" user.x`: "No such file",
		`ln <2> "/absent/x"`:          "File not found",
	} {
		s, err := d.script("script")
		if err != nil {
			t.Fatal(err)
		}
		s.about("/a path")
		s.do(command)
		if err := s.finish(); err != nil {
			t.Fatal(err)
		}
		err = d.run(context.Background(), s, true, acceptChange)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/a path") ||
			!strings.Contains(err.Error(), command) {
			t.Errorf("%s\n got error %v\n want one with %q, the path and the command", command, err, want)
		}
	}
	if err := (answer{text: "write: Could not allocate block in ext2 filesystem"}).refused(); fault.KindOf(err) != fault.NoSpace {
		t.Errorf("a lack of blocks has the kind %d; want %d", fault.KindOf(err), fault.NoSpace)
	}
}

func TestDebugfsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	image := build(t, newTree(), MinExt4Size)
	cancel(stop)
	if err := ApplyOwnership(ctx, testRunner(), newTree(), image); !errors.Is(err, stop) {
		t.Errorf("ApplyOwnership: got error %v, want %v", err, stop)
	}
	if err := InjectGuestAgents(ctx, testRunner(), agentAssets("x"), image); !errors.Is(err, stop) {
		t.Errorf("InjectGuestAgents: got error %v, want %v", err, stop)
	}
	mustLeaveOnly(t, image)
}

// splitLine splits a line as ss_parse of lib/ss/parse.c does. ok is false where that finds quotes unbalanced.
func splitLine(line string) (words []string, ok bool) {
	var word strings.Builder
	inWord, inQuotes := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case inQuotes && c == '"' && i+1 < len(line) && line[i+1] == '"':
			word.WriteByte('"')
			i++
		case c == '"':
			inQuotes, inWord = !inQuotes, true
		case !inQuotes && (c == ' ' || c == '\t'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, !inQuotes
}

func FuzzQuote(f *testing.F) {
	for _, name := range oddNames() {
		f.Add(name)
	}
	f.Add("line\nfeed")
	f.Fuzz(func(t *testing.T, name string) {
		var file strings.Builder
		s := &script{out: bufio.NewWriter(&file)}
		s.about(name)
		s.do("command", s.quote(name), "last")
		if s.err != nil {
			return
		}
		_ = s.out.Flush()
		lines := strings.Split(file.String(), "\n")
		if len(lines) != 3 || lines[0][0] != '#' || len(lines[0]) > maxLine || len(lines[1]) > maxLine {
			t.Fatalf("the script has lines of its own for %q: %q", name, lines)
		}
		words, ok := splitLine(lines[1])
		if want := []string{"command", name, "last"}; !ok || fmt.Sprintf("%q", words) != fmt.Sprintf("%q", want) {
			t.Errorf("debugfs would read %q, %v; want %q", words, ok, want)
		}
	})
}
