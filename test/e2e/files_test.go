package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// listedFile is an element of `image ls-files --json`.
type listedFile struct {
	Path   string    `json:"path"`
	Raw    []byte    `json:"raw_path"`
	Type   string    `json:"type"`
	Mode   string    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   int64     `json:"size"`
	MTime  time.Time `json:"mtime"`
	Inode  uint32    `json:"inode"`
	Links  uint32    `json:"links"`
	Target string    `json:"target"`
	Major  uint32    `json:"major"`
	Minor  uint32    `json:"minor"`
	Xattrs []struct {
		Name  string `json:"name"`
		Value []byte `json:"value"`
	} `json:"xattrs"`
	Capabilities string `json:"capabilities"`
}

// listedFiles returns what `image ls-files --json` says, the root included.
func (u *user) listedFiles(image string) []listedFile {
	u.t.Helper()
	var all []listedFile
	for _, depth := range [][]string{{"--depth", "0"}, nil} {
		var answer struct {
			Schema int
			Files  []listedFile
		}
		out := u.must(append(append([]string{"image", "ls-files", "--json"}, depth...), image)...)
		if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Schema != 1 {
			u.t.Fatalf("image ls-files --json %s gave schema %d: %v\n%.500s", image, answer.Schema, err, out)
		}
		all = append(all, answer.Files...)
	}
	return all
}

// typeBits are the types of files in the mode of stat(2).
func typeBits() map[string]uint64 {
	return map[string]uint64{
		"file": 0o100000, "directory": 0o040000, "symlink": 0o120000, "char": 0o020000, "block": 0o060000, "fifo": 0o010000,
		"socket": 0o140000,
	}
}

// scanListed describes each file that banger lists as scanTree describes those of a directory. The content is that of
// `image cat`.
func (u *user) scanListed(image string) map[string]string {
	u.t.Helper()
	files := u.listedFiles(image)
	contents := u.contents(image, files)
	lines, first := map[string]string{}, map[uint32]string{}
	for _, f := range files {
		name := cmp.Or(strings.TrimPrefix(cmp.Or(string(f.Raw), f.Path), "/"), ".")
		mode, err := strconv.ParseUint(f.Mode, 8, 16)
		if err != nil {
			u.t.Fatalf("%s has the mode %q", f.Path, f.Mode)
		}
		line := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d", mode|typeBits()[f.Type], f.UID, f.GID, f.MTime.Unix(), f.MTime.Nanosecond())
		switch f.Type {
		case "file":
			line += fmt.Sprintf(" size %d content %s", f.Size, contents[f.Path])
		case "symlink":
			line += fmt.Sprintf(" target %q", f.Target)
		case "char", "block":
			line += fmt.Sprintf(" device %d:%d", f.Major, f.Minor)
		}
		if f.Type != "directory" {
			first[f.Inode] = cmp.Or(first[f.Inode], name)
			line += fmt.Sprintf(" links %d same as %q", f.Links, first[f.Inode])
		}
		for _, x := range f.Xattrs {
			line += fmt.Sprintf(" %s=%x", x.Name, x.Value)
		}
		lines[name] = line
	}
	return lines
}

// catAtOnce is how many files one `image cat` prints.
const catAtOnce = 400

// contents returns the hashes of the files' contents, which `image cat` prints one after the other.
func (u *user) contents(image string, files []listedFile) map[string]string {
	u.t.Helper()
	files = slices.DeleteFunc(slices.Clone(files), func(f listedFile) bool { return f.Type != "file" })
	sums := map[string]string{}
	for some := range slices.Chunk(files, catAtOnce) {
		args := []string{"image", "cat", "--", image}
		for _, f := range some {
			args = append(args, cmp.Or(string(f.Raw), f.Path))
		}
		printed := strings.NewReader(u.must(args...))
		for _, f := range some {
			hash := sha256.New()
			if n, _ := io.CopyN(hash, printed, f.Size); n != f.Size {
				u.t.Fatalf("image cat has ended %d bytes into %s, which has %d", n, f.Path, f.Size)
			}
			sums[f.Path] = fmt.Sprintf("%x", hash.Sum(nil)[:8])
		}
		if printed.Len() > 0 {
			u.t.Fatalf("image cat has printed %d bytes more than the files have", printed.Len())
		}
	}
	return sums
}

