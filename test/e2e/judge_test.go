package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAgainstUmoci: the kernel's mount of the exported disk equals what umoci, as root, extracts from the same image,
// whichever builder made the disk.
func TestAgainstUmoci(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "mounting, and extracting with every owner, need root")
	}
	u := newUser(t)
	alpine := filepath.Join(u.dir, "alpine")
	archive := filepath.Join(u.dir, "alpine.tar")
	if out, err := exec.Command("sh", "-c", `gzip -dcf "$1" >"$2"`, "sh", fixture(t, "BANGER_TEST_ALPINE", "alpine"), archive).CombinedOutput(); err != nil {
		t.Fatalf("uncompressing the Alpine archive: %v\n%s", err, out)
	}
	skopeo(t, "docker-archive:"+archive, "oci:"+alpine+":v1")
	for name, layout := range map[string]string{
		"debian": debianLayout(t) + ":bookworm",
		"alpine": alpine + ":v1",
		"hard":   hardLayout(t, u) + ":v1",
	} {
		t.Run(name, func(t *testing.T) {
			want := scanTree(t, umociUnpack(t, layout))
			for _, builder := range builders {
				disk := filepath.Join(u.dir, name+"-"+builder+".ext4")
				u.must("image", "pull", "oci:"+layout, "--name", name+"-"+builder, "--no-guest", "--builder", builder)
				u.must("image", "export", name+"-"+builder, disk)
				fsck(t, disk)
				got := scanTree(t, mountDisk(t, disk))
				delete(got, "lost+found")
				compareTrees(t, got, want)
				t.Logf("%s: %d files are equal", builder, len(want))
			}
		})
	}
}

// TestJudgesCanFail: each judge of a disk finds a fault that was planted in it.
func TestJudgesCanFail(t *testing.T) {
	if os.Geteuid() != 0 {
		missing(t, "mount", "mounting needs root")
	}
	u := newUser(t)
	u.must("image", "pull", "oci:"+hardLayout(t, u)+":v1", "--name", "hard", "--no-guest")
	disk := filepath.Join(u.dir, "hard.ext4")
	u.must("image", "export", "hard", disk)
	good := scanTree(t, mountDisk(t, disk))
	for i, c := range []struct{ command, path string }{
		{"sif /data/owned uid 5", "data/owned"},
		{"sif /data/owned mode 0100600", "data/owned"},
		{"sif /data/owned mtime 20200101", "data/owned"},
		{"ea_rm /data/attributes user.note", "data/attributes"},
		{"ln /data/owned /data/extra", "data/extra"},
	} {
		bad := filepath.Join(u.dir, fmt.Sprintf("bad%d.ext4", i))
		if out, err := exec.Command("cp", "--sparse=always", disk, bad).CombinedOutput(); err != nil {
			t.Fatalf("copying: %v\n%s", err, out)
		}
		if out, err := exec.Command("debugfs", "-w", "-R", c.command, bad).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v\n%s", c.command, err, out)
		}
		if found := differences(scanTree(t, mountDisk(t, bad)), good); !strings.Contains(strings.Join(found, "\n"), c.path) {
			t.Errorf("after %q the comparison reports %q, not %s", c.command, found, c.path)
		}
	}
	if out, err := exec.Command("debugfs", "-w", "-R", "sif /data/owned links_count 9", disk).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
	if exec.Command("e2fsck", "-fn", disk).Run() == nil {
		t.Error("e2fsck finds nothing wrong with a wrong link count")
	}
}

// builders are what --builder takes, the default first.
var builders = []string{"native", "mkfs"}

