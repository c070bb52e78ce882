package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/frame"
)

// TestOwners: into the VM files become root's and out of it the caller's, without the bits that lend rights, and -a keeps
// all of it where the receiver is root.
func TestOwners(t *testing.T) {
	needRoot(t)
	const list = `find . -printf '%P %y %m %U:%G\n' | sort; getfattr -R -h -d -m - -e hex --absolute-names . | grep -c =0x || true`
	src := t.TempDir()
	shell(t, src, `mkdir d s; touch d/f s/caps; mkfifo p; mknod dev c 1 3; ln -s x l; chown -h 7:8 d d/f p dev l; chmod 6755 d/f; chmod 3775 d
		setfattr -n user.x -v 1 d/f; setfattr -n trusted.x -v 1 d/f; setcap cap_net_raw+ep s/caps; setfacl -m u:5:r s`)
	plain := " d 755 0:0\nd d 1775 0:0\nd/f f 755 0:0\ndev c 644 0:0\nl l 777 0:0\np p 644 0:0\ns d 755 0:0\ns/caps f 644 0:0\n1\n"
	exact := shell(t, src, list)
	for _, c := range []struct {
		name    string
		copy    func(context.Context, net.Conn, string, string, Options) (Result, error)
		archive bool
		want    string
	}{
		{"in", CopyIn, false, plain},
		{"in", CopyIn, true, exact},
		{"out", CopyOut, false, strings.Replace(plain, "dev c 644 0:0\n", "", 1)},
		{"out", CopyOut, true, exact},
	} {
		t.Run(fmt.Sprintf("%s archive %v", c.name, c.archive), func(t *testing.T) {
			shell(t, src, "chmod 755 .")
			dest := t.TempDir()
			shell(t, dest, "chmod 755 .; chown 0:0 .")
			if _, err := c.copy(deadline(t), dial(t), src+"/.", dest, Options{Archive: c.archive}); err != nil {
				t.Fatal(err)
			}
			if got, want := shell(t, dest, list), strings.ReplaceAll(c.want, "\ns d 755", "\ns d "+shell(t, src, "printf %s $(stat -c %a s)")); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestExistingDirectories: a directory that is there keeps its owner, mode and time, unless an archive is copied.
func TestExistingDirectories(t *testing.T) {
	for _, archive := range []bool{false, true} {
		dir := t.TempDir()
		shell(t, dir, "mkdir -p src/d dest/d; chmod 700 src src/d; chmod 751 dest dest/d; touch src/d/f")
		if _, err := CopyIn(deadline(t), dial(t), dir+"/src/.", dir+"/dest", Options{Archive: archive}); err != nil {
			t.Fatal(err)
		}
		want := "751 751\n"
		if archive && os.Geteuid() == 0 {
			want = "700 700\n"
		}
		if got := shell(t, dir, "echo $(stat -c %a dest dest/d)"); got != want {
			t.Errorf("archive %v: the modes are %q, want %q", archive, got, want)
		}
	}
}

// TestVirtualFiles: files whose size the kernel does not know are copied to their end, and a walk does not enter what is
// not on a disk.
func TestVirtualFiles(t *testing.T) {
	for _, file := range []string{"/proc/self/limits", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(t.TempDir(), "got")
		if _, err := CopyOut(deadline(t), dial(t), file, dest, Options{}); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(dest); !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes in the copy, want %d", file, len(got), len(want))
		}
	}
	if !isVirtual(openForTest(t, "/proc")) || isVirtual(openForTest(t, t.TempDir())) {
		t.Error("what is a file system of the kernel's doings is not told from a disk")
	}
}

func openForTest(t *testing.T, name string) int {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return int(f.Fd())
}

// TestSparse: holes are not read, sent or written, so that a file of a terabyte is copied at once.
func TestSparse(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "truncate -s 1T big; printf x | dd of=big bs=1 seek=500G conv=notrunc status=none; printf end | dd of=big bs=1 seek=900G conv=notrunc status=none")
	for name, copy := range map[string]func(context.Context, net.Conn, string, string, Options) (Result, error){"in": CopyIn, "out": CopyOut} {
		result, err := copy(deadline(t), dial(t), dir+"/big", dir+"/"+name, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if result.Bytes > 1<<20 {
			t.Errorf("%s: %d bytes were sent", name, result.Bytes)
		}
		if got, want := extents(t, dir+"/"+name), extents(t, dir+"/big"); got != want {
			t.Errorf("%s: the data lies at %s, want %s", name, got, want)
		}
	}
}

// TestNotes: what is left out is said, and the rest is copied.
func TestNotes(t *testing.T) {
	dir := t.TempDir()
	socket, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	shell(t, dir, "echo 1 >file")
	for name, copy := range map[string]func(context.Context, net.Conn, string, string, Options) (Result, error){"in": CopyIn, "out": CopyOut} {
		dest := filepath.Join(t.TempDir(), "dest")
		result, err := copy(deadline(t), dial(t), dir, dest, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Notes) != 1 || !strings.Contains(result.Notes[0], "is a socket") {
			t.Errorf("%s: the notes are %q", name, result.Notes)
		}
		shell(t, dest, "test 1 = $(cat file)")
	}
}

// TestChangingFile: a file that gets shorter while it is copied keeps its length, and a note says so.
func TestChangingFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", make([]byte, 8*chunkSize), 0o644); err != nil {
		t.Fatal(err)
	}
	var cut bool
	result, err := CopyIn(deadline(t), dial(t), dir+"/f", dir+"/got", Options{Progress: func(int64) {
		if !cut {
			cut = true
			_ = os.Truncate(dir+"/f", 3*chunkSize)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Notes) != 1 || !strings.Contains(result.Notes[0], "became shorter") {
		t.Errorf("the notes are %q", result.Notes)
	}
	if info, err := os.Stat(dir + "/got"); err != nil || info.Size() != 8*chunkSize {
		t.Errorf("the copy is %v, %v; want %d bytes", info, err, 8*chunkSize)
	}
}

// lastWord is a sink that knows the content of each name, short files being all there is.
type lastWord struct {
	content map[string]string
	name    string
}

func (l *lastWord) entry(e *Entry) error {
	l.name = e.Name
	l.content[e.Name] = l.content[e.Target]
	return nil
}

func (l *lastWord) data(_ int64, p []byte) error {
	l.content[l.name] += string(p)
	return nil
}

func (l *lastWord) end([]string) error { return nil }

// TestReplacedLink: a name that is one of a file's when it is looked at, and another file's when it is opened, does not give
// the first file's other names the content of the second.
func TestReplacedLink(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir src; echo old >src/z1; ln src/z1 src/z2")
	var replacing sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer replacing.Wait()
	defer cancel()
	replacing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s/src/a%d", dir, i%8)
			_ = os.Link(dir+"/src/z1", dir+"/link")
			_ = os.Rename(dir+"/link", name)
			_ = os.WriteFile(dir+"/file", []byte("new\n"), 0o600)
			_ = os.Rename(dir+"/file", name)
		}
	})
	for ctx.Err() == nil {
		seen := &lastWord{content: map[string]string{}}
		if err := newWalker(seen, false, onHost).walk(dir + "/src"); err != nil {
			t.Fatal(err)
		}
		if seen.content["z1"] != "old\n" || seen.content["z2"] != "old\n" {
			t.Fatalf("what never changed was sent as %q", seen.content)
		}
	}
}

// meddler is a sink that does something when an entry comes.
type meddler func(name string)

func (m meddler) entry(e *Entry) error {
	m(e.Name)
	return nil
}

func (m meddler) data(int64, []byte) error { return nil }
func (m meddler) end([]string) error       { return nil }

// TestRemovedDirectory: a directory that is removed while it is read is left out like a file, with a note.
func TestRemovedDirectory(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir -p src/d; touch src/d/f")
	w := newWalker(meddler(func(name string) {
		if name == "d" {
			shell(t, dir, "rm -r src/d")
		}
	}), false, onHost)
	if err := w.walk(dir + "/src"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.notes.all()); !strings.Contains(got, `src/d" on the host was removed`) {
		t.Errorf("the notes are %s", got)
	}
}

// TestRemovedSymlinks: symlinks that come and go do not end a copy.
func TestRemovedSymlinks(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir src")
	var flickering sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer flickering.Wait()
	defer cancel()
	flickering.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("%s/src/s%d", dir, i%8)
			_ = os.Symlink("nowhere", name)
			_ = os.Remove(fmt.Sprintf("%s/src/s%d", dir, (i+4)%8))
		}
	})
	for archive := false; ctx.Err() == nil; archive = !archive {
		if err := newWalker(meddler(func(string) {}), archive, onHost).walk(dir + "/src"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOversizedAttributes: a file whose attributes are more than the file system of its copy keeps is copied without them.
func TestOversizedAttributes(t *testing.T) {
	send := tree(dirEntry(top), &Entry{Kind: Regular, Mode: 0o644, Size: 3, Name: "f", Xattrs: []Xattr{
		{"user.block", strings.Repeat("v", 20_000)}, // no space left on device, where it is an ext4
		{"user.limit", strings.Repeat("v", xattrLimit+1)},
		{"user.small", "v"},
	}})
	dest := t.TempDir()
	result, err := CopyOut(deadline(t), dialTo(t, hostileGuest(true, send)), "/src", dest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := shell(t, dest, "cat src/f; getfattr --only-values -n user.small src/f"); got != "xxxv" {
		t.Errorf("the copy has %q, want the content and the attribute that fits", got)
	}
	if got := fmt.Sprint(result.Notes); !strings.Contains(got, "extended attribute user is not kept") {
		t.Errorf("the notes are %s", got)
	}
}

// TestUnreadable: what cannot be read ends the copy with an error that names it.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root can read everything: TestAsNobody runs this")
		return
	}
	dir := t.TempDir()
	shell(t, dir, "mkdir src; echo 1 >src/secret; chmod 0 src/secret")
	for name, copy := range map[string]func(context.Context, net.Conn, string, string, Options) (Result, error){onHost: CopyIn, inVM: CopyOut} {
		_, err := copy(deadline(t), dial(t), dir+"/src", dir+"/dest", Options{})
		want := fmt.Sprintf("reading %q %s: permission denied", dir+"/src/secret", name)
		if err == nil || err.Error() != want {
			t.Errorf("got the error %v, want %s", err, want)
		}
		shell(t, dir, "rm -rf dest")
	}
}

// TestUnwritable: what cannot be written ends the copy with an error that names it and its side.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	shell(t, dir, "mkdir -p src dest/src/name; echo 1 >src/name; ls / >src/z")
	for name, copy := range map[string]func(context.Context, net.Conn, string, string, Options) (Result, error){inVM: CopyIn, onHost: CopyOut} {
		_, err := copy(deadline(t), dial(t), dir+"/src", dir+"/dest", Options{})
		want := fmt.Sprintf("writing %q %s: there is a directory, which a file does not replace", dir+"/dest/src/name", name)
		if err == nil || err.Error() != want || ReasonOf(err) != frame.Conflict {
			t.Errorf("got the error %v of reason %s, want %s", err, ReasonOf(err), want)
		}
	}
}