// TestFilesAgainstUmoci: what banger lists and prints of an image is what umoci, as root, extracts of it.
func TestFilesAgainstUmoci(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "extracting with every owner needs root")
	}
	u := newUser(t)
	for name, layout := range map[string]string{"debian": debianLayout(t) + ":bookworm", "hard": hardLayout(t, u) + ":v1"} {
		t.Run(name, func(t *testing.T) {
			u.must("image", "pull", "oci:"+layout, "--name", name, "--no-guest")
			want := scanTree(t, umociUnpack(t, layout))
			got := u.scanListed(name)
			delete(got, "lost+found")
			compareTrees(t, got, want)
			t.Logf("%d files are equal", len(want))
		})
	}
}

// TestFilesAgainstDebugfs: what banger lists of an exported disk is what debugfs lists, and what it prints.
func TestFilesAgainstDebugfs(t *testing.T) {
	u := newUser(t)
	u.must("image", "pull", "oci:"+debianLayout(t)+":bookworm", "--name", "debian")
	disk := filepath.Join(u.dir, "debian.ext4")
	u.must("image", "export", "debian", disk)
	files := u.listedFiles(disk)
	got, script := map[string]string{}, ""
	for _, f := range files {
		mode, _ := strconv.ParseUint(f.Mode, 8, 16)
		size := ""
		if f.Type != "directory" {
			size = strconv.FormatInt(f.Size, 10)
		} else {
			script += fmt.Sprintf("ls -p \"%s\"\n", f.Path)
		}
		got[strings.TrimPrefix(f.Path, "/")] = fmt.Sprintf("%d/%06o/%d/%d//%s", f.Inode, mode|typeBits()[f.Type], f.UID, f.GID, size)
	}
	delete(got, "")
	compareTrees(t, got, debugfsLists(t, disk, script))
	compared := 0
	for _, f := range files {
		if f.Capabilities != "" || f.Path == "/etc/passwd" {
			debugfsAgrees(t, u, disk, f)
			compared++
		}
	}
	if compared < 2 {
		t.Error("the image has no file with capabilities to compare")
	}
}

// debugfsLists runs a script of `ls -p` and returns what debugfs says of each name.
func debugfsLists(t *testing.T, disk, script string) map[string]string {
	t.Helper()
	cmd := exec.Command("debugfs", "-f", "-", disk)
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	want, dir := map[string]string{}, ""
	entry := regexp.MustCompile(`^/(\d+)/(\d+)/(\d+)/(\d+)/([^/]+)/(\d*)/`)
	for line := range strings.Lines(string(out)) {
		if _, path, found := strings.Cut(line, `ls -p "`); found {
			dir = strings.Trim(strings.TrimSuffix(path, "\"\n"), "/")
		} else if m := entry.FindStringSubmatch(line); m != nil && m[5] != "." && m[5] != ".." {
			want[filepath.Join(dir, m[5])] = fmt.Sprintf("%s/%s/%s/%s//%s", m[1], m[2], m[3], m[4], m[6])
		}
	}
	return want
}

