package openssh

import (
	"errors"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

func testClient() Client {
	return Client{
		Domain: ".banger", User: "root", KnownHosts: "/home/u/with space/100%/known_hosts",
		Proxy: []string{"env", "BANGER_HOME=/home/u/it's 100%", "/opt/banger", "vm", "ssh-proxy"},
	}
}

// effective is what OpenSSH makes of arguments: the lines of ssh -G.
func effective(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := osexec.LookPath("ssh"); err != nil {
		t.Fatal("this test needs ssh: run scripts/deps.sh test")
	}
	out, err := osexec.Command("ssh", append([]string{"-G"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh -G %q: %v: %s", args, err, out)
	}
	return string(out)
}

// TestOpenSSHUnderstands: ssh itself reads the block and the options as they are meant.
func TestOpenSSHUnderstands(t *testing.T) {
	block, err := testClient().Block()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := testClient().Options()
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]string{
		"block":   effective(t, "-F", file, "web.banger"),
		"options": effective(t, append([]string{"-F", "none"}, Args{Host: "web.banger"}.With(options)...)...),
	} {
		for _, want := range []string{
			`proxycommand env 'BANGER_HOME=/home/u/it'\''s 100%%' /opt/banger vm ssh-proxy %h`, "user root",
			"userknownhostsfile /home/u/with space/100%/known_hosts", "stricthostkeychecking true", "ciphers aes128-gcm@openssh.com,",
		} {
			if !strings.Contains(got, "\n"+want) && !strings.HasPrefix(got, want) {
				t.Errorf("%s: ssh does not see %q in\n%s", what, want, got)
			}
		}
	}
	if got := effective(t, "-F", file, "other.example"); strings.Contains(got, "banger") {
		t.Errorf("the block is for hosts that are no VMs too:\n%s", got)
	}
}

func TestUnwritable(t *testing.T) {
	for _, path := range []string{"/a\nb", `/a"b`, "/${HOME}", `/a\b`} {
		c := testClient()
		c.KnownHosts = path
		if _, err := c.Block(); fault.KindOf(err) != fault.Usage {
			t.Errorf("the path %q gave %v, want a refusal", path, err)
		}
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		args []string
		want Args
		bad  bool
	}{
		{args: []string{"web"}, want: Args{Host: "web", Command: []string{}}},
		{args: []string{"web", "ls", "-l"}, want: Args{Host: "web", Command: []string{"ls", "-l"}}},
		{args: []string{"-l", "alice", "web"}, want: Args{Options: []string{"-l", "alice"}, Host: "web", Command: []string{}}},
		{args: []string{"-lalice", "-v", "web"}, want: Args{Options: []string{"-lalice", "-v"}, Host: "web", Command: []string{}}},
		{args: []string{"-NTL", "1:a:2", "web"}, want: Args{Options: []string{"-NTL", "1:a:2"}, Host: "web", Command: []string{}}},
		{args: []string{"-o", "User=x", "-tt", "--", "web", "top"}, want: Args{Options: []string{"-o", "User=x", "-tt"}, Host: "web", Command: []string{"top"}}},
		{args: []string{"a@b@web"}, want: Args{Options: []string{"-l", "a@b"}, Host: "web", Command: []string{}}},
		{args: []string{"-l", "x", "y@web"}, want: Args{Options: []string{"-l", "x", "-l", "y"}, Host: "web", Command: []string{}}},
		{args: nil, bad: true},
		{args: []string{"-v"}, bad: true},
		{args: []string{"-p"}, bad: true},
		{args: []string{"--"}, bad: true},
		{args: []string{""}, bad: true},
	}
	for _, test := range tests {
		got, err := Parse(test.args)
		if (err != nil) != test.bad || err == nil && !reflect.DeepEqual(got, test.want) {
			t.Errorf("Parse(%q) = %+v, %v, want %+v, error %v", test.args, got, err, test.want, test.bad)
		}
	}
}

const block = "Host *.banger\n  User root\n"

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func install(t *testing.T, dir, block string, want bool) {
	t.Helper()
	if changed, err := Install(dir, block); err != nil || changed != want {
		t.Errorf("Install said %v, %v, want %v", changed, err, want)
	}
}

func TestInstall(t *testing.T) {
	tests := []struct{ name, before, after string }{
		{"none", "", include + "\n"},
		{"some", "Host x\n\tUser y", include + "\nHost x\n\tUser y"},
		{"odd bytes", "# \xff\r\n\r\n\tHost\tx\r\n", include + "\n# \xff\r\n\r\n\tHost\tx\r\n"},
		{"there", "# mine\n" + include + "\nHost x\n", "# mine\n" + include + "\nHost x\n"},
		{"at a place where it does not count", "Match all\n" + include + "\n", include + "\nMatch all\n" + include + "\n"},
		{"quoted", "\"Host\"=x\n" + include + "\n", include + "\n\"Host\"=x\n" + include + "\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "config")
			if test.before != "" {
				if err := os.WriteFile(config, []byte(test.before), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			install(t, dir, block, true)
			install(t, dir, block, false)
			if got := read(t, config); got != test.after {
				t.Errorf("the configuration is %q, want %q", got, test.after)
			}
			install(t, dir, block+"  Port 1\n", true)
			if got := read(t, filepath.Join(dir, "banger.conf")); !strings.HasSuffix(got, block+"  Port 1\n") {
				t.Errorf("banger.conf is %q, want the newer block", got)
			}
			wantMode(t, config, map[bool]fs.FileMode{true: 0o640, false: 0o600}[test.before != ""])
			wantMode(t, filepath.Join(dir, "banger.conf"), 0o600)
			if changed, err := Uninstall(dir); err != nil || !changed {
				t.Errorf("Uninstall said %v, %v", changed, err)
			}
			if want := strings.ReplaceAll(test.before, include+"\n", ""); read(t, config) != want {
				t.Errorf("after Uninstall the configuration is %q, want %q", read(t, config), want)
			}
			if changed, err := Uninstall(dir); err != nil || changed {
				t.Errorf("Uninstall said %v, %v the second time", changed, err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 1 || len(left) == 1 && test.before == "" {
				t.Errorf("Uninstall left %v", left)
			}
		})
	}
}

func wantMode(t *testing.T, file string, want fs.FileMode) {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Mode() != want {
		t.Errorf("%s has the mode %v (%v), want %v", filepath.Base(file), info.Mode(), err, want)
	}
}

// TestSymlinks: a configuration that lives elsewhere is changed there, also before it is there.
func TestSymlinks(t *testing.T) {
	for _, there := range []bool{true, false} {
		dir, dotfiles := t.TempDir(), t.TempDir()
		target := filepath.Join(dotfiles, "ssh-config")
		if there {
			if err := os.WriteFile(target, []byte("Host x\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(target, filepath.Join(dotfiles, "second")); err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(dir, filepath.Join(dotfiles, "second"))
		if err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, "config")
		if err := os.Symlink(rel, link); err != nil {
			t.Fatal(err)
		}
		install(t, dir, block, true)
		if got := read(t, target); !strings.HasPrefix(got, include+"\n") {
			t.Errorf("what the link leads to is %q", got)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.Errorf("the link is no link any more: %v, %v", info.Mode(), err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("config", filepath.Join(dir, "config")); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir, block); err == nil {
		t.Error("a link that leads to itself was written to")
	}
}

// TestLinkedDirectory: a link in a directory that is a link itself leads to where the kernel has it lead.
func TestLinkedDirectory(t *testing.T) {
	for _, to := range []string{"../config", "up/../config"} {
		home := t.TempDir()
		if err := os.MkdirAll(filepath.Join(home, "dotfiles", "ssh"), 0o700); err != nil {
			t.Fatal(err)
		}
		for link, to := range map[string]string{".ssh": "dotfiles/ssh", "dotfiles/ssh/config": to, "dotfiles/ssh/up": "."} {
			if err := os.Symlink(to, filepath.Join(home, link)); err != nil {
				t.Fatal(err)
			}
		}
		config := filepath.Join(home, "dotfiles", "config")
		if err := os.WriteFile(config, []byte("Host x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		install(t, filepath.Join(home, ".ssh"), block, true)
		if got := read(t, config); !strings.HasPrefix(got, include+"\n") {
			t.Errorf("%s: what the link leads to is %q", to, got)
		}
	}
}

// TestInstalledIsFound: ssh finds the installed block in the home that the password file has.
func TestInstalledIsFound(t *testing.T) {
	if os.Getuid() != 0 {
		if strings.Contains(os.Getenv("BANGER_TEST_EXCUSE"), "mount") {
			t.Skip("excused: mount")
		}
		t.Fatal("this test mounts a home over root's, which needs root; BANGER_TEST_EXCUSE=mount leaves it out")
	}
	home := t.TempDir()
	dir := filepath.Join(home, ".ssh")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("Host *\n  User somebody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	install(t, dir, block, true)
	out, err := osexec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$1" "$(getent passwd root | cut -d: -f6)" && ssh -G web.banger`, "sh", home).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nuser root\n") && !strings.HasPrefix(string(out), "user root\n") {
		t.Errorf("ssh -G says %v, %s, want the user root", err, out)
	}
}
