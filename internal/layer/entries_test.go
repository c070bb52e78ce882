package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fault"
)

// member is a header with its contents, for a test to make a tar of.
type member struct {
	header tar.Header
	text   string
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		m.header.Size = int64(len(m.text))
		if err := w.WriteHeader(&m.header); err != nil {
			t.Fatalf("writing the header of %q: %v", m.header.Name, err)
		}
		if _, err := w.Write([]byte(m.text)); err != nil {
			t.Fatalf("writing %q: %v", m.header.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// contentOf assembles a file from its extents.
func contentOf(t testing.TB, data []byte, e Entry) []byte {
	t.Helper()
	content := make([]byte, e.Size)
	end := int64(0)
	for _, x := range e.Extents {
		if x.Logical < end || x.Length <= 0 || x.Logical+x.Length > e.Size {
			t.Fatalf("entry %q: extent %+v is out of order or outside of %d bytes", e.Name, x, e.Size)
		}
		if x.Offset < 0 || x.Offset+x.Length > int64(len(data)) {
			t.Fatalf("entry %q: extent %+v is outside of the tar's %d bytes", e.Name, x, len(data))
		}
		copy(content[x.Logical:], data[x.Offset:][:x.Length])
		end = x.Logical + x.Length
	}
	return content
}

// entriesOf returns the entries of a tar.
func entriesOf(data []byte) ([]Entry, error) {
	list, err := Entries(bytes.NewReader(data))
	return collect(list), err
}

// collect returns the entries of a list.
func collect(list List) []Entry {
	var entries []Entry
	for e := range list.All() {
		entries = append(entries, *e)
	}
	return entries
}

// checkContents compares the entries with what archive/tar reads.
func checkContents(t testing.TB, data []byte, entries []Entry) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for _, e := range entries {
		h, err := r.Next()
		for err == nil && h.Typeflag == tar.TypeXGlobalHeader {
			h, err = r.Next()
		}
		if err != nil {
			t.Fatalf("archive/tar at the entry %q: %v", e.Name, err)
		}
		if h.Name != e.Name || e.Type == Regular && h.Size != e.Size {
			t.Errorf("got the entry %q of %d bytes, want %q of %d", e.Name, e.Size, h.Name, h.Size)
		}
		if e.Size > 8<<20 {
			continue
		}
		want, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("archive/tar at the contents of %q: %v", e.Name, err)
		}
		if sum := crc32.Checksum(want, crc32.MakeTable(crc32.Castagnoli)); e.Type == Regular && (!e.HasSum || uint32(e.Sum) != sum) {
			t.Errorf("contents of %q: got the sum %08x (known: %v), want %08x", e.Name, e.Sum, e.HasSum, sum)
		}
		if got := contentOf(t, data, e); !bytes.Equal(got, want) {
			t.Errorf("contents of %q: got %d bytes that differ from archive/tar's %d", e.Name, len(got), len(want))
		}
	}
	if h, err := r.Next(); !errors.Is(err, io.EOF) && (err != nil || h.Typeflag != tar.TypeXGlobalHeader) {
		t.Errorf("after %d entries archive/tar has %v, %v; want the end", len(entries), h, err)
	}
}

func TestEntries(t *testing.T) {
	at := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec).UTC() }
	pax := func(records map[string]string) map[string]string { return records }
	tests := []struct {
		member member
		want   Entry // without Extents
	}{
		{member{tar.Header{Name: "./dir/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 1, Gid: 2, ModTime: at(1e9, 0)}, ""},
			Entry{Name: "./dir/", Type: Directory, Mode: 0o1777, UID: 1, GID: 2, MTime: at(1e9, 0)}},
		{member{tar.Header{Name: "/abs/../\xff\n", Typeflag: tar.TypeReg, Mode: 0o6755, Format: tar.FormatGNU}, "text"},
			Entry{Name: "/abs/../\xff\n", Type: Regular, Mode: 0o6755, Size: 4}},
		{member{tar.Header{Name: "cont", Typeflag: tar.TypeCont, Mode: 0o100644}, "x"},
			Entry{Name: "cont", Type: Regular, Mode: 0o644, Size: 1}},
		{member{tar.Header{Name: "empty", Typeflag: tar.TypeReg}, ""}, Entry{Name: "empty", Type: Regular}},
		{member{tar.Header{Name: strings.Repeat("long/", 60), Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 300)}, ""},
			Entry{Name: strings.Repeat("long/", 60), Type: Symlink, Link: strings.Repeat("t", 300)}},
		{member{tar.Header{Name: "gnu" + strings.Repeat("n", 200), Typeflag: tar.TypeLink, Linkname: strings.Repeat("l", 200), Format: tar.FormatGNU}, ""},
			Entry{Name: "gnu" + strings.Repeat("n", 200), Type: HardLink, Link: strings.Repeat("l", 200)}},
		{member{tar.Header{Name: "tty", Typeflag: tar.TypeChar, Devmajor: 4, Devminor: 300000, Format: tar.FormatGNU}, ""},
			Entry{Name: "tty", Type: CharDevice, Major: 4, Minor: 300000}},
		{member{tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8, Devminor: 1}, ""},
			Entry{Name: "sda", Type: BlockDevice, Major: 8, Minor: 1}},
		{member{tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}, ""}, Entry{Name: "pipe", Type: FIFO}},
		{member{tar.Header{Name: "ids", Typeflag: tar.TypeReg, Uid: 4294967294, Gid: 65536}, ""},
			Entry{Name: "ids", Type: Regular, UID: 4294967294, GID: 65536}},
		{member{tar.Header{Name: "ns", Typeflag: tar.TypeReg, ModTime: at(1, 123456789), Format: tar.FormatPAX}, ""},
			Entry{Name: "ns", Type: Regular, MTime: at(1, 123456789)}},
		{member{tar.Header{Name: "before", Typeflag: tar.TypeReg, ModTime: at(-2, 500000000), Format: tar.FormatPAX}, ""},
			Entry{Name: "before", Type: Regular, MTime: at(-2, 500000000)}},
		{member{tar.Header{Name: "gnu before", Typeflag: tar.TypeReg, ModTime: at(-1<<33, 0), Format: tar.FormatGNU}, ""},
			Entry{Name: "gnu before", Type: Regular, MTime: at(-1<<33, 0)}},
		{member{tar.Header{Name: "late", Typeflag: tar.TypeReg, ModTime: at(1<<34, 0), Format: tar.FormatPAX}, ""},
			Entry{Name: "late", Type: Regular, MTime: at(1<<34, 0)}},
		{member{tar.Header{Name: "xattrs", Typeflag: tar.TypeReg, PAXRecords: pax(map[string]string{
			"SCHILY.xattr.user.b":                 "value\x00with NUL\n",
			"SCHILY.xattr.security.capability":    "\x01\x00\x00\x02",
			"LIBARCHIVE.xattr.user.b":             "b3RoZXI",
			"LIBARCHIVE.xattr.user.a%20%C3%A4%3D": "AAE",
			"LIBARCHIVE.xattr.user.padded":        "AA==",
		})}, "x"},
			Entry{Name: "xattrs", Type: Regular, Size: 1, Xattrs: []Xattr{
				{"security.capability", "\x01\x00\x00\x02"}, {"user.a ä=", "\x00\x01"}, {"user.b", "value\x00with NUL\n"},
				{"user.padded", "\x00"},
			}}},
		{member{tar.Header{Name: "comment", Typeflag: tar.TypeXGlobalHeader, PAXRecords: pax(map[string]string{"comment": "0123"})}, ""}, Entry{}},
		{member{tar.Header{Name: "last", Typeflag: tar.TypeReg}, "end"}, Entry{Name: "last", Type: Regular, Size: 3}},
	}
	var members []member
	var want []Entry
	for _, test := range tests {
		members = append(members, test.member)
		if test.want.Type != 0 {
			if test.want.MTime.IsZero() {
				test.want.MTime = at(0, 0)
			}
			want = append(want, test.want)
		}
	}
	data := tarOf(t, members...)
	got, err := entriesOf(data)
	if err != nil {
		t.Fatalf("Entries: %v", err)
	}
	checkContents(t, data, got)
	if len(got) != len(want) {
		t.Fatalf("got %d entries, want %d", len(got), len(want))
	}
	for i := range got {
		got[i].Extents, got[i].Sum, got[i].HasSum = nil, 0, false // checkContents has seen to these
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("entry %d:\ngot  %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// block makes a header block by hand, for what archive/tar does not write.
func block(typeFlag byte, name string, size int64, fields map[int]string) []byte {
	b := make([]byte, blockSize)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o", size))
	copy(b[136:], "00000000000")
	b[156] = typeFlag
	copy(b[257:], "ustar  \x00")
	for at, text := range fields {
		copy(b[at:], text)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func paxBlocks(records ...string) []byte {
	var text strings.Builder
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n = len(fmt.Sprint(n)) + len(r) + 2
		}
		fmt.Fprintf(&text, "%d %s\n", n, r)
	}
	out := block('x', "pax", int64(text.Len()), nil)
	return append(out, padTo(text.String(), 512)...)
}

func padTo(s string, n int) []byte {
	b := []byte(s)
	for len(b)%n != 0 {
		b = append(b, 0)
	}
	return b
}

func TestEntriesByHand(t *testing.T) {
	join := slices.Concat[[]byte]
	next := join(block('0', "next", 4, nil), padTo("next", 512))
	negativeUID := map[int]string{108: "\xff\xff\xff\xff\xff\xff\xff\xfe"}
	tests := []struct {
		name string
		data []byte
		want string // names, sizes and contents, or words of the error
		kind fault.Kind
	}{
		{"no end blocks", next, "next 4 next;", 0},
		{"one end block", join(next, make([]byte, 512)), "next 4 next;", 0},
		{"no padding", next[:516], "next 4 next;", 0},
		{"nothing", nil, "", 0},
		{"zeros", make([]byte, 10240), "", 0},
		{"after the end", join(make([]byte, 1024), next), "", 0},
		{"old regular", join(block(0, "old", 3, nil), padTo("old", 512), next), "old 3 old;next 4 next;", 0},
		{"old directory", join(block(0, "old/", 3, nil), next), "old/ 0 ;next 4 next;", 0},
		{"directory with a size", join(block('5', "d", 1000, nil), next), "d 0 ;next 4 next;", 0},
		{"link with a size", join(block('1', "l", 1000, map[int]string{157: "t"}), next), "l 0 ;next 4 next;", 0},
		{"symlink with a size", join(block('2', "s", 1000, map[int]string{157: "t"}), next), "s 0 ;next 4 next;", 0},
		{"base-256 size", join(block('0', "b", 0, map[int]string{124: "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04"}), padTo("base", 512), next), "b 4 base;next 4 next;", 0},
		{"PAX size", join(paxBlocks("size=4"), block('0', "p", 0, nil), padTo("size", 512), next), "p 4 size;next 4 next;", 0},
		{"empty PAX value", join(paxBlocks("SCHILY.xattr.user.e="), next), "next 4 next[user.e=];", 0},
		{"empty name", join(block('0', "", 0, nil), next), " 0 ;next 4 next;", 0},
		{"PAX time", join(paxBlocks("mtime=-1.5"), next), "next 4 next;", 0},
		{"global and local", join(block('g', "g", 0, nil), paxBlocks("path=pax"), next), "pax 4 next;", 0},
		{"negative size", join(block('0', "n", 0, map[int]string{124: strings.Repeat("\xff", 12)}), next), "byte 512", fault.Corrupt},
		{"negative user", join(block('0', "nobody", 0, negativeUID), next), `"nobody": its user id -2`, fault.Corrupt},
		{"large group", join(paxBlocks("gid=4294967296"), next), `"next": its group id 4294967296`, fault.Corrupt},
		{"large device", join(block('3', "dev", 0, map[int]string{329: "\x80\x00\x00\x01\x00\x00\x00\x00"}), next), `"dev": its major device number`, fault.Corrupt},
		{"multi-volume", join(next, block('M', "more", 0, nil)), `"more": its type 'M'`, fault.Unsupported},
		{"truncated", next[:514], "unexpected EOF", fault.Corrupt},
		{"truncated header", join(next, next[:100]), `after the entry "next", byte 1124`, fault.Corrupt},
		{"bad checksum", join(next, bytes.Repeat([]byte("x"), 512)), `after the entry "next"`, fault.Corrupt},
		{"bad base64", join(paxBlocks("LIBARCHIVE.xattr.user.x=?"), next), `"next": its extended attribute`, fault.Corrupt},
		{"one attribute twice", join(paxBlocks("LIBARCHIVE.xattr.user.a=YQ", "LIBARCHIVE.xattr.user.%61=Yg"), next), "next 4 next[user.a=a];", 0},
		{"one attribute of both kinds", join(paxBlocks("SCHILY.xattr.user.a=s", "LIBARCHIVE.xattr.user.%61=YQ", "LIBARCHIVE.xattr.user.b=Yg"), next),
			"next 4 next[user.a=s][user.b=b];", 0},
		{"attribute with a NUL", join(paxBlocks("LIBARCHIVE.xattr.user.a%00b=YQ"), next), `"next": its extended attribute`, fault.Corrupt},
		{"attribute without a name", join(paxBlocks("LIBARCHIVE.xattr.=YQ"), next), `"next": its extended attribute`, fault.Corrupt},
		{"bare attribute without a name", join(paxBlocks("SCHILY.xattr.=YQ"), next), `"next": its extended attribute`, fault.Corrupt},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			entries, err := entriesOf(test.data)
			if test.kind != 0 {
				if fault.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v (kind %d), want %q (kind %d)", err, fault.KindOf(err), test.want, test.kind)
				}
				return
			}
			if err != nil {
				t.Fatalf("Entries: %v", err)
			}
			checkContents(t, test.data, entries)
			if got := describeEntries(t, test.data, entries); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func describeEntries(t *testing.T, data []byte, entries []Entry) string {
	t.Helper()
	var all strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&all, "%s %d %s", e.Name, e.Size, contentOf(t, data, e))
		for _, x := range e.Xattrs {
			fmt.Fprintf(&all, "[%s=%s]", x.Name, x.Value)
		}
		all.WriteString(";")
	}
	return all.String()
}

func TestBadSparseMaps(t *testing.T) {
	old := func(size, real int64, pairs ...int64) []byte {
		fields := map[int]string{483: fmt.Sprintf("%011o", real)}
		for i, n := range pairs {
			fields[386+12*i] = fmt.Sprintf("%011o", n)
		}
		return append(block('S', "s", size, fields), make([]byte, padded(size))...)
	}
	version1 := func(text string, realsize, stored int64) []byte {
		records := paxBlocks("GNU.sparse.major=1", "GNU.sparse.minor=0", fmt.Sprintf("GNU.sparse.realsize=%d", realsize))
		contents := append(padTo(text, 512), make([]byte, stored)...)
		return slices.Concat(records, block('0', "s", int64(len(contents)), nil), contents, make([]byte, 1024))
	}
	pax := func(size int64, records ...string) []byte {
		return slices.Concat(paxBlocks(records...), block('0', "s", size, nil), make([]byte, padded(size)+1024))
	}
	tests := []struct {
		name string
		data []byte
		ok   bool
	}{
		{"old", old(1024, 8192, 0, 512, 4096, 512), true},
		{"old, whole hole", old(0, 8192, 8192, 0), true},
		{"old, beyond the file", old(512, 100, 0, 512), false},
		{"old, out of order", old(1024, 8192, 4096, 512, 0, 512), false},
		{"old, overlapping", old(1024, 8192, 0, 512, 511, 513), false},
		{"old, more than is stored", old(512, 8192, 0, 1024), false},
		{"old, less than is stored", old(1024, 8192, 0, 512), false},
		{"1.0", version1("2\n0\n512\n4096\n512\n", 8192, 1024), true},
		{"1.0 without pieces", version1("0\n", 8192, 0), true},
		{"1.0, count too large", version1("999999999999\n", 8192, 0), false},
		{"1.0, negative count", version1("-1\n", 8192, 0), false},
		{"1.0, not a number", version1("1\nx\n1\n", 8192, 0), false},
		{"1.0, overflow", version1("1\n9223372036854775807\n512\n", 8192, 512), false},
		{"1.0, more than is stored", version1("1\n0\n4096\n", 8192, 512), false},
		{"0.1", pax(512, "GNU.sparse.size=8192", "GNU.sparse.numblocks=1", "GNU.sparse.map=4096,512"), true},
		{"0.0", pax(512, "GNU.sparse.size=8192", "GNU.sparse.numblocks=1", "GNU.sparse.offset=4096", "GNU.sparse.numbytes=512"), true},
		{"0.1, odd", pax(512, "GNU.sparse.size=8192", "GNU.sparse.numblocks=1", "GNU.sparse.map=4096"), false},
		{"unknown version", pax(512, "GNU.sparse.major=2", "GNU.sparse.minor=0"), false},
		{"no map", pax(512, "GNU.sparse.size=8192"), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			entries, err := entriesOf(test.data)
			if (err == nil) != test.ok {
				t.Fatalf("Entries: got the error %v, want success: %t", err, test.ok)
			}
			if err == nil {
				checkContents(t, test.data, entries)
			}
			if err == nil && (len(entries) != 1 || entries[0].Size != 8192) {
				t.Errorf("got %+v, want one file of 8192 bytes", entries)
			}
		})
	}
}