// debugfsAgrees compares one file with debugfs's stat and cat.
func debugfsAgrees(t *testing.T, u *user, disk string, f listedFile) {
	t.Helper()
	stat, err := exec.Command("debugfs", "-R", "stat "+f.Path, disk).Output()
	if err != nil {
		t.Fatalf("debugfs stat %s: %v", f.Path, err)
	}
	words := strings.Join(strings.Fields(string(stat)), " ")
	for _, want := range []string{
		fmt.Sprintf("Inode: %d ", f.Inode), fmt.Sprintf("Mode: %s ", f.Mode), fmt.Sprintf("Links: %d ", f.Links),
		fmt.Sprintf("Size: %d ", f.Size), fmt.Sprintf("mtime: 0x%08x:%08x ", f.MTime.Unix(), f.MTime.Nanosecond()<<2),
	} {
		if !strings.Contains(words, want) {
			t.Errorf("banger says %q of %s, and debugfs:\n%s", want, f.Path, stat)
		}
	}
	for _, x := range f.Xattrs {
		if want := fmt.Sprintf("%s (%d) = % x", x.Name, len(x.Value), x.Value); !strings.Contains(words, want) {
			t.Errorf("banger says %q of %s, and debugfs:\n%s", want, f.Path, stat)
		}
	}
	content, err := exec.Command("debugfs", "-R", "cat "+f.Path, disk).Output()
	if err != nil || u.must("image", "cat", disk, f.Path) != string(content) {
		t.Errorf("banger and debugfs print different bytes of %s (%v)", f.Path, err)
	}
}

// TestFilesLong: -l says what find says of the mounted disk, and the capabilities are those that getcap finds there.
func TestFilesLong(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "mounting needs root")
	}
	u := newUser(t)
	u.must("image", "pull", "oci:"+debianLayout(t)+":bookworm", "--name", "debian")
	disk := filepath.Join(u.dir, "debian.ext4")
	u.must("image", "export", "debian", disk)
	dir := mountDisk(t, disk)
	find := exec.Command("find", dir, "-mindepth", "1", "-printf", `%M %n %U %G %y%s %TY-%Tm-%TdT%TH:%TM:%.2TSZ /%P -> %l\n`)
	find.Env = []string{"TZ=UTC", "PATH=" + os.Getenv("PATH")}
	out, err := find.Output()
	if err != nil {
		t.Fatalf("find: %v", err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		fields[4] = regexp.MustCompile(`^[^bc]|^[bc].*`).ReplaceAllString(fields[4], "") // a device has no size
		want[fields[6]] = strings.TrimSuffix(strings.Join(strings.Fields(strings.Join(fields, " ")), " "), " ->")
	}
	got := map[string]string{}
	device := regexp.MustCompile(` (\d+), (\d+) `)
	for line := range strings.Lines(u.must("image", "ls-files", "-l", "debian")) {
		if line[0] == 'c' || line[0] == 'b' {
			line = device.ReplaceAllString(line, " ")
		}
		fields := strings.Fields(strings.Replace(line, "+ ", " ", 1))
		path := fields[slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "/") })]
		got[path] = strings.Join(fields, " ")
	}
	compareTrees(t, got, want)
	getcap, err := exec.Command("getcap", "-r", dir).Output()
	if err != nil {
		t.Fatalf("getcap: %v", err)
	}
	capable := ""
	for _, f := range u.listedFiles("debian") {
		if f.Capabilities != "" {
			capable += dir + f.Path + " " + f.Capabilities + "\n"
		}
	}
	if capable == "" || capable != string(getcap) {
		t.Errorf("the files with capabilities are\n%s, and for getcap\n%s", capable, getcap)
	}
}