// smallDisk mounts a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestFullDisk: a full disk on either side ends the copy at once, while the sender is still sending, says which side it is,
// and leaves no half of a file.
func TestFullDisk(t *testing.T) {
	src := t.TempDir()
	shell(t, src, "echo small >a; head -c 20M /dev/zero >b")
	for _, c := range []struct {
		name string
		dial func(testing.TB) net.Conn
	}{
		{"socket", dial},
		{"multiplexer", func(t testing.TB) net.Conn { return dialMux(t, Handlers().Serve) }},
	} {
		for side, copy := range map[string]func(context.Context, net.Conn, string, string, Options) (Result, error){inVM: CopyIn, onHost: CopyOut} {
			t.Run(c.name+" "+side, func(t *testing.T) {
				disk := smallDisk(t)
				began := time.Now()
				_, err := copy(deadline(t), c.dial(t), src+"/.", disk, Options{})
				checkRefused(t, err, fmt.Sprintf("writing %q %s: no space left on device", disk+"/b", side), frame.NoSpace)
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %v to fail", took)
				}
				if got := shell(t, disk, "find . -type f ! -name a"); got != "" {
					t.Errorf("left behind: %s", got)
				}
			})
		}
	}
}

// TestRefusedWhileReading: when the guest refuses, a copy ends although its input, a pipe, gives nothing.
func TestRefusedWhileReading(t *testing.T) {
	for _, mux := range []bool{false, true} {
		dir := t.TempDir()
		shell(t, dir, "mkdir taken")
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		go func() {
			archive := tar.NewWriter(w)
			_ = archive.WriteHeader(&tar.Header{Name: "taken", Typeflag: tar.TypeReg, Mode: 0o644})
			// Enough that the outbox sends something; then nothing comes, and no end.
			_ = archive.WriteHeader(&tar.Header{Name: "next", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 30})
			_, _ = archive.Write(make([]byte, 1<<20))
		}()
		stream := dial(t)
		if mux {
			stream = dialMux(t, Handlers().Serve)
		}
		_, err := TarIn(deadline(t), stream, r, dir, Options{})
		checkRefused(t, err, "there is a directory", frame.Conflict)
	}
}

