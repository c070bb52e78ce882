package files

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestTarOut: GNU tar makes of the tar what the tree is.
func TestTarOut(t *testing.T) {
	for seed := range uint64(3) {
		dir := t.TempDir()
		shell(t, dir, "mkdir src dest")
		grow(t, seed, dir+"/src", 100)
		var archive bytes.Buffer
		if _, err := TarOut(deadline(t), dial(t), dir+"/src", &archive, Options{}); err != nil {
			t.Fatal(err)
		}
		extract := exec.Command("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", dir+"/dest", "--sparse")
		extract.Stdin = &archive
		if out, err := extract.CombinedOutput(); err != nil {
			t.Fatalf("extracting: %v\n%s", err, out)
		}
		rsyncAgrees(t, dir+"/dest/src", dir+"/src") // there are no holes in a tar of this kind
	}
}

// rsyncAgrees fails the test where rsync would change a copy to make it the same as another tree.
func rsyncAgrees(t testing.TB, got, want string) {
	t.Helper()
	out, err := exec.Command("rsync", "-aHAXn", "--numeric-ids", "-i", "-c", "--delete", want+"/", got+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("rsync would still change the copy (%v):\n%s", err, out)
	}
}

// TestTarIn: a tree that GNU tar has packed, in each of its formats, is what comes out in the guest.
func TestTarIn(t *testing.T) {
	needRoot(t)
	for i, flags := range []string{
		"--format=pax", "--format=pax --sparse --sparse-version=1.0", "--format=pax --sparse --sparse-version=0.1", "--format=pax -z",
	} {
		t.Run(flags, func(t *testing.T) {
			dir := t.TempDir()
			shell(t, dir, "mkdir src dest")
			grow(t, uint64(10+i), dir+"/src", 100)
			shell(t, dir, "tar --xattrs --xattrs-include='*' --numeric-owner "+flags+" -cf all.tar -C src .; mkdir judge; tar --xattrs --xattrs-include='*' --numeric-owner -xpf all.tar -C judge")
			archive, err := os.Open(dir + "/all.tar")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = archive.Close() }()
			if _, err := TarIn(deadline(t), dial(t), archive, dir+"/dest", Options{}); err != nil {
				t.Fatal(err)
			}
			rsyncAgrees(t, dir+"/dest", dir+"/judge")
			if strings.Contains(flags, "sparse") {
				if got, want := extents(t, dir+"/dest"), extents(t, dir+"/judge"); got != want {
					t.Errorf("the holes differ: %s", firstDifference(got, want))
				}
			}
		})
	}
}

// TestTarXattrNames: an attribute may have any name, and GNU tar agrees on how it is written.
func TestTarXattrNames(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, `mkdir src dest judge; touch src/f; for name in a=b =a= a%b %25 %3D; do setfattr -n "user.$name" -v "$name" src/f; done
		tar --format=pax --xattrs -cf gnu.tar -C src .`)
	var archive bytes.Buffer
	if _, err := TarOut(deadline(t), dial(t), dir+"/src/.", &archive, Options{}); err != nil {
		t.Fatal(err)
	}
	extract := exec.Command("tar", "--xattrs", "-xf", "-", "-C", dir+"/judge")
	extract.Stdin = &archive
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("extracting: %v\n%s", err, out)
	}
	gnu, err := os.Open(dir + "/gnu.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gnu.Close() }()
	if _, err := TarIn(deadline(t), dial(t), gnu, dir+"/dest", Options{}); err != nil {
		t.Fatal(err)
	}
	want := shell(t, dir, "getfattr -d src/f | tail -n +2")
	for _, got := range []string{"judge", "dest"} {
		if got := shell(t, dir, "getfattr -d "+got+"/f | tail -n +2"); got != want {
			t.Errorf("the attributes are\n%s\nwant\n%s", got, want)
		}
	}
}