// TestFilesCanDiffer: what is changed in a disk is seen in its list, and by the comparison of two disks.
func TestFilesCanDiffer(t *testing.T) {
	u := newUser(t)
	u.must("image", "pull", "oci:"+hardLayout(t, u)+":v1", "--name", "hard", "--no-guest")
	disk := filepath.Join(u.dir, "hard.ext4")
	u.must("image", "export", "hard", disk)
	good := u.scanListed(disk)
	if r := u.run("image", "diff", "--exit-code", "hard", disk); r.code != 0 || r.stdout != "" {
		t.Errorf("an image and its export differ: %v", r)
	}
	for i, c := range []struct{ command, path, what string }{
		{"sif /data/owned uid 5", "data/owned", "owner 70000:4000000000 to 5:4000000000"},
		{"sif /data/owned mode 0100600", "data/owned", "mode 6755 to 0600"},
		{"sif /data/owned mtime 20200101", "data/owned", "mtime 1969-12-31T00:00:00.5Z to 2020-01-01T00:00:00.5Z"},
		{"sif /data/owned size 4", "data/owned", "size 5 to 4"},
		{"ea_rm /data/attributes user.note", "data/attributes", "xattrs user.note"},
		{"ea_set /data/attributes user.note another", "data/attributes", "xattrs user.note"},
		{"ln /data/owned /data/extra", "data/extra", ""},
		{"rm /data/owned", "data/owned", ""},
		{"symlink /data/new target", "data/new", ""},
	} {
		bad := filepath.Join(u.dir, fmt.Sprintf("bad%d.ext4", i))
		if out, err := exec.Command("cp", "--sparse=always", disk, bad).CombinedOutput(); err != nil {
			t.Fatalf("copying: %v\n%s", err, out)
		}
		if out, err := exec.Command("debugfs", "-w", "-R", c.command, bad).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v\n%s", c.command, err, out)
		}
		if found := differences(u.scanListed(bad), good); !strings.Contains(strings.Join(found, "\n"), c.path) {
			t.Errorf("after %q the lists differ by %q, and not in %s", c.command, found, c.path)
		}
		r := u.run("image", "diff", "-v", "--exit-code", "hard", bad)
		if r.code != 1 || !strings.Contains(r.stdout, "/"+c.path) || !strings.Contains(r.stdout, c.what) {
			t.Errorf("after %q image diff has to say %q of /%s and exit with 1: %v", c.command, c.what, c.path, r)
		}
	}
}

// TestDiffAgainstMounts: the paths that image diff reports are those at which the kernel's mounts of both disks differ.
func TestDiffAgainstMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "mounting needs root")
	}
	u := newUser(t)
	u.must("image", "pull", "oci:"+debianLayout(t)+":bookworm", "--name", "debian")
	before, after := filepath.Join(u.dir, "before.ext4"), filepath.Join(u.dir, "after.ext4")
	u.must("image", "export", "debian", before)
	u.must("image", "export", "debian", after)
	change(t, after)
	fsck(t, after)
	a, b := scanTree(t, mountDisk(t, before)), scanTree(t, mountDisk(t, after))
	want := map[string]string{}
	for name, line := range a {
		if other, both := b[name]; !both {
			want[name] = "D"
		} else if other != line {
			want[name] = "C"
		}
	}
	for name := range b {
		if _, both := a[name]; !both {
			want[name] = "A"
		}
	}
	got := map[string]string{}
	for line := range strings.Lines(u.must("image", "diff", "--all", before, after)) {
		got[strings.TrimPrefix(line[2:len(line)-1], "/")] = line[:1]
	}
	compareTrees(t, got, want)
	counts := map[string]int{}
	for _, kind := range want {
		counts[kind]++
	}
	if counts["A"] < 100 || counts["D"] < 100 || counts["C"] < 10 {
		t.Errorf("the two disks do not differ by enough to judge: %v", counts)
	}
	start := time.Now()
	if r := u.run("image", "diff", "--exit-code", before, "debian"); r.code != 0 {
		t.Errorf("an image and its export differ: %v", r)
	}
	t.Logf("%d differences; two equal images were compared in %v", len(want), time.Since(start))
}

// change has the kernel change a disk in many ways.
func change(t *testing.T, disk string) {
	t.Helper()
	dir := t.TempDir()
	script := `mount -o loop "$1" "$2" && cd "$2" || exit
mv usr/share/zoneinfo usr/share/zones; rm -r usr/share/bash-completion; cp -a usr/share/doc usr/share/copy; mv etc/apt etc/tpa
chmod 4711 bin/cat; chown 5:6 etc/fstab; touch -d '2001-02-03 04:05:06.789' etc/motd; echo more >>etc/passwd
printf x | dd of=bin/bash bs=1 seek=1000000 conv=notrunc status=none; touch -r bin/cat bin/bash
ln bin/grep bin/search; rm bin/sed; ln -s grep bin/sed; mkdir bin/sed.d; mknod dev/new c 1 9; mkfifo dev/fifo
setfattr -n user.note -v yes bin/ls; truncate -s 1G var/sparse; rm etc/shells; mkdir etc/shells
cd / && umount "$2"`
	out, err := exec.Command("sh", "-ec", script, "sh", disk, dir).CombinedOutput()
	if err != nil {
		_ = exec.Command("umount", dir).Run()
		t.Fatalf("changing the disk: %v\n%s", err, out)
	}
}

