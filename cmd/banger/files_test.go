package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/engine"
	"github.com/banger-vm/banger/internal/fault"
)

// netRaw is the attribute of a file with cap_net_raw=ep (linux/capability.h: struct vfs_cap_data).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// odd is a name that no terminal shows as it is, and that JSON cannot have.
const odd = "odd \xff\n\x1b[31mname"

// large is content of some pieces of 1 MiB and a byte.
func large() string { return strings.Repeat("all work and no play makes\n01234", 3<<15) + "!" }

// member is an entry of a layer with these of its fields.
func member(kind byte, name, content string, edit ...func(*tar.Header)) *tar.Header {
	h := &tar.Header{
		Typeflag: kind, Name: name, Mode: 0o644, ModTime: time.Unix(1e9, 123456789), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"BANGER.content": content},
	}
	switch kind {
	case tar.TypeReg:
		h.Size = int64(len(content))
	case tar.TypeDir:
		h.Mode = 0o755
	case tar.TypeSymlink, tar.TypeLink:
		h.Linkname = content
	}
	for _, e := range edit {
		e(h)
	}
	return h
}

// setCapable makes a member a program of somebody else's with a capability and an attribute.
func setCapable(h *tar.Header) {
	h.Mode, h.Uid, h.Gid = 0o4755, 7, 70000
	h.PAXRecords["SCHILY.xattr.security.capability"] = netRaw
	h.PAXRecords["SCHILY.xattr.user.note"] = "a\x00b"
}

func device(major, minor int64) func(*tar.Header) {
	return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
}

// zoo is a layer with a file of every kind, which edit may change.
func zoo(edit ...func(*tar.Header)) []*tar.Header {
	return []*tar.Header{
		member(tar.TypeDir, "bin", "", edit...),
		member(tar.TypeReg, "bin/ping", "ping", append([]func(*tar.Header){setCapable}, edit...)...),
		member(tar.TypeLink, "bin/ping6", "bin/ping"),
		member(tar.TypeDir, "dev", "", edit...),
		member(tar.TypeChar, "dev/null", "", append([]func(*tar.Header){device(1, 3)}, edit...)...),
		member(tar.TypeBlock, "dev/sda", "", append([]func(*tar.Header){device(8, 300)}, edit...)...),
		member(tar.TypeFifo, "dev/fifo", "", edit...),
		member(tar.TypeDir, "etc", "", edit...),
		member(tar.TypeReg, "etc/motd", "hello <&>\n", edit...),
		member(tar.TypeReg, "etc/empty", "", edit...),
		member(tar.TypeReg, "etc/large", large(), edit...),
		member(tar.TypeReg, "etc/"+odd, "odd", edit...),
		member(tar.TypeSymlink, "etc/odd", odd, edit...),
		member(tar.TypeSymlink, "conf", "/etc", edit...),
		member(tar.TypeSymlink, "loop", "loop", edit...),
	}
}

