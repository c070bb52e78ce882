package e2e

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"
)

// member is one entry of a tar, with the data of a regular file.
type member struct {
	tar.Header
	data string
}

func packTar(t *testing.T, members []member) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		m.Size = int64(len(m.data))
		m.Format = tar.FormatPAX
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatalf("packing %q: %v", m.Name, err)
		}
		if _, err := w.Write([]byte(m.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// capNetRaw is a security.capability of version 2: cap_net_raw=ep (linux/capability.h, struct vfs_cap_data).
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// hardLayout makes an image of two layers with what other tools lose: devices, FIFOs, capabilities, large ids, times
// with nanoseconds before 1970 and after 2038, odd names, hard links across layers, whiteouts and opaque directories.
func hardLayout(t *testing.T, u *user) string {
	t.Helper()
	at := time.Unix
	dir := func(name string, mode int64) member {
		return member{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: at(1e9, 5)}}
	}
	lower := []member{
		{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at(1234567890, 987654321)}},
		dir("data/", 0o755), dir("tmp/", 0o1777), dir("opaque/", 0o750), dir("root/", 0o700), dir("usr/", 0o755), dir("usr/lib/", 0o755),
		{Header: tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "usr/lib", ModTime: at(77, 7)}},
		{Header: tar.Header{Name: "data/owned", Mode: 0o6755, Uid: 70000, Gid: 4000000000, ModTime: at(-86400, 500000000)}, data: "owned"},
		{Header: tar.Header{Name: "data/future", Mode: 0o600, ModTime: at(5e9, 123456789)}, data: strings.Repeat("f", 5000)},
		{Header: tar.Header{Name: "data/attributes", Mode: 0o644, ModTime: at(1, 0), PAXRecords: map[string]string{
			"SCHILY.xattr.user.note": "a note", "SCHILY.xattr.security.capability": capNetRaw,
		}}, data: "x"},
		{Header: tar.Header{Name: "data/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: at(2, 0)}},
		{Header: tar.Header{Name: "data/big device", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 70000, ModTime: at(3, 0)}},
		{Header: tar.Header{Name: "data/fifo", Typeflag: tar.TypeFifo, Mode: 0o622, ModTime: at(4, 4)}},
		{Header: tar.Header{Name: `data/a "quoted" name`, Mode: 0o644, ModTime: at(5, 0)}, data: "q"},
		{Header: tar.Header{Name: "data/ünïcode", Mode: 0o644, ModTime: at(6, 0)}, data: "u"},
		{Header: tar.Header{Name: "data/" + strings.Repeat("n", 255), Mode: 0o644, ModTime: at(7, 0)}, data: "n"},
		{Header: tar.Header{Name: "data/link59", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("a", 59), ModTime: at(8, 8)}},
		{Header: tar.Header{Name: "data/link60", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("b", 60), ModTime: at(9, 9)}},
		{Header: tar.Header{Name: "data/first", Mode: 0o640, ModTime: at(10, 0)}, data: "shared"},
		{Header: tar.Header{Name: "data/second", Typeflag: tar.TypeLink, Linkname: "data/first"}},
		{Header: tar.Header{Name: "data/zeros", Mode: 0o644, ModTime: at(11, 0)}, data: strings.Repeat("\x00", 1<<20) + "end"},
		{Header: tar.Header{Name: "opaque/old", Mode: 0o644, ModTime: at(12, 0)}, data: "old"},
		{Header: tar.Header{Name: "data/gone", Mode: 0o644, ModTime: at(13, 0)}, data: "gone"},
	}
	upper := []member{
		{Header: tar.Header{Name: "data/.wh.gone", ModTime: at(0, 0)}},
		{Header: tar.Header{Name: "data/.wh.first", ModTime: at(0, 0)}},
		dir("data/", 0o711), dir("opaque/", 0o705),
		{Header: tar.Header{Name: "opaque/.wh..wh..opq", ModTime: at(0, 0)}},
		{Header: tar.Header{Name: "opaque/new", Mode: 0o644, ModTime: at(14, 0)}, data: "new"},
		{Header: tar.Header{Name: "data/third", Typeflag: tar.TypeLink, Linkname: "data/second"}},
		dir("tmp/", 0o1777), dir("usr/", 0o755), dir("usr/lib/", 0o755),
		{Header: tar.Header{Name: "usr/lib/so", Mode: 0o644, ModTime: at(15, 0)}, data: "so"},
		dir("usr/lib/", 0o755),
	}
	l := newLayout(t, u, "hard")
	return l.tag(l.image("amd64", nil, nil, packTar(t, lower), packTar(t, upper)))
}
