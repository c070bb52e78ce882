package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/banger-vm/banger/internal/oci/registrytest"
)

// TestLogin: a registry with TLS of its own CA and with passwords, from the first refusal to the last.
func TestLogin(t *testing.T) {
	u := newUser(t)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"etc/motd": bytes.Repeat([]byte("hello\n"), 5000)})))
	open := registrytest.Start(t, registrytest.Options{})
	open.Push("oci:"+l.dir+":v1", "team/tool:v1")
	ca := registrytest.NewAuthority(t)
	r := registrytest.Start(t, registrytest.Options{
		Users: map[string]string{"me": "pass:word"}, Authority: ca, Storage: open.Storage,
	})
	image, trusted := r.Address+"/team/tool:v1", u.give(ca.File, "ca.pem")

	u.refuses(refusal{unreachable, []string{"unknown authority", "--tls-ca", ".config/containers/certs.d/" + r.Address + "/ca.crt", "--insecure"}},
		"image", "pull", image)
	u.refuses(refusal{unreachable, []string{"401", "asked without credentials", ".docker/config.json", "banger login " + r.Address}},
		"image", "pull", "--tls-ca", trusted, image)
	login := []string{"login", "--tls-ca", trusted, "--username", "me", "--password-stdin", r.Address}
	if got := u.feed("wrong\n", login...); got.code != unreachable || strings.Contains(got.stderr, "wrong") ||
		!strings.Contains(got.stderr, `asked as user "me" of this login`) {
		t.Errorf("a login with a wrong password: got %v", got)
	}
	file := filepath.Join(u.dir, ".docker/config.json")
	if _, err := os.Stat(file); err == nil {
		t.Errorf("a login that was refused has left %s", file)
	}
	if got := u.feed("pass:word\n", login...); got.code != 0 || !strings.Contains(got.stdout, file) ||
		strings.Contains(got.stdout+got.stderr, "pass:word") {
		t.Errorf("a login: got %v, want it to say that it is stored in %s, and no secret", got, file)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: got %v (%v), want a file for its owner alone", file, info, err)
	}
	u.must("image", "pull", "--tls-ca", trusted, "--no-guest", image)
	u.must("image", "pull", "--insecure", "--no-guest", image)
	u.give(ca.File, ".config/containers/certs.d/"+r.Address+"/ca.crt")
	u.must("image", "pull", "--no-guest", image)
	u.sharesLogins(r, ca.File, file, image)
	if out := u.must("logout", r.Address); !strings.Contains(out, file) {
		t.Errorf("logout: got %q, want it to name %s", out, file)
	}
	u.says(refusal{unreachable, []string{"401"}}, "image", "pull", image)
	u.says(refusal{notFound, []string{"nobody is logged in", file}}, "logout", r.Address)
	u.says(refusal{usage, []string{"--username"}}, "login", "--password-stdin", r.Address)
	u.says(refusal{usage, []string{"terminal"}}, "login", r.Address)

	u.loginOnTerminal(r.Address)
	u.must("image", "rm", image)
	u.leftovers()
}

// sharesLogins has skopeo use the login in a file, and banger use one of skopeo's.
func (u *user) sharesLogins(r *registrytest.Registry, ca, file, image string) {
	u.t.Helper()
	certificates := filepath.Dir(u.give(ca, "certificates/ca.crt"))
	theirs := filepath.Join(u.dir, "skopeo.json")
	for _, args := range [][]string{
		{"inspect", "--authfile", file, "--cert-dir", certificates, "docker://" + image},
		{"login", "--authfile", theirs, "--cert-dir", certificates, "--username", "me", "--password", "pass:word", r.Address},
	} {
		if out, err := exec.Command("skopeo", args...).CombinedOutput(); err != nil {
			u.t.Errorf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	u.own(theirs)
	u.env = []string{"REGISTRY_AUTH_FILE=" + theirs}
	u.must("image", "pull", "--no-guest", "--cert-dir", certificates, image)
	u.env = nil
}

// give copies a file into the user's home.
func (u *user) give(path, name string) string {
	u.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		u.t.Fatal(err)
	}
	given := filepath.Join(u.dir, name)
	if err := os.MkdirAll(filepath.Dir(given), 0o755); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(given, data, 0o644); err != nil {
		u.t.Fatal(err)
	}
	return given
}

// loginOnTerminal types a name and a password. The terminal shows the name alone.
func (u *user) loginOnTerminal(registry string) {
	u.t.Helper()
	shown, err := u.typeLogin(registry, "me\n", "pass:word\n")
	if err != nil || !strings.Contains(shown, "me\r\n") || !strings.Contains(shown, "logged in") || strings.Contains(shown, "word\r") {
		u.t.Errorf("a login on a terminal: got %v and\n%s\nwant the name shown, and not the password", err, shown)
	}
	shown, err = u.typeLogin(registry, "me\n", "unfinished\x03")
	if err == nil || !strings.Contains(shown, "interrupted") || strings.Contains(shown, "unfinished") {
		u.t.Errorf("Ctrl-C instead of a password: got %v and\n%s\nwant the end", err, shown)
	}
}

// typeLogin answers to the two questions, and returns what the terminal shows.
func (u *user) typeLogin(registry, name, password string) (string, error) {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	cmd := u.command(ctx, "login", registry)
	attributes := cmd.SysProcAttr
	attributes.Setsid, attributes.Setctty = true, true
	terminal, err := pty.StartWithAttrs(cmd, nil, attributes)
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	var shown bytes.Buffer
	until := func(text string) {
		buffer := make([]byte, 256)
		for !strings.Contains(shown.String(), text) {
			n, err := terminal.Read(buffer)
			shown.Write(buffer[:n])
			if err != nil {
				return
			}
		}
	}
	until("Username: ")
	_, _ = terminal.WriteString(name)
	until("Password: ")
	_, _ = terminal.WriteString(password)
	until("what no login says: the end")
	return shown.String(), cmd.Wait()
}
