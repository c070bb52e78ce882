package ssh

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// entry is a file of a tree to copy.
type entry struct {
	name string
	mode fs.FileMode
	size int64
	link string
}

// plainTree is what every program can copy.
func plainTree() []entry {
	return []entry{
		{name: "dir", mode: fs.ModeDir | 0o750},
		{name: "dir/empty", mode: 0o644},
		{name: "dir/small", mode: 0o600, size: 10},
		{name: "dir/large", mode: 0o640, size: 5_000_001},
		{name: "dir/read-only", mode: 0o444, size: 100},
		{name: "dir/program", mode: 0o755, size: 70_000},
		{name: "dir/deep", mode: fs.ModeDir | 0o711},
		{name: "dir/deep/er", mode: fs.ModeDir | 0o700},
		{name: "dir/deep/er/file", mode: 0o666, size: 32<<10 + 1},
		{name: "dir/-dash and space", mode: 0o644, size: 3},
		{name: "dir/ümlaut*?[x]", mode: 0o644, size: 3},
		{name: "dir/new\nline", mode: 0o644, size: 3},
	}
}

// linkedTree has what only rsync copies as it is.
func linkedTree() []entry {
	return append(plainTree(), entry{name: "dir/setuid", mode: fs.ModeSetuid | 0o755, size: 1}, entry{name: "dir/link", link: "small"}, entry{name: "dir/dangling", link: "/no/such/file"},
		entry{name: "dir/to directory", link: "deep"})
}

