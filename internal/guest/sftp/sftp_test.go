package sftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// judge is OpenSSH's own server.
const judge = "/usr/lib/openssh/sftp-server"

// request is one request, without its length and id.
type request []byte

func ask(kind byte, fields ...any) request {
	r := request{kind, 0, 0, 0, 0}
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			r = appendString(r, f)
		case int: // a number of 32 bits
			r = binary.BigEndian.AppendUint32(r, uint32(f))
		case int64:
			r = binary.BigEndian.AppendUint64(r, uint64(f))
		case []byte: // as it is
			r = append(r, f...)
		}
	}
	return r
}

// attr are attributes with the flags that say what is there.
func attr(flags int, fields ...any) []byte { return ask(0, append([]any{flags}, fields...)...)[5:] }

// conversation answers requests one after the other, in the working directory dir.
type conversation struct {
	t  *testing.T
	in io.Writer
	r  io.Reader
	id uint32
}

func (c *conversation) send(r request) {
	c.t.Helper()
	c.id++
	packet := binary.BigEndian.AppendUint32(nil, uint32(len(r)))
	packet = append(packet, r...)
	binary.BigEndian.PutUint32(packet[5:], c.id)
	if _, err := c.in.Write(packet); err != nil {
		c.t.Fatal(err)
	}
}

// receive returns the type and the payload of the next answer.
func (c *conversation) receive() (kind byte, payload []byte) {
	c.t.Helper()
	var header [9]byte
	if _, err := io.ReadFull(c.r, header[:]); err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	if id := binary.BigEndian.Uint32(header[5:]); id != c.id {
		c.t.Fatalf("the answer is to request %d, want %d", id, c.id)
	}
	payload = make([]byte, binary.BigEndian.Uint32(header[:])-5)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	return header[4], payload
}

// ours begins a conversation with this package's server. It works in the test's own directory.
func ours(t *testing.T) *conversation {
	t.Helper()
	in, toServer := io.Pipe()
	fromServer, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Serve(in, out)
		_ = out.Close()
	}()
	t.Cleanup(func() {
		_ = toServer.Close()
		go func() { _, _ = io.Copy(io.Discard, fromServer) }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the server ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the server did not end with its input")
		}
	})
	return &conversation{t: t, in: toServer, r: fromServer}
}

// theirs begins a conversation with OpenSSH's.
func theirs(t *testing.T) *conversation {
	t.Helper()
	if _, err := os.Stat(judge); err != nil {
		t.Fatalf("this test needs OpenSSH's sftp-server: run scripts/deps.sh test")
	}
	cmd := osexec.CommandContext(t.Context(), judge)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return &conversation{t: t, in: in, r: out}
}

// hello opens a conversation, and returns the payload of the answer.
func (c *conversation) hello() []byte {
	c.t.Helper()
	if _, err := c.in.Write([]byte{0, 0, 0, 5, typeInit, 0, 0, 0, version}); err != nil {
		c.t.Fatal(err)
	}
	c.id = version
	_, payload := c.receive()
	c.id = 0
	return payload
}

// makeFiles makes what the requests of TestAsOpenSSH work on.
func makeFiles(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	when := time.Unix(1_000_000_000, 0)
	for name, mode := range map[string]fs.FileMode{"file": 0o644, "suid": fs.ModeSetuid | 0o755, "locked": 0} {
		must(os.WriteFile(name, []byte("0123456789"), 0o600))
		must(os.Chmod(name, mode))
		must(os.Chtimes(name, when, when))
	}
	must(os.MkdirAll("dir/sub", 0o755))
	must(os.Symlink("file", "link"))
	must(os.Symlink("dir/sub", "dirlink"))
	must(os.Symlink("nowhere", "dangling"))
	must(os.Symlink("loop", "loop"))
}

// Handles of both servers are asked for by these, which stand for the first and the second that were opened.
const (
	first  = "\x00HANDLE1"
	second = "\x00HANDLE2"
)