// TestInterrupted: when the user has had enough the copy ends, in whatever state it is, and leaves no half of a file.
func TestInterrupted(t *testing.T) {
	src := t.TempDir()
	shell(t, src, "truncate -s 1G f; dd if=/dev/zero of=f bs=1M count=64 conv=notrunc status=none")
	silent := func(stream net.Conn) { _, _ = frame.Read(stream); _, _ = io.Copy(io.Discard, stream) }
	stalled := func(stream net.Conn) {
		_, _ = frame.Read(stream)
		frame.Answer(stream, struct{}{})
		time.Sleep(time.Second)
		_ = stream.Close()
	}
	why := errors.New("enough")
	for name, c := range map[string]struct {
		serve func(net.Conn)
		copy  func(context.Context, net.Conn, string, string, Options) (Result, error)
	}{
		"silent guest, in":  {silent, CopyIn},
		"silent guest, out": {silent, CopyOut},
		"stalled guest, in": {stalled, CopyIn},
		"working, in":       {Handlers().Serve, CopyIn},
		"working, out":      {Handlers().Serve, CopyOut},
	} {
		t.Run(name, func(t *testing.T) {
			dest := t.TempDir()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			progress := func(n int64) {
				if n > 1<<20 {
					cancel(why)
				}
			}
			timer := time.AfterFunc(time.Second/2, func() { cancel(why) })
			defer timer.Stop()
			_, err := c.copy(ctx, dialMux(t, c.serve), src+"/f", dest+"/f", Options{Progress: progress})
			if !errors.Is(err, why) {
				t.Errorf("got the error %v, want %v", err, why)
			}
			eventuallyEmpty(t, dest)
		})
	}
}