// TestFilesOutput: what the commands print, and how they end.
func TestFilesOutput(t *testing.T) {
	u := newUser(t)
	u.must("image", "pull", "oci:"+hardLayout(t, u)+":v1", "--name", "hard")
	if got := u.must("image", "cat", "hard", "/data/owned", "lib/so"); got != "ownedso" {
		t.Errorf("image cat of two files printed %q", got)
	}
	r := u.run("image", "cat", "hard", "/data/owned", "/data", "/nothing", "/lib/so")
	if r.stdout != "ownedso" || r.code == 0 || !strings.Contains(r.stderr, "directory") || !strings.Contains(r.stderr, "/nothing") {
		t.Errorf("image cat of two files and two that cannot be printed: %v", r)
	}
	if got := u.must("image", "ls-files", "-z", "hard", "opaque"); got != "/opaque/new\x00" {
		t.Errorf("image ls-files -z printed %q", got)
	}
	if got := u.must("image", "ls-files", "--depth", "0", "-l", "hard", "/lib"); !strings.HasSuffix(got, " 1970-01-01T00:01:17Z /lib -> usr/lib\n") {
		t.Errorf("image ls-files -l --depth 0 of a symlink printed %q", got)
	}
	for _, args := range [][]string{
		{"image", "ls-files", "hard"}, {"image", "cat", "hard", "/data/zeros"}, {"image", "ls-files", "--json", "hard"},
	} {
		got := u.pipeTo("(sleep 0.3; head -c 1 | wc -c)", args...)
		if strings.TrimSpace(got) != "1" {
			t.Errorf("%q into head: %q", args, got)
		}
		cmd := u.command(t.Context(), args...)
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = read.Close()
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = write, &stderr
		if err := cmd.Run(); err == nil || stderr.Len() > 0 {
			t.Errorf("%q into a pipe that nobody reads: %v, and %q on standard error", args, err, &stderr)
		}
		_ = write.Close()
	}
	for args, code := range map[string]int{
		"ls-files": 2, "cat hard": 2, "cat hard /nothing": 3, "ls-files nothing": 3, "diff hard": 2, "diff hard nothing": 3,
		"ls-files --depth -1 hard": 2, "cat hard /data": 2, "diff --ignore size hard hard": 2, "ls-files hard a b": 2,
	} {
		if r := u.run(append([]string{"image"}, strings.Fields(args)...)...); r.code != code || r.stdout != "" {
			t.Errorf("image %s: want exit code %d: %v", args, code, r)
		}
	}
}

// TestFilesOnTerminal: names that a terminal would not show are quoted on one.
func TestFilesOnTerminal(t *testing.T) {
	u := newUser(t)
	l := newLayout(t, u, "odd")
	layout := l.tag(l.image("amd64", nil, nil, packTar(t, []member{
		{Header: tar.Header{Name: "odd/bell\a", Mode: 0o644}}, {Header: tar.Header{Name: "odd/plain ü", Mode: 0o644}},
	})))
	u.must("image", "pull", "oci:"+layout+":v1", "--name", "odd")
	if got, want := u.must("image", "ls-files", "odd", "odd"), "/odd/bell\a\n/odd/plain ü\n"; got != want {
		t.Errorf("into a pipe the names are %q, want %q", got, want)
	}
	cmd := u.command(t.Context(), "image", "ls-files", "odd", "odd")
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	shown, _ := io.ReadAll(terminal) // which ends with an error when nobody has the other end any more
	if want := "\"/odd/bell\\a\"\r\n/odd/plain ü\r\n"; string(shown) != want {
		t.Errorf("on a terminal the names are %q, want %q", shown, want)
	}
	if err := errors.Join(cmd.Wait(), terminal.Close()); err != nil {
		t.Error(err)
	}
}