// requests go through everything that the protocol and its extensions have.
func requests(own string) map[string][]request {
	const all = openRead | openWrite
	none := attr(0)
	ext := func(name string, fields ...any) request { return ask(typeExtended, append([]any{name}, fields...)...) }
	return map[string][]request{
		"stat":            {ask(typeStat, "file"), ask(typeStat, "link"), ask(typeStat, "dangling"), ask(typeStat, "nothing"), ask(typeStat, "suid"), ask(typeStat, "file/x"), ask(typeStat, "")},
		"lstat":           {ask(typeLstat, "link"), ask(typeLstat, "dangling"), ask(typeLstat, "dir"), ask(typeLstat, strings.Repeat("x", 300))},
		"read":            {ask(typeOpen, "file", openRead, none), ask(typeRead, first, int64(0), 4), ask(typeRead, first, int64(8), 100), ask(typeRead, first, int64(10), 1), ask(typeRead, first, int64(100), 1), ask(typeFstat, first), ask(typeClose, first), ask(typeRead, first, int64(0), 4)},
		"read of nothing": {ask(typeOpen, "nothing", openRead, none), ask(typeOpen, "", openRead, none)},
		"read only":       {ask(typeOpen, "file", openRead, none), ask(typeWrite, first, int64(0), "x")},
		"write":           {ask(typeOpen, "new", openWrite|openCreate|openTrunc, attr(hasMode, 0o600)), ask(typeWrite, first, int64(3), "abc"), ask(typeWrite, first, int64(0), "xyz"), ask(typeWrite, first, int64(100), ""), ask(typeClose, first), ask(typeStat, "new")},
		"write only":      {ask(typeOpen, "file", openWrite, none), ask(typeRead, first, int64(0), 4)},
		"append":          {ask(typeOpen, "file", openWrite|openAppend, none), ask(typeWrite, first, int64(0), "tail"), ask(typeClose, first)},
		"exclusive":       {ask(typeOpen, "file", openWrite|openCreate|openExcl, none), ask(typeOpen, "new", all|openCreate|openExcl, none)},
		"truncate":        {ask(typeOpen, "file", all|openTrunc, none), ask(typeFstat, first)},
		"open nothing":    {ask(typeOpen, "file", 0, none), ask(typeRead, first, int64(0), 4)},
		"open directory":  {ask(typeOpen, "dir", openRead, none), ask(typeRead, first, int64(0), 4), ask(typeOpen, "dir", openWrite, none)},
		"setstat": {ask(typeSetstat, "file", attr(hasSize, int64(4))), ask(typeSetstat, "file", attr(hasMode|hasTimes, 0o4711, 1_100_000_000, 1_200_000_000)),
			ask(typeSetstat, "link", attr(hasMode, 0o600)), ask(typeSetstat, "nothing", attr(hasMode, 0o600)), ask(typeSetstat, "file", none), ask(typeStat, "file")},
		"setstat with more": {ask(typeSetstat, "file", attr(hasMode|hasExtended, 0o640, 2, "a@b", "c", "d@e", "f")), ask(typeStat, "file")},
		"fsetstat": {ask(typeOpen, "file", all, none), ask(typeFsetstat, first, attr(hasSize|hasMode|hasTimes, int64(5), 0o604, 1_100_000_000, 1_200_000_000)),
			ask(typeFstat, first), ask(typeClose, first)},
		"owner":     {ask(typeSetstat, "file", attr(hasOwner, os.Getuid(), os.Getgid())), ask(typeStat, "file")},
		"directory": {ask(typeMkdir, "d", attr(hasMode, 0o700)), ask(typeStat, "d"), ask(typeMkdir, "d", none), ask(typeMkdir, "x/y", none), ask(typeRmdir, "d"), ask(typeRmdir, "dir"), ask(typeRmdir, "file"), ask(typeRmdir, "nothing")},
		"remove":    {ask(typeRemove, "file"), ask(typeRemove, "file"), ask(typeRemove, "link"), ask(typeRemove, "dir")},
		"rename":    {ask(typeRename, "file", "other"), ask(typeRename, "other", "suid"), ask(typeRename, "nothing", "x"), ask(typeRename, "dir", "dir2"), ask(typeRename, "dir2", "other"), ask(typeRename, "suid", "link")},
		"links":     {ask(typeReadlink, "link"), ask(typeReadlink, "file"), ask(typeReadlink, "nothing"), ask(typeSymlink, "to/where", "new"), ask(typeReadlink, "new"), ask(typeSymlink, "x", "file")},
		"realpath": {ask(typeRealpath, "."), ask(typeRealpath, ""), ask(typeRealpath, "link"), ask(typeRealpath, "nothing"), ask(typeRealpath, "dirlink/.."), ask(typeRealpath, "dir/../file"),
			ask(typeRealpath, "/"), ask(typeRealpath, "//usr/./bin/.."), ask(typeRealpath, "no/thing"), ask(typeRealpath, "loop"), ask(typeRealpath, "dir/"),
			ask(typeRealpath, "dirlink/../nothing"), ask(typeRealpath, "nothing/"), ask(typeRealpath, "nothing/.."), ask(typeRealpath, "/nothing")},
		"opendir":       {ask(typeOpendir, "file"), ask(typeOpendir, "nothing"), ask(typeOpendir, "dir/sub"), ask(typeClose, first), ask(typeClose, first), ask(typeReaddir, first)},
		"kinds":         {ask(typeOpen, "file", openRead, none), ask(typeReaddir, first), ask(typeOpendir, "dir"), ask(typeRead, second, int64(0), 1), ask(typeFstat, second), ask(typeFsetstat, second, attr(hasMode, 0o711)), ask(typeStat, "dir")},
		"posix-rename":  {ext("posix-rename@openssh.com", "file", "suid"), ext("posix-rename@openssh.com", "nothing", "x"), ask(typeStat, "suid")},
		"hardlink":      {ext("hardlink@openssh.com", "file", "hard"), ext("hardlink@openssh.com", "file", "hard"), ext("hardlink@openssh.com", "nothing", "x")},
		"statvfs":       {ext("statvfs@openssh.com", "nothing"), ext("fstatvfs@openssh.com", "none")},
		"fsync":         {ask(typeOpen, "file", openWrite, none), ext("fsync@openssh.com", first), ext("fsync@openssh.com", "none")},
		"lsetstat":      {ext("lsetstat@openssh.com", "link", attr(hasTimes, 1_100_000_000, 1_200_000_000)), ask(typeLstat, "link"), ext("lsetstat@openssh.com", "file", attr(hasMode, 0o604)), ask(typeStat, "file"), ext("lsetstat@openssh.com", "nothing", attr(hasMode, 0o600))},
		"expand-path":   {ext("expand-path@openssh.com", "~"), ext("expand-path@openssh.com", "~/x"), ext("expand-path@openssh.com", "link"), ext("expand-path@openssh.com", "~root/"), ext("expand-path@openssh.com", "a~")},
		"copy-data":     {ask(typeOpen, "file", openRead, none), ask(typeOpen, "copy", openWrite|openCreate, none), ext("copy-data", first, int64(2), int64(3), second, int64(1)), ext("copy-data", first, int64(0), int64(0), second, int64(10)), ext("copy-data", first, int64(0), int64(0), first, int64(0)), ext("copy-data", first, int64(100), int64(0), second, int64(0)), ask(typeStat, "copy")},
		"home":          {ext("home-directory", own), ext("home-directory", "no-such-user")},
		"names":         {ext("users-groups-by-id@openssh.com", string(attr(0, 65534)), string(attr(0, 54321)))},
		"unknown":       {ext("no-such@openssh.com")},
		"bad handle":    {ask(typeClose, "none"), ask(typeRead, "none", int64(0), 1), ask(typeWrite, "none", int64(0), "x"), ask(typeFstat, "none"), ask(typeReaddir, "none"), ask(typeFsetstat, "none", none)},
		"remove locked": {ask(typeRemove, "locked"), ask(typeRemove, "/proc/version")},
	}
}