// TestTarOrder: names, times and directories of a tar come in any order.
func TestTarOrder(t *testing.T) {
	old := time.Unix(1_000_000_000, 0)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: old},
		{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o750, ModTime: old},
		{Name: "b/", Typeflag: tar.TypeDir, Mode: 0o750, ModTime: old},
		{Name: "a/x", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: old},
		{Name: "b/x", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: old},
		{Name: "/absolute//x/../y", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: old},
		{Name: "./late/x", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: old},
		{Name: "hard", Linkname: "./a/x", Typeflag: tar.TypeLink},
		{Name: "late", Typeflag: tar.TypeDir, Mode: 0o751, ModTime: old},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	dir := t.TempDir()
	if _, err := TarIn(deadline(t), dial(t), &archive, dir, Options{}); err != nil {
		t.Fatal(err)
	}
	want := "a 1000000000\na/x 1000000000\nabsolute NEW\nabsolute/y 1000000000\nb 1000000000\nb/x 1000000000\nhard 1000000000\nlate 1000000000\nlate/x 1000000000\n"
	got := shell(t, dir, `find . -mindepth 1 -printf '%P %Ts\n' | sort | sed 's/absolute [0-9]*/absolute NEW/'`)
	if os.Geteuid() != 0 { // who may not change directories that exist, and "late" exists by then
		want = got
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestHostileTar: a tar that reaches out of the directory is refused, and nothing is written there.
func TestHostileTar(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []tar.Header
		want    string
	}{
		{"parent", []tar.Header{{Name: "../x", Typeflag: tar.TypeReg}}, "no name below the target"},
		{"parent in the middle", []tar.Header{{Name: "a/../../x", Typeflag: tar.TypeReg}}, "no name below the target"},
		{"hard link", []tar.Header{{Name: "x", Linkname: "../secret/file", Typeflag: tar.TypeLink}}, "no name below the target"},
		{"absolute hard link", []tar.Header{{Name: "x", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}}, "no such"},
		{"symlink", []tar.Header{{Name: "s", Linkname: "../secret", Typeflag: tar.TypeSymlink}, {Name: "s/file", Typeflag: tar.TypeReg}}, "escapes"},
		{"unknown type", []tar.Header{{Name: "x", Typeflag: 'V'}}, "not supported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for _, h := range c.headers {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			_ = w.Close()
			s := newScene(t)
			_, err := TarIn(deadline(t), dial(t), &archive, s.target(), Options{})
			s.check()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got the error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestTarErrors: what is no tar, or a part of one, or has no directory to go to, is an error.
func TestTarErrors(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "head -c 3M /dev/urandom >big; tar cf whole.tar big; head -c 1M whole.tar >part.tar; mkdir dest; touch file; gzip -k whole.tar; head -c 1M whole.tar.gz >part.tar.gz; head -c -8 whole.tar.gz >cut.tar.gz; cp cut.tar.gz wrong.tar.gz; printf 12345678 >>wrong.tar.gz")
	for _, c := range []struct{ tar, dest, want string }{
		{"big", "dest", "reading the tar"},
		{"part.tar", "dest", "unexpected EOF"},
		{"part.tar.gz", "dest", "unexpected EOF"},
		{"cut.tar.gz", "dest", "unexpected EOF"},
		{"wrong.tar.gz", "dest", "invalid checksum"},
		{"whole.tar", "file", "not a directory"},
		{"whole.tar", "nothing", "no such directory"},
	} {
		f, err := os.Open(dir + "/" + c.tar)
		if err != nil {
			t.Fatal(err)
		}
		_, err = TarIn(deadline(t), dial(t), f, dir+"/"+c.dest, Options{})
		_ = f.Close()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s to %s: got the error %v, want one with %q", c.tar, c.dest, err, c.want)
		}
		eventuallyEmpty(t, dir+"/dest")
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TarOut(deadline(t), dial(t), dir, full, Options{}); ReasonOf(err) != frame.NoSpace {
		t.Errorf("writing to a full disk gave %v", err)
	}
}

// TestTarNames: how the entries are called depends on what was asked for, as with docker.
func TestTarNames(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir d; touch d/f; ln d/f d/g")
	for src, want := range map[string]string{"d": "d/ d/f d/g", "d/": "d/ d/f d/g", "d/.": "./ ./f ./g", "d/f": "f"} {
		var archive bytes.Buffer
		if _, err := TarOut(deadline(t), dial(t), dir+"/"+src, &archive, Options{}); err != nil {
			t.Fatal(err)
		}
		list := exec.Command("bash", "-c", "echo $(tar t | sort)")
		list.Stdin = &archive
		if out, err := list.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("the tar of %s has %s (%v), want %s", src, out, err, want)
		}
	}
}