// layerOf makes a tar of members.
func layerOf(t *testing.T, members []*tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, h := range members {
		content := h.PAXRecords["BANGER.content"]
		delete(h.PAXRecords, "BANGER.content")
		if err := writer.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(writer, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// image pulls an image with one layer, by that name.
func (w *world) image(name string, members []*tar.Header) {
	w.Helper()
	archive := w.archiveOf(name+".tar", layerOf(w.T, members))
	_, err := w.verbs.PullImage(w.Context(), "docker-archive:"+archive, engine.PullOptions{Name: name, Size: 64 << 20})
	w.must("pulling "+name, err)
}

// files lists what is in an image.
func (w *world) files(query, path string, depth int) ([]engine.File, error) {
	var files []engine.File
	options := engine.FileOptions{Path: path, Depth: depth}
	err := w.verbs.ListFiles(w.Context(), query, options, func(f engine.File) error {
		files = append(files, f)
		return nil
	})
	return files, err
}

func paths(files []engine.File) []string {
	var all []string
	for _, f := range files {
		all = append(all, f.Path)
	}
	return all
}

// checkFiles: what is in an image, with all that is known of it.
func checkFiles(w *world) {
	w.image("zoo", zoo())
	all, err := w.files("zoo", "", -1)
	w.must("listing", err)
	w.gave("files", all)
	found := map[string]engine.File{}
	for _, f := range all {
		found[f.Path] = f
	}
	ping := found["/bin/ping"]
	if ping.Type != engine.TypeRegular || ping.Mode != "4755" || ping.UID != 7 || ping.GID != 70000 || ping.Size != 4 ||
		ping.Links != 2 || !ping.MTime.Equal(time.Unix(1e9, 123456789)) || ping.Capabilities != "cap_net_raw=ep" ||
		len(ping.Xattrs) != 2 || string(ping.Xattrs[1].Value) != "a\x00b" || found["/bin/ping6"].Inode != ping.Inode {
		w.Errorf("/bin/ping is %+v", ping)
	}
	if sda := found["/dev/sda"]; sda.Type != engine.TypeBlock || sda.Major != 8 || sda.Minor != 300 {
		w.Errorf("/dev/sda is %+v", sda)
	}
	if f := found["/etc/"+odd]; f.Size != 3 || string(f.RawPath) != f.Path || found["/etc/odd"].Target != odd {
		w.Errorf("the file with the odd name is %+v, and the symlink to it %+v", f, found["/etc/odd"])
	}
	for _, c := range []struct {
		path  string
		depth int
		want  []string
	}{
		{"/bin", -1, []string{"/bin/ping", "/bin/ping6"}},
		{"bin/../conf/", 1, []string{"/etc/empty", "/etc/large", "/etc/motd", "/etc/odd", "/etc/" + odd}},
		{"/conf", 0, []string{"/conf"}},
		{"/conf/motd", -1, []string{"/etc/motd"}},
		{"/", 0, []string{"/"}},
		{"/", 1, []string{"/bin", "/conf", "/dev", "/etc", "/loop", "/lost+found", "/sbin", "/usr"}},
	} {
		got, err := w.files("zoo", c.path, c.depth)
		if err != nil || !slices.Equal(paths(got), c.want) {
			w.Errorf("%q to the depth %d has %q (%v), want %q", c.path, c.depth, paths(got), err, c.want)
		}
	}
	badPaths(w)
	enough := errors.New("enough of it")
	err = w.verbs.ListFiles(w.Context(), "zoo", engine.FileOptions{Depth: -1}, func(engine.File) error { return enough })
	if !errors.Is(err, enough) {
		w.Errorf("listing stops with %v, want the visitor's own error", err)
	}
}

// badPaths: what is not there, and what does not lead anywhere.
func badPaths(w *world) {
	_, err := w.files("zoo", "/etc/mot", -1)
	w.fails("a path that is nearly right", err, fault.NotFound, "zoo", `"/etc/mot"`, "did you mean /etc/motd?")
	_, err = w.files("zoo", "/conf/mota/x", -1)
	w.fails("a directory that is nearly right", err, fault.NotFound, `"/etc/mota"`, "did you mean /etc/motd?")
	_, err = w.files("zoo", "/etc/motd/x", -1)
	w.fails("a path through a file", err, fault.NotFound, "/etc/motd", "not a directory")
	_, err = w.files("zoo", "/loop", -1)
	w.fails("a loop", err, fault.NotFound, "/loop", "too many levels of symbolic links")
	_, err = w.files("zo", "/", -1)
	w.fails("an image that is nearly right", err, fault.NotFound, "did you mean zoo?")
	_, err = w.files("./none.ext4", "/", -1)
	w.fails("a file that is not there", err, fault.NotFound, "none.ext4")
	_, err = w.files(w.dir, "/", -1)
	w.fails("a directory as an image", err, fault.Usage, "no regular file")
	_, err = w.files(w.dir+"/zoo.tar", "/", -1)
	w.fails("a tar as an image", err, fault.Unsupported, "zoo.tar", "not an ext4 file system")
}

// cat returns a file's content.
func (w *world) cat(query, path string) (string, error) {
	var out bytes.Buffer
	err := w.verbs.CatFile(w.Context(), query, path, &out)
	return out.String(), err
}

// checkContents: bytes are the file's, of an image and of its export.
func checkContents(w *world) {
	w.image("zoo", zoo())
	w.Chdir(w.dir)
	w.must("exporting", w.verbs.ExportImage(w.Context(), "zoo", "disk.ext4"))
	for _, query := range []string{"zoo", "./disk.ext4", filepath.Join(w.dir, "disk.ext4")} {
		for path, want := range map[string]string{
			"/etc/motd": "hello <&>\n", "etc/empty": "", "/conf/large": large(), "/etc/odd": "odd", "/etc/" + odd: "odd", "/bin/ping6": "ping",
		} {
			if got, err := w.cat(query, path); err != nil || got != want {
				w.Errorf("%q of %q has %d bytes, %.40q (%v), want %d, %.40q", path, query, len(got), got, err, len(want), want)
			}
		}
	}
	for _, c := range [][2]string{
		{"/etc", "directory"}, {"/dev/null", "character device"}, {"/dev/sda", "block device"}, {"/dev/fifo", "FIFO"},
	} {
		_, err := w.cat("zoo", c[0])
		w.fails(c[0], err, fault.Usage, "zoo", c[0], c[1])
	}
	_, err := w.cat("zoo", "/loop")
	w.fails("a loop", err, fault.NotFound, "/loop")
	_, err = w.cat("zoo", "/etc/larg")
	w.fails("what is not there", err, fault.NotFound, "did you mean /etc/large?")
	full := errors.New("no space")
	if err := w.verbs.CatFile(w.Context(), "zoo", "/etc/large", failing{full}); !errors.Is(err, full) {
		w.Errorf("writing fails with %v, want the writer's own error", err)
	}
	ctx, cancel := context.WithCancelCause(w.Context())
	cancel(full)
	if err := w.verbs.CatFile(ctx, "zoo", "/etc/large", io.Discard); !errors.Is(err, full) {
		w.Errorf("a cancelled copy ends with %v, want the reason of the cancellation", err)
	}
}

// failing is a writer that cannot write.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// differences lists how two images differ: a line each, as `image diff -v` prints it.
func (w *world) differences(from, to string, options engine.DiffOptions) []string {
	w.Helper()
	var lines []string
	err := w.verbs.DiffImages(w.Context(), from, to, options, func(c engine.Change) error {
		lines = append(lines, strings.TrimSpace(c.Kind+" "+c.Path+" "+strings.Join(c.Changed, ",")))
		return nil
	})
	w.must("comparing "+from+" and "+to, err)
	return lines
}

// changeOf changes what a member is, before it is packed.
func changeOf(name string, change func(h *tar.Header)) func(*tar.Header) {
	return func(h *tar.Header) {
		if h.Name == name {
			change(h)
		}
	}
}

// content changes a regular file's bytes.
func content(h *tar.Header, text string) {
	h.Size, h.PAXRecords["BANGER.content"] = int64(len(text)), text
}

// checkDifferences: each thing that can differ is found, and nothing else.
func checkDifferences(w *world) {
	w.image("zoo", zoo())
	for i, c := range []struct {
		change func(*tar.Header)
		want   string
	}{
		{func(*tar.Header) {}, ""},
		{changeOf("etc/motd", func(h *tar.Header) { content(h, "hello <&>!") }), "C /etc/motd content"},
		{changeOf("etc/motd", func(h *tar.Header) { content(h, "") }), "C /etc/motd size,content"},
		{changeOf("etc/large", func(h *tar.Header) { content(h, large()[:len(large())-1]+"?") }), "C /etc/large content"},
		{changeOf("etc/large", func(h *tar.Header) { content(h, large()[:1<<20]+"?"+large()[1<<20+1:]) }), "C /etc/large content"},
		{changeOf("bin/ping", func(h *tar.Header) { content(h, "pong") }), "C /bin/ping content|C /bin/ping6 content"},
		{changeOf("etc/motd", func(h *tar.Header) { h.Mode = 0o2644 }), "C /etc/motd mode"},
		{changeOf("etc", func(h *tar.Header) { h.Gid = 5 }), "C /etc owner"},
		{changeOf("dev/fifo", func(h *tar.Header) { h.ModTime = h.ModTime.Add(1) }), "C /dev/fifo mtime"},
		{changeOf("conf", func(h *tar.Header) { h.Linkname = "/dev" }), "C /conf target"},
		{changeOf("dev/sda", func(h *tar.Header) { h.Devminor++ }), "C /dev/sda device"},
		{changeOf("etc/empty", func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.user.x"] = "y" }), "C /etc/empty xattrs"},
		{changeOf("dev/null", func(h *tar.Header) { h.Typeflag = tar.TypeFifo }), "C /dev/null type"},
		{changeOf("dev/fifo", func(h *tar.Header) { h.Typeflag = tar.TypeDir }), "C /dev/fifo type"},
		{changeOf("etc/"+odd, func(h *tar.Header) { h.Name = "etc/other" }), "D /etc/" + odd + "|A /etc/other"},
		{changeOf("bin/ping", func(h *tar.Header) { h.Mode = 0o755 }), "C /bin/ping mode|C /bin/ping6 mode"},
	} {
		name := fmt.Sprintf("zoo%d", i)
		w.image(name, zoo(c.change))
		got := w.differences("zoo", name, engine.DiffOptions{})
		if sorted(strings.Join(got, "|")) != sorted(c.want) {
			w.Errorf("after change %d the images differ by %q, want %q", i, got, c.want)
		}
		back := strings.NewReplacer("A /", "D /", "D /", "A /").Replace(c.want)
		if got := w.differences(name, "zoo", engine.DiffOptions{}); sorted(strings.Join(got, "|")) != sorted(back) {
			w.Errorf("after change %d the other way round they differ by %q, want %q", i, got, back)
		}
	}
	linkDifferences(w)
	ownDifferences(w)
	badDifferences(w)
}

// sorted puts the parts of a line into an order.
func sorted(line string) string {
	parts := strings.Split(line, "|")
	slices.Sort(parts)
	return strings.Join(parts, "|")
}

// linkDifferences: hard links are not copies, and not links of another file.
func linkDifferences(w *world) {
	file := func(name string) *tar.Header { return member(tar.TypeReg, name, "same") }
	link := func(name, to string) *tar.Header { return member(tar.TypeLink, name, to) }
	w.image("pairs", []*tar.Header{file("a"), link("b", "a"), file("c"), link("d", "c")})
	w.image("crossed", []*tar.Header{file("a"), link("c", "a"), file("b"), link("d", "b")})
	w.image("copies", []*tar.Header{file("a"), file("b"), file("c"), file("d")})
	for to, want := range map[string][]string{
		"pairs": nil, "crossed": {"C /b links", "C /c links"},
		"copies": {"C /a links", "C /b links", "C /c links", "C /d links"},
	} {
		if got := w.differences("pairs", to, engine.DiffOptions{}); !slices.Equal(got, want) {
			w.Errorf("two pairs of links and %s differ by %q, want %q", to, got, want)
		}
		if got := w.differences("pairs", to, engine.DiffOptions{Ignore: []string{engine.DiffLinks}}); got != nil {
			w.Errorf("two pairs of links and %s differ by %q, though links may differ", to, got)
		}
	}
}

// ownDifferences: what banger adds is left out, unless it is asked for.
func ownDifferences(w *world) {
	archive := "docker-archive:" + filepath.Join(w.dir, "zoo.tar")
	_, err := w.verbs.PullImage(w.Context(), archive, engine.PullOptions{Name: "bare", Size: 64 << 20, NoGuest: true})
	w.must("pulling without the agent", err)
	if got := w.differences("zoo", "zoo1", engine.DiffOptions{All: true}); !slices.Equal(got, []string{
		"C /etc/motd content", "C /usr/lib/banger/image.json content",
	}) {
		w.Errorf("with banger's own files two images differ by %q", got)
	}
	// The directories are made for banger's files, but are not its own.
	if got := w.differences("bare", "zoo", engine.DiffOptions{}); !slices.Equal(got, []string{"A /sbin", "A /usr", "A /usr/lib"}) {
		w.Errorf("an image with and without the agent differ by %q", got)
	}
	got := w.differences("bare", "zoo", engine.DiffOptions{All: true})
	for _, path := range []string{"/usr/lib/banger", "/usr/lib/banger/banger-guest", "/usr/lib/banger/image.json", "/sbin/init"} {
		if !slices.Contains(got, "A "+path) {
			w.Errorf("with banger's own files the agent's %s is not among the differences %q", path, got)
		}
	}
}

func badDifferences(w *world) {
	none := func(engine.Change) error { return nil }
	ctx := w.Context()
	w.fails("an unknown image", w.verbs.DiffImages(ctx, "zoo", "zoos", engine.DiffOptions{}, none), fault.NotFound, "zoo")
	w.fails("a file that is not there", w.verbs.DiffImages(ctx, "/no.ext4", "zoo", engine.DiffOptions{}, none), fault.NotFound, "/no.ext4")
	options := engine.DiffOptions{Ignore: []string{"all"}}
	w.fails("what cannot be ignored", w.verbs.DiffImages(ctx, "zoo", "zoo", options, none), fault.Usage, "all", "mtime")
	enough := errors.New("enough of it")
	err := w.verbs.DiffImages(ctx, "zoo", "zoo1", engine.DiffOptions{}, func(engine.Change) error { return enough })
	if !errors.Is(err, enough) {
		w.Errorf("comparing stops with %v, want the visitor's own error", err)
	}
}

// checkDamage: a damaged image is an error that names the image and the path, after what could be read.
func checkDamage(w *world) {
	w.image("zoo", zoo())
	w.Chdir(w.dir)
	w.must("exporting", w.verbs.ExportImage(w.Context(), "zoo", "disk.ext4"))
	w.must("exporting", w.verbs.ExportImage(w.Context(), "zoo", "bad.ext4"))
	files, err := w.files("zoo", "/etc/motd", -1)
	w.must("listing", err)
	out, err := osexec.Command("debugfs", "-w", "-R", fmt.Sprintf("sif <%d> links_count 0", files[0].Inode), "bad.ext4").CombinedOutput()
	w.must(string(out), err)
	listed, err := w.files("./bad.ext4", "", -1)
	w.fails("listing", err, fault.Corrupt, "bad.ext4", "/etc/motd", "not in use")
	if len(listed) < 5 {
		w.Errorf("before the damage are only %q", paths(listed))
	}
	_, err = w.cat("./bad.ext4", "/etc/motd")
	w.fails("the content", err, fault.Corrupt, "bad.ext4", "/etc/motd")
	if text, err := w.cat("./bad.ext4", "/bin/ping"); err != nil || text != "ping" {
		w.Errorf("what is not damaged is %q (%v)", text, err)
	}
	none := func(engine.Change) error { return nil }
	w.fails("comparing", w.verbs.DiffImages(w.Context(), "zoo", "./bad.ext4", engine.DiffOptions{}, none),
		fault.Corrupt, "bad.ext4", "/etc/motd")
	shrinking(w)
}

// shrinking: a disk that ends under its reader, when some of the content is out already.
func shrinking(w *world) {
	cut := writerFunc(func(p []byte) (int, error) { return len(p), os.Truncate("disk.ext4", 1<<20) })
	w.image("huge", append(zoo(), member(tar.TypeReg, "huge", strings.Repeat("0123456789abcdef", 1<<20))))
	w.must("exporting", w.verbs.ExportImage(w.Context(), "huge", "disk.ext4"))
	w.fails("the content of a disk that ends", w.verbs.CatFile(w.Context(), "./disk.ext4", "/huge", cut), fault.Corrupt,
		"disk.ext4", "/huge")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestModeText: the first column is that of ls, and the time and the numbers are, too.
func TestModeText(t *testing.T) {
	dir := t.TempDir()
	var args []string
	var got []string
	for mode := range uint32(0o10000) {
		if mode%7 != 0 && mode < 0o7700 {
			continue
		}
		name := filepath.Join(dir, fmt.Sprintf("%04o", mode))
		if err := errors.Join(os.WriteFile(name, nil, 0o600), unix.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
		got = append(got, modeText(engine.File{Type: engine.TypeRegular, Mode: fmt.Sprintf("%04o", mode)}))
	}
	out, err := osexec.Command("stat", append([]string{"-c", "%A"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range strings.Fields(string(out)) {
		if got[i] != want {
			t.Errorf("the mode %s is %s, for stat %s", filepath.Base(args[i]), got[i], want)
		}
	}
	for kind, want := range map[string]string{
		engine.TypeDirectory: "drwxr-xr-x", engine.TypeSymlink: "lrwxr-xr-x", engine.TypeChar: "crwxr-xr-x",
		engine.TypeBlock: "brwxr-xr-x", engine.TypeFIFO: "prwxr-xr-x", engine.TypeSocket: "srwxr-xr-x",
	} {
		if got := modeText(engine.File{Type: kind, Mode: "0755"}); got != want {
			t.Errorf("a %s is %s, want %s", kind, got, want)
		}
	}
	acl := engine.File{Type: engine.TypeRegular, Mode: "0640", Xattrs: []engine.Xattr{{Name: "system.posix_acl_access"}}}
	if got := modeText(acl); got != "-rw-r-----+" {
		t.Errorf("a file with an access control list is %s", got)
	}
}

// TestQuoteName: what a terminal would not show is quoted, and nothing else.
func TestQuoteName(t *testing.T) {
	for name, want := range map[string]string{
		"/etc/motd": "/etc/motd", "/with space": "/with space", "/ärger/日本": "/ärger/日本", `/a"b\c`: `/a"b\c`,
		"/a\nb": `"/a\nb"`, "/\x1b[31m": `"/\x1b[31m"`, "/\xff": `"/\xff"`, "/a\u202eb": `"/a\u202eb"`, `"a"`: `"\"a\""`,
		"/a\u00a0b": `"/a\u00a0b"`, "/\ufffd": `"/�"`,
	} {
		if got := quoteName(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
}