// outcome is what matters of an answer: its type, and its payload unless that is only a text or a handle.
type outcome struct {
	kind    byte
	payload string
}

// converse sends requests and returns the outcomes. The handles of each server are its own.
func (c *conversation) converse(requests []request) (got []outcome) {
	var opened []string
	c.hello()
	for _, r := range requests {
		for i, stand := range []string{first, second} {
			if i < len(opened) {
				r = bytes.ReplaceAll(r, appendString(nil, stand), appendString(nil, opened[i]))
			}
		}
		c.send(r)
		kind, payload := c.receive()
		switch kind {
		case typeStatus:
			payload = payload[:4]
		case typeHandle:
			opened = append(opened, string(payload[4:]))
			payload = nil
		}
		got = append(got, outcome{kind, string(payload)})
	}
	return got
}

// TestAsOpenSSH: OpenSSH's own server gives the same answers and leaves the same files.
func TestAsOpenSSH(t *testing.T) {
	own, err := user.Current() // whose home alone OpenSSH tells an ordinary user
	if err != nil {
		t.Fatal(err)
	}
	for name, requests := range requests(own.Username) {
		t.Run(name, func(t *testing.T) {
			there := t.TempDir() // one after the other, by the same name
			run := func(c func(*testing.T) *conversation) (answers []outcome, files string) {
				dir := filepath.Join(there, "d")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				t.Chdir(dir)
				makeFiles(t)
				answers = c(t).converse(requests)
				files = listing(t)
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				t.Chdir(there)
				return answers, files
			}
			want, wantFiles := run(theirs)
			got, gotFiles := run(ours)
			for i := range requests {
				if got[i] != want[i] && !sameButForTimes(requests[i], got[i], want[i]) {
					t.Errorf("request %d, %q: the answer is %q, OpenSSH's is %q", i, requests[i], got[i], want[i])
				}
			}
			if gotFiles != wantFiles {
				t.Errorf("it left\n%s\nOpenSSH's left\n%s", gotFiles, wantFiles)
			}
		})
	}
}