// makeTree makes a tree whose times are long ago.
func makeTree(t *testing.T, root string, tree []entry) {
	t.Helper()
	for _, e := range tree {
		if err := e.create(filepath.Join(root, e.name)); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range slices.Backward(tree) {
		when := time.Unix(1_000_000_000+int64(i), 0)
		if e.link == "" {
			if err := os.Chtimes(filepath.Join(root, e.name), when, when); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (e entry) create(path string) error {
	switch {
	case e.link != "":
		return os.Symlink(e.link, path)
	case e.mode.IsDir():
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
	default:
		data, _ := io.ReadAll(pattern(e.size))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return os.Chmod(path, e.mode)
}

// describe tells a tree's files, one a line: mode, size, time and content.
func describe(t *testing.T, root string) string {
	t.Helper()
	var lines strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		fmt.Fprintf(&lines, "%q %v", name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&lines, " -> %s\n", to)
		case info.IsDir():
			fmt.Fprintf(&lines, " %d\n", info.ModTime().Unix())
		default:
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			fmt.Fprintf(&lines, " %d %d %s\n", info.ModTime().Unix(), info.Size(), sum(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines.String()
}

func wantSameTree(t *testing.T, what, want, got string) {
	t.Helper()
	if w, g := describe(t, want), describe(t, got); w != g {
		t.Errorf("%s: copied was\n%s\nbut there is\n%s", what, w, g)
	}
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScp: there and back, with times and modes.
func TestScp(t *testing.T) {
	c := newClient(t)
	from, back := filepath.Join(c.dir, "from"), filepath.Join(c.dir, "back")
	mkdirs(t, from, back, filepath.Join(c.home, "there"))
	makeTree(t, from, plainTree())
	c.run(nil, "scp", "-q", "-r", "-p", from+"/dir", "vm.banger:there").want(t, "scp to the guest", result{})
	wantSameTree(t, "to the guest", from, filepath.Join(c.home, "there"))
	c.run(nil, "scp", "-q", "-r", "-p", "vm.banger:there/dir", back).want(t, "scp from the guest", result{})
	wantSameTree(t, "from the guest", from, back)
}

// TestScpNames: names that need a shell elsewhere, and those of homes.
func TestScpNames(t *testing.T) {
	c := newClient(t)
	file := filepath.Join(c.dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"plain", "with space; touch bad", "~/tilde", "$(touch bad)"} {
		c.run(nil, "scp", "-q", file, "vm.banger:"+target).want(t, "scp to "+target, result{})
		got, err := os.ReadFile(filepath.Join(c.home, strings.TrimPrefix(target, "~/")))
		if string(got) != "content" {
			t.Errorf("%q has %q (%v)", target, got, err)
		}
	}
	if got := c.run(nil, "scp", "-q", file, "vm.banger:no/such/directory/file"); got.code == 0 || !strings.Contains(got.stderr, "No such file") {
		t.Errorf("scp to a directory that is not there gave %+v", got)
	}
	if got := c.run(nil, "scp", "-q", "-O", file, "vm.banger:old-protocol"); got.code != 0 { // needs scp in the guest
		t.Errorf("scp by its old protocol gave %+v", got)
	}
}

func TestRsync(t *testing.T) {
	need(t, "rsync")
	c := newClient(t)
	from, back := filepath.Join(c.dir, "from"), filepath.Join(c.dir, "back")
	mkdirs(t, from, back)
	makeTree(t, from, linkedTree())
	rsync := func(args ...string) result {
		return runCommand(t, t.Context(), osexec.Command("rsync", append([]string{"-a", "--delete", "-e", "ssh -F " + c.config}, args...)...), nil)
	}
	rsync(from+"/", "vm.banger:there").want(t, "rsync to the guest", result{})
	wantSameTree(t, "to the guest", from, filepath.Join(c.home, "there"))
	rsync("vm.banger:there/", back+"/").want(t, "rsync from the guest", result{})
	wantSameTree(t, "from the guest", from, back)
	if err := os.Remove(filepath.Join(c.home, "there/dir/small")); err != nil {
		t.Fatal(err)
	}
	rsync("vm.banger:there/", back+"/").want(t, "rsync again", result{})
	wantSameTree(t, "again", filepath.Join(c.home, "there"), back)
}

func TestGit(t *testing.T) {
	need(t, "git")
	c := newClient(t)
	c.env = []string{"GIT_SSH_COMMAND=ssh -F " + c.config, "GIT_CONFIG_GLOBAL=/dev/null"}
	c.ssh("git init -q r && cd r && git -c user.name=x -c user.email=x commit -q --allow-empty -m first").want(t, "making a repository", result{})
	c.tool("git", "clone", "-q", "vm.banger:r", filepath.Join(c.dir, "clone"))
	c.tool("git", "-C", filepath.Join(c.dir, "clone"), "push", "-q", "origin", "HEAD:refs/heads/other")
	c.ssh("git -C r log -1 --format=%s other").want(t, "the pushed branch", result{"first\n", "", 0})
}

// batch runs commands of sftp.
func (c *client) batch(commands ...string) result {
	c.t.Helper()
	return c.run(strings.NewReader(strings.Join(commands, "\n")+"\n"), "sftp", "-q", "-b", "-", "vm.banger")
}

func TestSftp(t *testing.T) {
	c := newClient(t)
	local := filepath.Join(c.dir, "local")
	data, _ := io.ReadAll(pattern(3_000_000))
	if err := os.WriteFile(local, data, 0o640); err != nil {
		t.Fatal(err)
	}
	got := c.batch("put -f "+local+" a", "mkdir d", "rename a d/b", "ln d/b d/hard", "symlink b d/soft", "chmod 604 d/b",
		"cp d/b d/copy", "get d/copy "+local+".back", "put -p "+local+" d/kept", "df d", "cd d", "pwd", "ls -l", "rm kept", "cd ..", "mkdir e", "rmdir e")
	if got.code != 0 {
		t.Fatalf("sftp gave %+v", got)
	}
	if back, err := os.ReadFile(local + ".back"); string(back) != string(data) {
		t.Errorf("the file came back different (%v)", err)
	}
	b, err := os.Stat(filepath.Join(c.home, "d/b"))
	hard, err2 := os.Stat(filepath.Join(c.home, "d/hard"))
	if err != nil || err2 != nil || !os.SameFile(b, hard) || b.Mode() != 0o604 {
		t.Errorf("d/b is %v (%v), and not the same as d/hard (%v)", b, err, err2)
	}
	if to, err := os.Readlink(filepath.Join(c.home, "d/soft")); to != "b" {
		t.Errorf("the symbolic link leads to %q (%v)", to, err)
	}
	for _, want := range []string{"Remote working directory: " + c.home + "/d\n", "-rw----r--    ? ", " 3000000 ", " soft", "%"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("sftp printed %q, want %q in it", got.stdout, want)
		}
	}
	left, _ := filepath.Glob(filepath.Join(c.home, "*"))
	if len(left) != 1 {
		t.Errorf("in the home are %q, want d alone", left)
	}
}

// TestSftpResumes: what was cut off goes on where it was.
func TestSftpResumes(t *testing.T) {
	c := newClient(t)
	local := filepath.Join(c.dir, "local")
	data, _ := io.ReadAll(pattern(1_000_000))
	for file, content := range map[string][]byte{local: data, filepath.Join(c.home, "part"): data[:400_000], local + ".part": data[:300_001]} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.batch("reput "+local+" part", "reget part "+local+".part").want(t, "reput and reget", result{stdout: fmt.Sprintf(
		"sftp> reput %[1]s part\nsftp> reget part %[1]s.part\n", local)})
	for _, file := range []string{filepath.Join(c.home, "part"), local + ".part"} {
		if got, err := os.ReadFile(file); string(got) != string(data) {
			t.Errorf("%s is not what it should be after it was resumed (%v)", file, err)
		}
	}
}

func TestSftpErrors(t *testing.T) {
	c := newClient(t)
	if err := os.WriteFile(filepath.Join(c.home, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, filepath.Join(c.home, "full/x"))
	for command, want := range map[string]string{
		"get nothing":         "not found",
		"cd file":             "not a directory",
		"rmdir full":          "Failure",
		"ls no/such":          "not found",
		"mkdir file":          "Failure",
		"ln nothing other":    "No such file",
		"rename -l file full": "Failure",
		"put /dev/null full":  "",
		"chmod 600 nothing":   "No such file",
		"get full " + c.dir:   "not a regular file",
		"put /no/such/file x": "No such file",
		"symlink a/b/c file":  "Failure",
	} {
		got := c.batch(command)
		if want != "" && (got.code == 0 || !strings.Contains(got.stderr+got.stdout, want)) {
			t.Errorf("%s gave %+v, want %q", command, got, want)
		}
	}
}

// TestSftpSpecialFiles: what has no size is read to its end, and listed as what it is.
func TestSftpSpecialFiles(t *testing.T) {
	c := newClient(t)
	local := filepath.Join(c.dir, "local")
	if err := syscall.Mkfifo(filepath.Join(c.home, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, filepath.Join(c.home, "sticky"))
	if err := os.Chmod(filepath.Join(c.home, "sticky"), fs.ModeSticky|fs.ModeSetgid|0o776); err != nil {
		t.Fatal(err)
	}
	got := c.batch("get /proc/cpuinfo "+local, "ls -la")
	if want, _ := os.ReadFile("/proc/cpuinfo"); got.code != 0 || len(want) == 0 {
		t.Errorf("reading /proc/cpuinfo gave %+v", got)
	} else if back, _ := os.ReadFile(local); len(back) < len(want)/2 {
		t.Errorf("of /proc/cpuinfo, %d bytes came", len(back))
	}
	for _, want := range []string{"prw------- ", "drwxrwsrwT ", " .\n", " ..\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("ls printed %q, want %q in it", got.stdout, want)
		}
	}
}