// eventuallyEmpty waits for the agent to notice that the host is gone.
func eventuallyEmpty(t *testing.T, dir string) {
	t.Helper()
	var names []os.DirEntry
	for range 50 {
		if names, _ = os.ReadDir(dir); len(names) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("left behind: %v", names)
}

// TestLostGuest: a guest that is gone in the middle of a copy is an error.
func TestLostGuest(t *testing.T) {
	src := t.TempDir()
	shell(t, src, "head -c 5M /dev/zero >f")
	die := func(stream net.Conn) {
		_, _ = frame.Read(stream)
		frame.Answer(stream, struct{}{})
		_, _ = io.CopyN(io.Discard, stream, 1<<20)
		_ = stream.Close()
	}
	half := hostileGuest(true, raw(kindEntry, appendEntry(nil, dirEntry(top)), kindEntry, appendEntry(nil, fileEntry("f"))))
	if _, err := CopyIn(deadline(t), dialTo(t, die), src, src+"/new", Options{}); !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("got the error %v, want %v", err, frame.ErrDisconnected)
	}
	_, err := Between(deadline(t), dialTo(t, half), "/src", dial(t), src+"/new", Options{})
	if !errors.Is(err, frame.ErrDisconnected) {
		t.Errorf("between: got the error %v, want %v", err, frame.ErrDisconnected)
	}
}