// sameButForTimes compares the attributes of files that the test itself has just made.
func sameButForTimes(r request, a, b outcome) bool {
	const times = 8
	if a.kind != typeAttrs || b.kind != typeAttrs || len(a.payload) != len(b.payload) || bytes.Contains(r, []byte("file")) {
		return false
	}
	return a.payload[:len(a.payload)-times] == b.payload[:len(b.payload)-times]
}

// listing tells what is in the working directory.
func listing(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text.WriteString(path + " " + info.Mode().String())
		switch info.Mode() & fs.ModeType {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrPermission) { // only root reads what is locked
				return err
			}
			text.WriteString(" " + string(data))
		case fs.ModeSymlink:
			to, _ := os.Readlink(path)
			text.WriteString(" " + to)
		}
		text.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestExtensions: every extension of OpenSSH's server is there, in the same version.
func TestExtensions(t *testing.T) {
	if got, want := ours(t).hello(), theirs(t).hello(); !bytes.Contains(got, want) {
		t.Errorf("the extensions are %q, OpenSSH's are %q", got, want)
	}
}

// TestDirectory: every name of a large directory comes once, in answers that OpenSSH's client takes.
func TestDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	want := map[string]bool{".": true, "..": true}
	for i := range 1000 {
		name := strings.Repeat("n", 200) + "-" + id(uint32(i))
		want[name] = true
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := ours(t)
	c.hello()
	c.send(ask(typeOpendir, "."))
	_, handle := c.receive()
	for {
		c.send(ask(typeReaddir, string(handle[4:])))
		kind, payload := c.receive()
		if kind == typeStatus {
			if code := binary.BigEndian.Uint32(payload); code != statusEOF {
				t.Errorf("the directory ends with the status %d, want %d", code, statusEOF)
			}
			break
		}
		if len(payload) > maxPacket {
			t.Errorf("an answer has %d bytes, more than %d", len(payload), maxPacket)
		}
		m := &message{rest: payload}
		for range m.uint32() {
			name := m.string()
			m.string()
			m.attributes()
			if !want[name] {
				t.Errorf("%q came although it is not there or had come before", name)
			}
			delete(want, name)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d names did not come", len(want))
	}
}

// TestBroken: a client that breaks the protocol is left, and costs nothing.
func TestBroken(t *testing.T) {
	for name, packets := range map[string]string{
		"too long":  "\xff\xff\xff\xff",
		"too short": "\x00\x00\x00\x04\x01\x00\x00\x00",
		"cut off":   "\x00\x00\x00\x10\x03\x00\x00",
	} {
		if err := Serve(strings.NewReader(packets), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestBadRequest: a request that is too short is answered, and nothing of it is done.
func TestBadRequest(t *testing.T) {
	t.Chdir(t.TempDir())
	c := ours(t)
	c.hello()
	whole := ask(typeOpen, "new", openWrite|openCreate, attr(hasMode, 0o600))
	for n := 5; n < len(whole); n++ {
		c.send(whole[:n])
		if kind, payload := c.receive(); kind != typeStatus || binary.BigEndian.Uint32(payload) != statusBadMessage {
			t.Errorf("the first %d bytes of a request were answered with %d %q", n, kind, payload)
		}
	}
	if _, err := os.Stat("new"); err == nil {
		t.Error("a part of a request has made a file")
	}
}

// FuzzServe: whatever comes, the answers are whole packets.
func FuzzServe(f *testing.F) {
	for _, list := range requests("root") {
		var packets []byte
		for _, r := range list {
			packets = append(binary.BigEndian.AppendUint32(packets, uint32(len(r))), r...)
		}
		f.Add(packets)
	}
	f.Fuzz(func(t *testing.T, packets []byte) {
		if !harmless(packets) {
			return
		}
		t.Chdir(t.TempDir())
		var out bytes.Buffer
		_ = Serve(bytes.NewReader(packets), &out)
		for out.Len() > 0 {
			var length uint32
			if err := binary.Read(&out, binary.BigEndian, &length); err != nil || int(length) > out.Len() || length < 5 {
				t.Fatalf("the answers end with %q", out.Bytes())
			}
			out.Next(int(length))
		}
	})
}

// harmless keeps the fuzzer within the test's directory, and from files that are read for ever.
func harmless(packets []byte) bool {
	return !bytes.ContainsAny(packets, "/~") && !bytes.Contains(packets, []byte("..")) && !bytes.Contains(packets, []byte("home-"))
}
