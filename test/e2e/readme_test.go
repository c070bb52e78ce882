package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReadmeSession runs the commands of the README's "Live with it" word for word, from the image to ssh. The only
// difference is where OpenSSH keeps its files: it takes the account's home from the password file, which is not the
// test's to change, so that ssh, scp and ssh-config are told of another.
func TestReadmeSession(t *testing.T) {
	u := newUser(t).withKernel()
	u.must("image", "pull", "oci:"+fixture(t, "BANGER_TEST_DEBIAN", "debian")+"/oci", "--name", "debian:bookworm")
	u.write("notes.txt", "remember the milk\n")
	u.program("banger", `if [ "$1" = ssh-config ]; then exec `+staged+` "$@" --dir "$HOME/.ssh"; fi; exec `+staged+` "$@"`)
	u.program("ssh", `exec /usr/bin/ssh -F "$HOME/.ssh/config" "$@"`)
	u.program("scp", `exec /usr/bin/scp -F "$HOME/.ssh/config" "$@"`)

	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	banger := u.command(ctx)
	shell := exec.CommandContext(ctx, "bash", "-euxc", readmeBlock(t, "## Live with it"))
	shell.Dir, shell.SysProcAttr = banger.Dir, banger.SysProcAttr
	shell.Env = append(slices.Clone(banger.Env), "PATH="+filepath.Join(u.dir, "bin")+":/usr/local/bin:/usr/bin:/bin")
	got := finish(t, ctx, shell)
	if got.code != 0 {
		t.Fatalf("the README's session: %v", got)
	}
	if n := strings.Count(got.stdout, "remember the milk"); n != 2 {
		t.Errorf("the notes were read %d times, want before and after the restart: %v", n, got)
	}
	release, err := os.ReadFile(filepath.Join(u.dir, "box-release"))
	if err != nil || !strings.Contains(string(release), "Debian") {
		t.Errorf("what scp fetched is %q (%v)", release, err)
	}
	u.leftovers()
}

// readmeBlock returns the first indented block of the README below a heading.
func readmeBlock(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), heading+"\n")
	if !found {
		t.Fatalf("the README has no heading %q", heading)
	}
	var block []string
	for line := range strings.Lines(section) {
		command, indented := strings.CutPrefix(line, "    ")
		if indented {
			block = append(block, command)
		} else if len(block) > 0 && strings.TrimSpace(line) != "" {
			break
		}
	}
	if len(block) < 10 {
		t.Fatalf("below %q of the README there are %d commands", heading, len(block))
	}
	return strings.Join(block, "")
}

// write makes a file in the user's working directory.
func (u *user) write(name, content string) string {
	u.t.Helper()
	path := filepath.Join(u.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		u.t.Fatal(err)
	}
	u.own(path)
	return path
}

// program puts a shell script of that name on a path of the user's own.
func (u *user) program(name, script string) {
	u.t.Helper()
	dir := filepath.Join(u.dir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		u.t.Fatal(err)
	}
}