// TestAsNobody runs the tests again as a user without privileges.
func TestAsNobody(t *testing.T) {
	if os.Geteuid() != 0 {
		return // they run as one anyway
	}
	program := publicCopy(t)
	cmd := exec.Command(program, "-test.run", "RandomTrees|Hostile|Existing|Sparse|Unread|Unwrit|Tar|Relative")
	cmd.Dir = filepath.Dir(program)
	cmd.Env = append(os.Environ(), "TMPDIR="+cmd.Dir, "BANGER_TEST_EXCUSE=mount")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// publicCopy returns a copy of this program in a directory that everybody can use.
func publicCopy(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "banger-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	shell(t, dir, fmt.Sprintf("chmod 777 .; cp %q test; chmod 755 test", self))
	return filepath.Join(dir, "test")
}

// TestNobodyAndRoot: the usual case, a user without privileges on the host and root in the guest.
func TestNobodyAndRoot(t *testing.T) {
	if way := os.Getenv("BANGER_TEST_WAY"); way != "" {
		hostHalf(t, way)
		return
	}
	needRoot(t)
	program := publicCopy(t)
	dir := filepath.Dir(program)
	shell(t, dir, "mkdir guest user; echo guest >guest/file; chown 5:6 guest/file; chmod 4755 guest/file; echo user >user/file; chown -R 65534:65534 user")
	for _, c := range []struct{ way, want string }{
		{"in", "copied/file 644 0:0"},
		{"in -a", "copied/file 644 65534:65534"},
		{"out", "file 755 65534:65534"},
		{"out -a", "file 755 65534:65534"},
	} {
		near, far := socketpair(t)
		go Handlers().Serve(far)
		file, err := near.(*net.UnixConn).File()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-test.run", "^TestNobodyAndRoot$")
		cmd.Env = append(os.Environ(), "BANGER_TEST_WAY="+c.way)
		cmd.Dir, cmd.ExtraFiles = dir, []*os.File{file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", c.way, err, out)
		}
		_, _ = file.Close(), near.Close()
		got := strings.TrimSpace(shell(t, dir, `cd guest; find copied -type f -printf 'copied/%f %m %U:%G\n' 2>/dev/null || true; cd ../user; find copied -type f -printf '%f %m %U:%G\n' 2>/dev/null || true; cd ..; rm -rf guest/copied user/copied`))
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.way, got, c.want)
		}
	}
}

// hostHalf is the part of TestNobodyAndRoot without privileges.
func hostHalf(t *testing.T, way string) {
	stream, err := net.FileConn(os.NewFile(3, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Archive: strings.HasSuffix(way, "-a")}
	if strings.HasPrefix(way, "in") {
		_, err = CopyIn(deadline(t), stream, "user", dir+"/guest/copied", o)
	} else {
		_, err = CopyOut(deadline(t), stream, dir+"/guest", "user/copied", o)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestRandomWire: what one end of a stream sends, the other one gets.
func TestRandomWire(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var b bytes.Buffer
		out := newOutbox(&b)
		e := &Entry{Kind: Regular, Mode: 0o600, Name: top, Size: r.Int64N(3 << 20)}
		want := make([]byte, e.Size)
		_ = out.entry(e)
		for at := int64(0); at < e.Size; at += r.Int64N(1000) {
			p := want[at:min(e.Size, at+r.Int64N(1<<20))]
			for i := range p {
				p[i] = byte(r.UintN(256))
			}
			_ = out.data(at, p)
			at += int64(len(p))
		}
		_ = out.end(nil)
		out.close()
		dest := t.TempDir()
		d, err := newDisk(place{dest, "f"}, policy{}, onHost)
		if err != nil {
			t.Fatal(err)
		}
		if err := newInbox(&b).pump(d); err != nil {
			t.Fatal(err)
		}
		d.close()
		if got, _ := os.ReadFile(dest + "/f"); !bytes.Equal(got, want) {
			t.Fatal("what arrives differs")
		}
	}
}
