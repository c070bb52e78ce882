package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
)

// member is an entry of a layer with its content.
type member struct {
	layer.Entry
	content string
}

// layerOf returns a layer of these members, whose blob is their contents one after the other.
func layerOf(id string, members ...member) *layer.Layer {
	var blob strings.Builder
	l := &layer.Layer{DiffID: "sha256:" + id}
	for _, m := range members {
		if m.Type == layer.Regular && m.Extents == nil && m.content != "" {
			m.Size = int64(len(m.content))
			m.Extents = []layer.Extent{{Offset: int64(blob.Len()), Length: m.Size}}
		}
		blob.WriteString(m.content)
		l.Entries.Append(m.Entry)
	}
	l.Blob = strings.NewReader(blob.String())
	return l
}

// stack returns layers of these members, the lowest first.
func stack(members ...[]member) []*layer.Layer {
	layers := make([]*layer.Layer, len(members))
	for i, m := range members {
		layers[i] = layerOf(fmt.Sprint(i), m...)
	}
	return layers
}

func epoch() time.Time { return time.Unix(0, 0).UTC() }

func entry(name string, t layer.Type, mode uint16) member {
	return member{Entry: layer.Entry{Name: name, Type: t, Mode: mode, MTime: epoch()}}
}

func dir(name string) member  { return entry(name, layer.Directory, 0o755) }
func fifo(name string) member { return entry(name, layer.FIFO, 0o600) }

func file(name, content string) member {
	m := entry(name, layer.Regular, 0o644)
	m.content = content
	return m
}

func symlink(name, target string) member {
	m := entry(name, layer.Symlink, 0o777)
	m.Link = target
	return m
}

func hardlink(name, target string) member {
	m := entry(name, layer.HardLink, 0o644)
	m.Link = target
	return m
}

func device(name string, t layer.Type, major, minor uint32) member {
	m := entry(name, t, 0o600)
	m.Major, m.Minor = major, minor
	return m
}

// gone is a whiteout as everyone writes it: an empty regular file.
func gone(name string) member { return file(name, "") }

func (m member) mode(mode uint16) member { m.Mode = mode; return m }

func (m member) owner(uid, gid uint32) member { m.UID, m.GID = uid, gid; return m }

func (m member) at(seconds int64) member { m.MTime = time.Unix(seconds, 0).UTC(); return m }

func (m member) xattr(name, value string) member {
	m.Xattrs = append(m.Xattrs, layer.Xattr{Name: name, Value: value})
	return m
}

// describe returns a line for every name of the tree but a root with the attributes that it has without an entry:
//
//	PATH TYPE MODE UID:GID [LINKS] [CONTENT] [-> TARGET] [MAJOR,MINOR] [@MTIME] [{XATTR=VALUE}]
//
// LINKS is left out of directories, MTIME if it is the epoch.
func describe(t *testing.T, tree *Tree) []string {
	t.Helper()
	var lines []string
	err := tree.Walk(func(path string, n *Node) error {
		line, err := describeNode(path, n)
		if line != "/ d 0755 0:0" {
			lines = append(lines, line)
		}
		return err
	})
	if err != nil {
		t.Fatalf("describing the tree: %v", err)
	}
	return lines
}

func describeNode(path string, n *Node) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %c %04o %d:%d", path, " dflcbp"[n.Kind], n.Mode, n.UID, n.GID)
	if n.Kind != Directory {
		fmt.Fprintf(&b, " %d", n.Links)
	}
	switch n.Kind {
	case Regular:
		content, err := io.ReadAll(n.Open())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " %s", bytes.ReplaceAll(content, []byte{0}, []byte(".")))
	case Symlink:
		fmt.Fprintf(&b, " -> %s", n.Target)
	case CharDevice, BlockDevice:
		fmt.Fprintf(&b, " %d,%d", n.Major, n.Minor)
	}
	if !n.MTime.Equal(epoch()) {
		fmt.Fprintf(&b, " @%d", n.MTime.Unix())
	}
	for _, x := range n.Xattrs {
		fmt.Fprintf(&b, " {%s=%s}", x.Name, x.Value)
	}
	return strings.TrimSpace(b.String()), nil
}

// wantLines splits an expected tree, written as one indented text, into its lines.
func wantLines(text string) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// diffLines returns what two lists of lines do not share, in the way of diff -U0, or "".
func diffLines(got, want []string) string {
	var b strings.Builder
	for _, line := range want {
		if !slices.Contains(got, line) {
			fmt.Fprintf(&b, "  want %s\n", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			fmt.Fprintf(&b, "  got  %s\n", line)
		}
	}
	if b.Len() == 0 && !slices.Equal(got, want) {
		return fmt.Sprintf("  the same lines in another order or number: got %q, want %q\n", got, want)
	}
	return b.String()
}

// requireTool returns the path of a host program. Without it the test fails, unless that is excused.
func requireTool(t *testing.T, name string) string {
	t.Helper()
	for _, place := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(place); err == nil {
			return path
		}
	}
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("%s is not installed, and BANGER_TEST_EXCUSE has it", name)
	}
	t.Fatalf("this test needs %s; install it, or put it into BANGER_TEST_EXCUSE", name)
	return ""
}
