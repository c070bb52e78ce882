package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/layer"
)

const (
	umociStacks = 60 // random stacks side by side in an image, each below a directory of its own
	umociLayers = 4
)

// umoci is another implementation of the layer rules. Random stacks of layers are merged by both: those of an image's
// number, which is in the test's name. BANGER_TEST_LONG has more of them; each costs a start of umoci.
func TestFlattenAgreesWithUmoci(t *testing.T) {
	umoci, images := requireTool(t, "umoci"), uint64(10)
	if os.Getenv("BANGER_TEST_LONG") != "" {
		images = 2000
	}
	for image := range images {
		t.Run(fmt.Sprint(image), func(t *testing.T) {
			random := rand.New(rand.NewPCG(image, 0))
			members := make([][]member, umociLayers)
			for j := range umociStacks {
				for k, m := range randomStack(random, fmt.Sprintf("%d", j)) {
					members[k] = append(members[k], m...)
				}
			}
			tree, err := Flatten(context.Background(), stack(members...))
			if err != nil {
				t.Fatal(err)
			}
			compareWithUmoci(t, umoci, tree, members)
		})
	}
}

func compareWithUmoci(t *testing.T, umoci string, tree *Tree, members [][]member) {
	t.Helper()
	dir := t.TempDir()
	writeImage(t, filepath.Join(dir, "image"), members)
	args := []string{"unpack", "--image", filepath.Join(dir, "image:latest"), filepath.Join(dir, "bundle")}
	if os.Geteuid() != 0 {
		args = append(args, "--rootless")
	}
	if out, err := exec.Command(umoci, args...).CombinedOutput(); err != nil {
		_, entry, _ := strings.Cut(string(out), "unpack entry: ")
		explain(t, entry, members)
		t.Fatalf("umoci failed: %v\n%s", err, out)
	}
	var got []string
	err := tree.Walk(func(path string, n *Node) error {
		if path != "/" {
			got = append(got, judgedLine(path, n))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := unpackedLines(t, filepath.Join(dir, "bundle/rootfs"))
	if diff := diffLines(got, want); diff != "" {
		t.Errorf("umoci (want) and Flatten (got) differ:\n%s", diff)
		_, path, _ := strings.Cut(diff, " /")
		explain(t, path, members)
	}
}

// explain prints the layers of the stack to which path belongs.
func explain(t *testing.T, path string, members [][]member) {
	t.Helper()
	prefix, _, _ := strings.Cut(path, "/")
	for i, layer := range members {
		for _, m := range layer {
			if strings.HasPrefix(m.Name, prefix+"/") {
				t.Logf("layer %d: %c %s %04o -> %q %q @%d", i, " dfhlcbp"[m.Type], m.Name, m.Mode, m.Link, m.content, m.MTime.Unix())
			}
		}
	}
}

// randomStack returns layers of entries below prefix that both Flatten and umoci accept.
func randomStack(random *rand.Rand, prefix string) [][]member {
	g := &generator{random: random, prefix: prefix}
	for range umociLayers {
		g.layers = append(g.layers, nil)
		g.ordered, g.linkedMarker = false, false
		g.tryAdd(dir(prefix))
		for range 1 + random.IntN(7) {
			g.tryAdd(g.entry())
		}
	}
	return g.layers
}

// generator makes a random stack, entry by entry.
type generator struct {
	random *rand.Rand
	prefix string
	layers [][]member
	// ordered is whether the topmost layer has an entry, no marker, whose meaning depends on what was there when it came.
	ordered bool
	// linkedMarker is whether the topmost layer has a marker below a symlink.
	linkedMarker bool
}

// tryAdd adds m to the topmost layer, unless that makes an error or something that umoci is known to do otherwise.
func (g *generator) tryAdd(m member) {
	top := &g.layers[len(g.layers)-1]
	m.MTime = time.Unix(int64(1000*len(g.layers)+len(*top)), 0)
	if os.Geteuid() == 0 {
		m.UID, m.GID = g.random.Uint32N(70_000), g.random.Uint32N(70_000)
	}
	before, err := Flatten(context.Background(), stack(g.layers...))
	if err != nil || g.differs(before, m) {
		return
	}
	*top = append(*top, m)
	if _, err := Flatten(context.Background(), stack(g.layers...)); err != nil {
		*top = (*top)[:len(*top)-1]
		return
	}
	dir, _ := before.Resolve(filepath.Dir(m.Name))
	linked := dir != filepath.Join("/", filepath.Dir(m.Name))
	if isMarker(m) {
		g.linkedMarker = g.linkedMarker || linked
	} else {
		g.ordered = g.ordered || linked || m.Type == layer.HardLink || g.impliesParents()
	}
}

func isMarker(m member) bool {
	kind, _ := marker(split(m.Name))
	return kind != noMarker
}

// differs reports whether umoci is known to do something else with m. tree is what is there when m comes.
//
// Its markers act when they come, and leave alone what their own layer has made. That is the same as here, whatever the
// order, unless the layer has entries for which the order matters as well: those in a directory without an entry, hard
// links, and what goes through symlinks. Then the markers come first.
func (g *generator) differs(tree *Tree, m member) bool {
	switch {
	case parentIsFile(tree, m):
		return true
	case g.linkedMarker && g.replaces(tree, m):
		return true
	case isMarker(m):
		return g.ordered || g.resolvesElsewhere(tree, m)
	}
	return m.Type == layer.HardLink && hardLinkDiffers(tree, m)
}

// parentIsFile reports whether one of m's parents is no directory and leads to none: an error of umoci's.
func parentIsFile(tree *Tree, m member) bool {
	for name := filepath.Dir(m.Name); name != "."; name = filepath.Dir(name) {
		w := &trail{root: tree.Root}
		if w.follow(name) != nil || slices.ContainsFunc(w.steps, func(s step) bool { return s.node != nil && s.node.Kind != Directory }) {
			return true
		}
	}
	return false
}

// replaces reports whether m replaces or removes anything in the layers below its own, or in tree. If it is a symlink that
// a marker of the same layer goes through, or a directory with such a link in it, umoci's marker has acted by then.
func (g *generator) replaces(tree *Tree, m member) bool {
	lower, err := Flatten(context.Background(), stack(g.layers[:len(g.layers)-1]...))
	return err != nil || replacesIn(lower, m) || replacesIn(tree, m)
}

func replacesIn(tree *Tree, m member) bool {
	dir, err := tree.Lookup(filepath.Dir(m.Name))
	if err != nil {
		return false
	}
	switch kind, removed := marker(split(m.Name)); kind {
	case opaque:
		return true
	case whiteout:
		return dir.child(removed) != nil
	}
	old := dir.child(filepath.Base(m.Name))
	return old != nil && (old.Kind != Directory || m.Type != layer.Directory)
}

// resolvesElsewhere reports whether the parent of m leads somewhere else in the lower layers than it does now.
func (g *generator) resolvesElsewhere(tree *Tree, m member) bool {
	lower, err := Flatten(context.Background(), stack(g.layers[:len(g.layers)-1]...))
	if err != nil {
		return true
	}
	was, wasErr := lower.Resolve(filepath.Dir(m.Name))
	is, isErr := tree.Resolve(filepath.Dir(m.Name))
	return wasErr != nil || isErr != nil || was != is
}

// impliesParents reports whether the topmost layer has an entry in a directory that has none.
func (g *generator) impliesParents() bool {
	top := g.layers[len(g.layers)-1]
	described := map[string]bool{}
	for _, m := range top {
		described[m.Name] = m.Type == layer.Directory
	}
	return slices.ContainsFunc(top, func(m member) bool {
		return !isMarker(m) && m.Name != g.prefix && !described[filepath.Dir(m.Name)]
	})
}

// hardLinkDiffers is about umoci's order in a hard link: it removes what has the name, and then looks for the target,
// which must be there.
func hardLinkDiffers(tree *Tree, m member) bool {
	parent, err := tree.Lookup(filepath.Dir(m.Link))
	if err != nil || parent.child(filepath.Base(m.Link)) == nil {
		return true
	}
	dir, err := tree.Lookup(filepath.Dir(m.Name))
	if err != nil {
		return false
	}
	old := dir.child(filepath.Base(m.Name))
	return old != nil && (old.Kind == Directory || old.Kind == Symlink || old == parent.child(filepath.Base(m.Link)))
}

// path returns a random path below the prefix.
func (g *generator) path() string {
	path := g.prefix
	for range 1 + g.random.IntN(3) {
		path += "/" + g.name()
	}
	return path
}

func (g *generator) name() string { return string("abc"[g.random.IntN(3)]) }

// target returns a random target for a symlink, relative or absolute, which stays below the prefix.
func (g *generator) target(from string) string {
	to := g.path()
	if g.random.IntN(2) == 0 {
		return "/" + to
	}
	return strings.Repeat("../", strings.Count(from, "/")) + to
}

// entry returns a random entry.
func (g *generator) entry() member {
	path := g.path()
	switch g.random.IntN(10) {
	case 0, 1, 2:
		return file(path, fmt.Sprint(g.random.IntN(1000))).mode(uint16(0o600 + g.random.IntN(0o200)))
	case 3, 4:
		return dir(path).mode(uint16(0o700 + g.random.IntN(0o100)))
	case 5:
		return symlink(path, g.target(path))
	case 6:
		return hardlink(path, g.path())
	case 7:
		return fifo(path)
	case 8:
		return gone(filepath.Dir(path) + "/.wh." + filepath.Base(path))
	}
	return gone(filepath.Dir(path) + "/.wh..wh..opq")
}

// writeImage writes an OCI layout (image-spec, image-layout.md) with uncompressed layers.
func writeImage(t *testing.T, dir string, members [][]member) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs/sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, blob []byte) map[string]any {
		sum := fmt.Sprintf("%x", sha256.Sum256(blob))
		writeFile(t, filepath.Join(blobs, sum), blob)
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + sum, "size": len(blob)}
	}
	var layers []map[string]any
	var diffIDs []any
	for _, m := range members {
		l := put("application/vnd.oci.image.layer.v1.tar", tarOf(t, m))
		layers, diffIDs = append(layers, l), append(diffIDs, l["digest"])
	}
	config := put("application/vnd.oci.image.config.v1+json", toJSON(t, map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	manifest := put("application/vnd.oci.image.manifest.v1+json", toJSON(t, map[string]any{
		"schemaVersion": 2, "config": config, "layers": layers,
	}))
	manifest["annotations"] = map[string]any{"org.opencontainers.image.ref.name": "latest"}
	writeFile(t, filepath.Join(dir, "index.json"), toJSON(t, map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}))
	writeFile(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func tarOf(t *testing.T, members []member) []byte {
	t.Helper()
	flags := map[layer.Type]byte{
		layer.Directory: tar.TypeDir, layer.Regular: tar.TypeReg, layer.HardLink: tar.TypeLink, layer.Symlink: tar.TypeSymlink,
		layer.CharDevice: tar.TypeChar, layer.BlockDevice: tar.TypeBlock, layer.FIFO: tar.TypeFifo,
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		h := &tar.Header{
			Typeflag: flags[m.Type], Name: m.Name, Linkname: m.Link, Size: int64(len(m.content)), Mode: int64(m.Mode),
			Uid: int(m.UID), Gid: int(m.GID), ModTime: m.MTime, Devmajor: int64(m.Major), Devminor: int64(m.Minor),
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// judgedLine describes a node by what umoci keeps of it.
func judgedLine(path string, n *Node) string {
	uid, gid := n.UID, n.GID
	if os.Geteuid() != 0 {
		uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	var extra string
	switch n.Kind {
	case Directory:
		return fmt.Sprintf("%s d %04o %d:%d", path, n.Mode, uid, gid)
	case Symlink:
		extra = n.Target
	case Regular:
		content := make([]byte, n.Size)
		_, _ = n.Open().Read(content) // what is missing shows as zeros
		extra = string(content)
	}
	return fmt.Sprintf("%s %c %04o %d:%d %d @%d %s", path, " dflcbp"[n.Kind], n.Mode, uid, gid, n.Links, n.MTime.Unix(), extra)
}

// unpackedLines returns the judgedLines of what is on disk.
func unpackedLines(t *testing.T, root string) []string {
	t.Helper()
	kinds := map[fs.FileMode]Kind{0: Regular, fs.ModeDir: Directory, fs.ModeSymlink: Symlink, fs.ModeNamedPipe: FIFO}
	var lines []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		n := &Node{
			Kind: kinds[info.Mode().Type()], Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
			MTime: info.ModTime(), Links: uint32(st.Nlink),
		}
		switch n.Kind {
		case Symlink:
			n.Target, err = os.Readlink(name)
		case Regular:
			content, readErr := os.ReadFile(name)
			n.Size, n.Source, err = int64(len(content)), bytes.NewReader(content), readErr
			n.Extents = []layer.Extent{{Length: n.Size}}
		}
		lines = append(lines, judgedLine(strings.TrimPrefix(name, root), n))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