// TestGNUTar reads what GNU tar makes of real files, sparse ones with few and with many pieces among them.
func TestGNUTar(t *testing.T) {
	dir := t.TempDir()
	files := map[string][]int64{
		"few": {0, 1 << 16}, "many": nil, "hole": nil, "end": {1<<20 - 5},
	}
	for i := range int64(100) {
		files["many"] = append(files["many"], i*16384)
	}
	for name, offsets := range files {
		writeSparse(t, filepath.Join(dir, name), 2<<20, offsets)
	}
	if err := os.WriteFile(filepath.Join(dir, "plain "+strings.Repeat("n", 150)), []byte("plain"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"--format=gnu", "--format=oldgnu", "--format=ustar", "--format=v7",
		"--format=pax --sparse-version=0.0", "--format=pax --sparse-version=0.1", "--format=pax --sparse-version=1.0"} {
		t.Run(format, func(t *testing.T) {
			args := append(strings.Fields(format), "-C", dir, "-cf", "-")
			if !strings.Contains(format, "ustar") && !strings.Contains(format, "v7") {
				args = append(args, "--sparse", ".")
			} else {
				args = append(args, "few", "end")
			}
			data, err := exec.Command("tar", args...).Output()
			if err != nil {
				t.Fatalf("tar %s: %v", strings.Join(args, " "), err)
			}
			entries, err := entriesOf(data)
			if err != nil {
				t.Fatalf("Entries: %v", err)
			}
			checkContents(t, data, entries)
			checkFiles(t, dir, data, entries)
		})
	}
}

func writeSparse(t *testing.T, path string, size int64, offsets []int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for i, at := range offsets {
		if _, err := f.WriteAt(fmt.Appendf(nil, "piece %d", i), at); err != nil {
			t.Fatal(err)
		}
	}
}

// checkFiles compares the entries with the files that they were made from.
func checkFiles(t *testing.T, dir string, data []byte, entries []Entry) {
	t.Helper()
	regular := 0
	for _, e := range entries {
		if e.Type != Regular {
			continue
		}
		regular++
		want, err := os.ReadFile(filepath.Join(dir, e.Name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := crc32.Checksum(want, crc32.MakeTable(crc32.Castagnoli)); e.Type == Regular && (!e.HasSum || uint32(e.Sum) != sum) {
			t.Errorf("contents of %q: got the sum %08x (known: %v), want %08x", e.Name, e.Sum, e.HasSum, sum)
		}
		if got := contentOf(t, data, e); !bytes.Equal(got, want) {
			t.Errorf("contents of %q: got %d bytes that differ from the file's %d", e.Name, len(got), len(want))
		}
		if strings.HasSuffix(e.Name, "hole") && len(e.Extents) > 0 {
			t.Errorf("%q: got the extents %v, want none", e.Name, e.Extents)
		}
		if strings.HasSuffix(e.Name, "many") && len(e.Extents) < 50 {
			t.Errorf("%q: got %d extents, want the pieces", e.Name, len(e.Extents))
		}
	}
	if regular < 2 {
		t.Errorf("got %d regular files, want all", regular)
	}
}

// TestGNUTarXattrs reads an extended attribute that GNU tar stored.
func TestGNUTarXattrs(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setXattr(filepath.Join(dir, "f"), "user.banger", "a\x00b"); err != nil {
		excuse(t, "xattr", fmt.Sprintf("the temporary directory has no user attributes: %v", err))
	}
	data, err := exec.Command("tar", "--xattrs", "-C", dir, "-cf", "-", "f").Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	entries, err := entriesOf(data)
	if err != nil {
		t.Fatalf("Entries: %v", err)
	}
	want := []Xattr{{"user.banger", "a\x00b"}}
	if len(entries) != 1 || !slices.Equal(entries[0].Xattrs, want) {
		t.Errorf("got %+v, want one entry with %+v", entries, want)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add(tarOf(f, member{tar.Header{Name: "a", Typeflag: tar.TypeReg}, "text"}, member{tar.Header{Name: "d/", Typeflag: tar.TypeDir}, ""}))
	f.Add(slices.Concat(block('S', "s", 1024, map[int]string{
		386: "00000000000\x0000000001000\x0000000010000\x0000000001000\x00", 483: "00000020000",
	}), make([]byte, 2048)))
	f.Add(slices.Concat(paxBlocks("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=8192"),
		block('0', "s", 1024, nil), padTo("1\n4096\n512\n", 512), make([]byte, 1536)))
	f.Add(slices.Concat(paxBlocks("GNU.sparse.size=8192", "GNU.sparse.numblocks=1", "GNU.sparse.map=4096,512", "SCHILY.xattr.a=b"),
		block('0', "s", 512, nil), make([]byte, 1536)))
	f.Add(slices.Concat(block('L', "././@LongLink", 5, nil), padTo("long\x00", 512), block('0', "s", 0, nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = resum(data)
		entries, err := entriesOf(data)
		if err == nil {
			checkContents(t, data, entries)
		}
	})
}

// resum makes the checksums right where a header may be, so that fuzzing gets past them.
func resum(data []byte) []byte {
	data = bytes.Clone(data)
	for at := 0; at+blockSize <= len(data); at += blockSize {
		b := data[at:][:blockSize]
		if !bytes.HasPrefix(b[257:], []byte("ustar")) {
			continue
		}
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	return data
}

// excuse skips the test if the environment excuses the reason by its name, and fails it otherwise.
func excuse(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("excused %q: %s", name, reason)
	}
	t.Fatalf("%s (set BANGER_TEST_EXCUSE=%s to go on without)", reason, name)
}
