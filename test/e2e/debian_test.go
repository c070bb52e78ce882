package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// debianLayout is the OCI layout of the real Debian that scripts/debian-image.sh makes; its tag is bookworm.
func debianLayout(t *testing.T) string {
	t.Helper()
	return filepath.Join(fixture(t, "BANGER_TEST_DEBIAN", "debian"), "oci")
}

// TestDebian: a real Debian with systemd, pulled from a real registry, boots to a running system whose files have the
// owners and modes of the tar.
func TestDebian(t *testing.T) {
	u := newUser(t).withKernel()
	host := startRegistry(t, u)
	host.push(debianLayout(t)+":bookworm", "debian:bookworm")
	u.must("image", "pull", host.address+"/debian:bookworm")
	if again := u.must("image", "pull", host.address+"/debian:bookworm"); !strings.Contains(again, "up to date") {
		t.Errorf("a second pull: want it up to date, got %q", again)
	}

	state := u.run("vm", "run", "--rm", "debian:bookworm", "--", "sh", "-c",
		"systemctl is-system-running || systemctl --failed --no-legend; cat /etc/os-release; exit 9")
	if state.code != 9 || !strings.HasPrefix(state.stdout, "running\n") || !strings.Contains(state.stdout, "VERSION_CODENAME=bookworm") {
		t.Errorf("want the system running, and the exit code 9; got %v", state)
	}
	compareWithTar(t, u)
	u.must("image", "export", "debian:bookworm", u.dir+"/debian.ext4")
	fsck(t, u.dir+"/debian.ext4")
	u.leftovers()
}

// TestRegistryRefusals: what a real registry answers to wrong references.
func TestRegistryRefusals(t *testing.T) {
	u := newUser(t)
	host := startRegistry(t, u)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": []byte("some content of a layer")})))
	host.push(l.dir+":v1", "x:v1")
	u.refuses(refusal{notFound, []string{"v2"}}, "image", "pull", host.address+"/x:v2")
	u.refuses(refusal{notFound, []string{"/y"}}, "image", "pull", host.address+"/y:v1")
	u.refuses(refusal{platform, []string{"linux/arm64"}}, "image", "pull", host.address+"/x:v1", "--platform", "linux/arm64")

	blob := host.layerFile()
	data, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"corrupt", append([]byte{data[0] ^ 1}, data[1:]...)},
		{"truncated", data[:len(data)/2]},
	} {
		if err := os.WriteFile(blob, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		u.refuses(refusal{corrupt, []string{"sha256:"}}, "image", "pull", host.address+"/x:v1")
	}
	if err := os.WriteFile(blob, data, 0o644); err != nil {
		t.Fatal(err)
	}
	u.must("image", "pull", host.address+"/x:v1")
	u.leftovers()
}

// compareWithTar compares what stat says inside the VM with the tar, for every file of the image.
func compareWithTar(t *testing.T, u *user) {
	t.Helper()
	script := `mount --bind / /mnt && cd /mnt && find . -printf '%y %U %G %m %n %T@ %P\0'; getcap /mnt/usr/bin/ping; test -u /mnt/usr/bin/sudo && echo sudo is setuid`
	out := u.must("vm", "run", "--rm", "--memory", "1GiB", "debian:bookworm", "--", "sh", "-c", script)
	for _, want := range []string{"ping cap_net_raw=ep", "sudo is setuid"} {
		if !strings.Contains(out, want) {
			t.Errorf("inside the VM: want %q at the end of %q", want, out[max(0, len(out)-200):])
		}
	}
	inside := map[string]string{}
	for _, line := range strings.Split(out, "\x00") {
		fields := strings.SplitN(line, " ", 7)
		if len(fields) == 7 {
			inside[fields[6]] = strings.Join(fields[:4], " ")
		}
	}
	stats := tarStats(t)
	for name, want := range stats {
		if got := inside[name]; got != want {
			t.Errorf("%q: the tar has (type uid gid mode) %q, the VM %q", name, want, got)
		}
	}
	t.Logf("%d files have the tar's type, owner, group and mode inside the VM", len(stats))
}

// tarStats returns "type uid gid mode" of each path of the Debian image, as find prints them.
func tarStats(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open(filepath.Join(fixture(t, "BANGER_TEST_DEBIAN", "debian"), "rootfs.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	stats := map[string]string{}
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return stats
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		if header.Typeflag == tar.TypeLink {
			stats[name] = stats[strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")]
			continue
		}
		stats[name] = fmt.Sprintf("%s %d %d %o", findType(header.Typeflag), header.Uid, header.Gid, header.Mode&0o7777)
	}
}

func findType(flag byte) string {
	switch flag {
	case tar.TypeDir:
		return "d"
	case tar.TypeSymlink:
		return "l"
	case tar.TypeChar:
		return "c"
	case tar.TypeBlock:
		return "b"
	case tar.TypeFifo:
		return "p"
	}
	return "f"
}