// TestSameBytes: two homes make the same bytes of one image, and inspect says the digest that sha256sum finds.
func TestSameBytes(t *testing.T) {
	sums := map[string]bool{}
	for range 2 {
		u := newUser(t)
		u.must("image", "pull", "oci:"+hardLayout(t, u)+":v1", "--name", "hard")
		disk := filepath.Join(u.dir, "hard.ext4")
		u.must("image", "export", "hard", disk)
		out, err := exec.Command("sha256sum", disk).Output()
		if err != nil {
			t.Fatalf("sha256sum: %v", err)
		}
		sum := strings.Fields(string(out))[0]
		sums[sum] = true
		for _, args := range [][]string{{"--json"}, {}} {
			shown := u.must(append([]string{"image", "inspect", "hard"}, args...)...)
			if !strings.Contains(shown, sum) || !strings.Contains(shown, uuidOf(t, disk)) {
				t.Errorf("inspect %q has to show %s and %s:\n%s", args, sum, uuidOf(t, disk), shown)
			}
		}
		u.leftovers()
	}
	if len(sums) != 1 {
		t.Errorf("two pulls of one image made different bytes: %v", sums)
	}
}

// uuidOf returns the UUID that dumpe2fs finds.
func uuidOf(t *testing.T, disk string) string {
	t.Helper()
	out, err := exec.Command("dumpe2fs", "-h", disk).Output()
	uuid := regexp.MustCompile(`(?m)^Filesystem UUID: +(\S+)$`).FindSubmatch(out)
	if err != nil || uuid == nil {
		t.Fatalf("dumpe2fs -h %s: %v\n%s", disk, err, out)
	}
	return string(uuid[1])
}

func skopeo(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("skopeo", "--insecure-policy", "copy", "--quiet", from, to).CombinedOutput(); err != nil {
		t.Fatalf("skopeo copy %s %s: %v\n%s", from, to, err, out)
	}
}

func umociUnpack(t *testing.T, image string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	if out, err := exec.Command("umoci", "unpack", "--image", image, bundle).CombinedOutput(); err != nil {
		t.Fatalf("umoci unpack %s: %v\n%s", image, err, out)
	}
	return filepath.Join(bundle, "rootfs")
}

func fsck(t *testing.T, disk string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// mountDisk has the kernel mount a disk, read-only, until the test ends.
func mountDisk(t *testing.T, disk string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro", disk, dir).CombinedOutput(); err != nil {
		missing(t, "mount", fmt.Sprintf("mounting %s: %v: %s", disk, err, out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v\n%s", err, out)
		}
	})
	return dir
}

// scanTree describes every file below dir in a line: all that lstat, readlink, listxattr and the content say. Names
// of one inode are tied together by the first of them.
func scanTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if name == "lost+found" && entry.IsDir() {
			files[name] = ""
			return fs.SkipDir
		}
		files[name] = describe(t, path, name, first)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func describe(t *testing.T, path, name string, first map[uint64]string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("mode %o owner %d:%d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		line += fmt.Sprintf(" size %d content %s", st.Size, contentHash(t, path))
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" target %q", target)
	case syscall.S_IFCHR, syscall.S_IFBLK:
		line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		if first[st.Ino] == "" {
			first[st.Ino] = name
		}
		line += fmt.Sprintf(" links %d same as %q", st.Nlink, first[st.Ino])
	}
	return line + xattrs(t, path)
}

func contentHash(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)[:8])
}

func xattrs(t *testing.T, path string) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatalf("listing the attributes of %s: %v", path, err)
	}
	var lines []string
	for _, name := range bytes.Split(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			t.Fatalf("reading the attribute %s of %s: %v", name, path, err)
		}
		lines = append(lines, fmt.Sprintf(" %s=%x", name, value[:n]))
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

func compareTrees(t *testing.T, got, want map[string]string) {
	t.Helper()
	found := differences(got, want)
	for _, line := range found[:min(len(found), 40)] {
		t.Error(line)
	}
	if len(found) > 40 {
		t.Errorf("… and %d more differences", len(found)-40)
	}
}

func differences(got, want map[string]string) []string {
	var found []string
	for name, line := range want {
		if got[name] != line {
			found = append(found, fmt.Sprintf("%q:\nthe disk   %s\nthe judge  %s", name, got[name], line))
		}
	}
	for name, line := range got {
		if _, known := want[name]; !known {
			found = append(found, fmt.Sprintf("%q: only the disk has it: %s", name, line))
		}
	}
	sort.Strings(found)
	return found
}
