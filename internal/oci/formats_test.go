package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// packed returns the file as another program compresses it.
func packed(t *testing.T, path, program string) string {
	t.Helper()
	out, err := exec.Command(program, "-c", path).Output()
	if err != nil {
		t.Fatalf("%s -c %s: %v", program, path, err)
	}
	to := path + "." + program
	writeFile(t, to, out)
	return to
}

// contentOf returns the diff_ids of an image, and checks that its layers have them.
func contentOf(t *testing.T, image *Image) []string {
	t.Helper()
	var ids []string
	for _, b := range image.Blobs {
		layer := readBlob(t, b)
		if b.Digest != "" && digest.FromBytes(layer).String() != b.Digest {
			t.Errorf("%s: a layer has the digest %s, and is said to have %s", image.Reference, digest.FromBytes(layer), b.Digest)
		}
		if got := digest.FromBytes(uncompress(t, layer)).String(); got != b.DiffID {
			t.Errorf("%s: a layer has the diff_id %s, and is said to have %s", image.Reference, got, b.DiffID)
		}
		ids = append(ids, b.DiffID)
	}
	return ids
}

func uncompress(t *testing.T, data []byte) []byte {
	t.Helper()
	program := map[compression]string{gzipFormat: "gzip", zstdFormat: "zstd"}[compressionOf(data)]
	if program == "" {
		return data
	}
	cmd := exec.Command(program, "-dc")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s -dc: %v", program, err)
	}
	return out
}

// TestFormatsOfSkopeo: one image in every form that skopeo writes is one image.
func TestFormatsOfSkopeo(t *testing.T) {
	c := newContent(t)
	dir := c.layout(named(c.image("linux/amd64", "base", "middle", "top"), "v1"))
	want := contentOf(t, resolveOK(t, "oci:"+dir+":v1", "linux/amd64"))
	out := t.TempDir()
	docker, ociTar, plainDir := filepath.Join(out, "docker.tar"), filepath.Join(out, "oci.tar"), filepath.Join(out, "dir")
	skopeo(t, "copy", "oci:"+dir+":v1", "docker-archive:"+docker+":docker.io/library/one:v1")
	skopeo(t, "copy", "oci:"+dir+":v1", "oci-archive:"+ociTar+":v1")
	skopeo(t, "copy", "oci:"+dir+":v1", "dir:"+plainDir)
	skopeo(t, "copy", "oci:"+dir+":v1", "dir:"+plainDir+"-zstd", "--dest-compress", "--dest-compress-format", "zstd")
	skopeo(t, "copy", "oci:"+dir+":v1", "dir:"+plainDir+"-plain", "--dest-decompress")
	skopeo(t, "copy", "--format", "v2s2", "oci:"+dir+":v1", "dir:"+plainDir+"-schema2")
	tests := []struct{ ref, name string }{
		{"docker-archive:" + docker, "one:v1"}, {"docker-archive:" + docker + ":one:v1", "one:v1"},
		{"oci-archive:" + ociTar, "oci:v1"}, {"oci-archive:" + ociTar + ":v1", "oci:v1"},
		{"dir:" + plainDir, "dir:latest"}, {"dir:" + plainDir + "-zstd", "dir-zstd:latest"},
		{"dir:" + plainDir + "-plain", "dir-plain:latest"}, {"dir:" + plainDir + "-schema2", "dir-schema2:latest"},
	}
	for _, program := range []string{"gzip", "zstd", "bzip2"} {
		tests = append(tests, struct{ ref, name string }{"docker-archive:" + packed(t, docker, program), "one:v1"})
		tests = append(tests, struct{ ref, name string }{"oci-archive:" + packed(t, ociTar, program), "oci-tar-" + program + ":v1"})
	}
	for _, test := range tests {
		image := resolveOK(t, test.ref, "linux/amd64")
		if got := contentOf(t, image); !slices.Equal(got, want) {
			t.Errorf("Resolve(%q): got the layers %q, want %q", test.ref, got, want)
		}
		if name := strings.NewReplacer("oci-tar-gzip", "oci.tar.gzip", "oci-tar-zstd", "oci.tar.zstd", "oci-tar-bzip2", "oci.tar.bzip2").
			Replace(test.name); image.Name != name {
			t.Errorf("Resolve(%q): got the name %q, want %q", test.ref, image.Name, name)
		}
		if image.Reference != test.ref {
			t.Errorf("Resolve(%q): got the reference %q", test.ref, image.Reference)
		}
	}
	_, err := Resolve(t.Context(), "docker-archive:"+packed(t, docker, "xz"), options(t, "linux/amd64"))
	checkFault(t, err, fault.Unsupported, "compressed with xz", "xz -dc FILE | banger image pull")
	long := docker + ".long"
	// zstd takes a smaller window for a file, of which it knows the size.
	if err := exec.Command("sh", "-c", `cat "$0" | zstd -q --long=28 -o "$1"`, docker, long).Run(); err != nil {
		t.Fatalf("compressing with a long window: %v", err)
	}
	_, err = Resolve(t.Context(), "docker-archive:"+long, options(t, "linux/amd64"))
	checkFault(t, err, fault.Unsupported, "windows of zstd may have at most 128 MiB", "zstd -dc --long=31")
}

// TestSeveralPlatforms: an index in every form that can have one.
func TestSeveralPlatforms(t *testing.T) {
	c := newContent(t)
	dir := c.layout(named(c.index(c.image("linux/arm64", "arm"), c.image("linux/amd64", "amd")), "v1"))
	out := t.TempDir()
	skopeo(t, "copy", "--all", "oci:"+dir+":v1", "dir:"+out+"/dir")
	skopeo(t, "copy", "--all", "oci:"+dir+":v1", "oci-archive:"+out+"/oci.tar:v1")
	for _, ref := range []string{"dir:" + out + "/dir", "oci-archive:" + out + "/oci.tar"} {
		for platform, want := range map[string]string{"linux/amd64": "amd", "linux/arm64": "arm"} {
			if got := texts(t, resolveOK(t, ref, platform)); len(got) != 1 || got[0] != want {
				t.Errorf("Resolve(%q) for %s: got %q, want %q", ref, platform, got, want)
			}
		}
		_, err := Resolve(t.Context(), ref, options(t, "linux/s390x"))
		checkFault(t, err, fault.Platform, "linux/amd64, linux/arm64")
	}
}

// TestSparseMembers: an archive that tar has made anew with --sparse, which has some of its files in pieces.
func TestSparseMembers(t *testing.T) {
	c := newContent(t)
	layout := c.layout(named(c.image("linux/amd64", strings.Repeat("\x00", 1<<20)), "v1"))
	dir := t.TempDir()
	skopeo(t, "copy", "oci:"+layout+":v1", "docker-archive:"+dir+"/plain.tar:one:v1")
	for _, format := range []string{"gnu", "pax"} {
		script := `mkdir x && tar xf plain.tar -C x && cp -a --sparse=always x y && tar -S --format $0 -cf $0.tar -C y . && rm -r x y`
		cmd := exec.Command("sh", "-c", script, format)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("making the archive: %v\n%s", err, out)
		}
		skopeo(t, "copy", "docker-archive:"+dir+"/"+format+".tar", "dir:"+dir+"/"+format) // reads it
		_, err := Resolve(t.Context(), "docker-archive:"+dir+"/"+format+".tar", options(t, "linux/amd64"))
		checkFault(t, err, fault.Unsupported, "is sparse", "--sparse")
	}
}

// TestUntagged: what skopeo has copied into a layout without a tag, one image after the other, is not one image.
func TestUntagged(t *testing.T) {
	c := newContent(t)
	old, arm := c.image("linux/amd64", "old"), c.image("linux/arm64", "arm")
	dir := c.layout(named(old, "old"), named(c.image("linux/amd64", "new"), "new"), named(arm, "arm"))
	out := filepath.Join(t.TempDir(), "out")
	for _, tag := range []string{"old", "arm", "old"} {
		skopeo(t, "copy", "oci:"+dir+":"+tag, "oci:"+out)
	}
	for platform, want := range map[string]string{"linux/amd64": "old", "linux/arm64": "arm"} {
		if got := texts(t, resolveOK(t, "oci:"+out, platform)); len(got) != 1 || got[0] != want {
			t.Errorf("one image for %s: got %q, want %q", platform, got, want)
		}
	}
	skopeo(t, "copy", "oci:"+dir+":new", "oci:"+out)
	declared := c.layout(old, c.image("linux/amd64", "new"))
	for _, ref := range []string{"oci:" + out, "oci:" + declared} {
		_, err := Resolve(t.Context(), ref, options(t, "linux/amd64"))
		checkFault(t, err, fault.Usage, "several for linux/amd64", "oci:DIR:TAG")
	}
}

// TestUmoci: a layout that umoci makes from nothing.
func TestUmoci(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, []byte("by umoci"))
	for _, args := range [][]string{
		{"init", "--layout", dir}, {"new", "--image", dir + ":made"},
		{"insert", "--rootless", "--image", dir + ":made", file, "/file"},
		{"config", "--image", dir + ":made", "--tag", "more", "--config.cmd", "/file"},
	} {
		if out, err := exec.Command("umoci", args...).CombinedOutput(); err != nil {
			t.Fatalf("umoci %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	archive := filepath.Join(t.TempDir(), "made.tar")
	if out, err := exec.Command("tar", "-C", dir, "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	for _, ref := range []string{"oci:" + dir + ":more", "oci-archive:" + archive + ":more"} {
		image := resolveOK(t, ref, "linux/amd64")
		if got := texts(t, image); len(got) != 1 || got[0] != "by umoci" || len(image.Config.Config.Cmd) != 1 {
			t.Errorf("Resolve(%q): got %q with the command %q, want umoci's", ref, got, image.Config.Config.Cmd)
		}
	}
	_, err := Resolve(t.Context(), "oci-archive:"+archive, options(t, "linux/amd64"))
	checkFault(t, err, fault.Usage, "made, more", ":made")
}

// docker25 returns the members of an archive as docker writes it since version 25: a layout with the names in
// annotations, and manifest.json.
func docker25(t *testing.T, c *content, images map[string]ocispec.Descriptor) map[string]string {
	t.Helper()
	members := map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	for d, data := range c.blobs {
		members[blobName(d)] = string(data)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var all []saved
	for name, d := range images {
		_, tag, _ := strings.Cut(name, ":")
		d.Annotations = map[string]string{containerdName: "docker.io/library/" + name, ocispec.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, d)
		all = append(all, savedOf(t, c, name, d))
	}
	members["index.json"], members[manifestName] = string(c.marshal(index)), string(c.marshal(all))
	return members
}

// savedOf returns the element of manifest.json for an image or, as docker with containerd's store does, for the first
// one of an index.
func savedOf(t *testing.T, c *content, name string, d ocispec.Descriptor) saved {
	t.Helper()
	var document document
	if err := json.Unmarshal(c.blobs[d.Digest], &document); err != nil {
		t.Fatal(err)
	}
	if document.isIndex() {
		return savedOf(t, c, name, document.Manifests[0])
	}
	s := saved{Config: blobName(document.Config.Digest), RepoTags: []string{name}, LayerSources: map[digest.Digest]ocispec.Descriptor{}}
	for _, layer := range document.Layers {
		s.Layers = append(s.Layers, blobName(layer.Digest))
		s.LayerSources[digest.FromBytes(uncompress(t, c.blobs[layer.Digest]))] = layer
	}
	return s
}

// TestDocker25: both files of an archive lead to the same image, and index.json to its other platforms.
func TestDocker25(t *testing.T) {
	c := newContent(t)
	amd64, arm64 := c.image("linux/amd64", "base", "top"), c.image("linux/arm64", "arm")
	path := filepath.Join(t.TempDir(), "saved.tar")
	writeFile(t, path, tarOf(t, docker25(t, c, map[string]ocispec.Descriptor{
		"one:v1": c.index(amd64, arm64), "two:v1": c.image("linux/amd64", "two"),
	})))
	for ref, want := range map[string]string{
		"docker-archive:" + path + ":one:v1": "base top", "oci-archive:" + path + ":one:v1": "base top",
		"docker-archive:" + path + ":two:v1": "two", "oci-archive:" + path + ":docker.io/library/two:v1": "two",
	} {
		image := resolveOK(t, ref, "linux/amd64")
		contentOf(t, image)
		if got := strings.Join(texts(t, image), " "); got != want {
			t.Errorf("Resolve(%q): got %q, want %q", ref, got, want)
		}
		if image.Blobs[0].Digest == "" {
			t.Errorf("Resolve(%q): the layers have no digests, and their files are named after those", ref)
		}
		if want := ref[strings.LastIndex(ref, "/")+1:]; strings.HasPrefix(ref, "oci-archive:") && !strings.HasSuffix(want, image.Name) {
			t.Errorf("Resolve(%q): got the name %q", ref, image.Name)
		}
	}
	for _, ref := range []string{"docker-archive:" + path + ":one:v1", "oci-archive:" + path + ":one:v1"} {
		if got := texts(t, resolveOK(t, ref, "linux/arm64")); len(got) != 1 || got[0] != "arm" {
			t.Errorf("Resolve(%q) for linux/arm64: got %q, want arm", ref, got)
		}
	}
	_, err := Resolve(t.Context(), "docker-archive:"+path+":one:v1", options(t, "linux/s390x"))
	checkFault(t, err, fault.Platform, "linux/s390x")
	_, err = Resolve(t.Context(), "oci-archive:"+path+":v1", options(t, "linux/amd64"))
	checkFault(t, err, fault.Usage, "docker.io/library/one:v1, docker.io/library/two:v1")
}

// TestDocker25WithoutNames: of images without names, each has its own platforms, and no other's.
func TestDocker25WithoutNames(t *testing.T) {
	c := newContent(t)
	one := []ocispec.Descriptor{c.image("linux/amd64", "one"), c.image("linux/arm64", "one of arm64")}
	two := []ocispec.Descriptor{c.image("linux/amd64", "two"), c.image("linux/arm64", "two of arm64")}
	three := c.image("linux/amd64", "three") // in no index
	images := []ocispec.Descriptor{c.index(one...), c.index(c.index(two...), c.image("linux/s390x", "z")), three}
	members := docker25(t, c, map[string]ocispec.Descriptor{})
	members[ocispec.ImageIndexFile] = string(c.blobs[c.index(images...).Digest])
	var all []saved
	for _, d := range []ocispec.Descriptor{one[0], two[0], three} {
		s := savedOf(t, c, "", d)
		s.RepoTags = nil
		all = append(all, s)
	}
	path := writeArchive(t, members, all...)
	for n, want := range []string{"one of arm64", "two of arm64"} {
		ref := fmt.Sprintf("docker-archive:%s:@%d", path, n)
		if got := texts(t, resolveOK(t, ref, "linux/arm64")); got[0] != want {
			t.Errorf("Resolve(%q) for linux/arm64: got %q, want %q", ref, got, want)
		}
	}
	_, err := Resolve(t.Context(), "docker-archive:"+path+":@2", options(t, "linux/arm64"))
	checkFault(t, err, fault.Platform, "linux/arm64", "linux/amd64")
}

// TestDocker25Damaged: a blob is checked against the digest in its name.
func TestDocker25Damaged(t *testing.T) {
	c := newContent(t)
	image := c.image("linux/amd64", "base")
	members := docker25(t, c, map[string]ocispec.Descriptor{"one:v1": image})
	s := savedOf(t, c, "one:v1", image)
	members[s.Config] = strings.Replace(members[s.Config], "amd64", "amd65", 1)
	path := filepath.Join(t.TempDir(), "saved.tar")
	writeFile(t, path, tarOf(t, members))
	for _, ref := range []string{"docker-archive:" + path, "oci-archive:" + path} {
		_, err := Resolve(t.Context(), ref, options(t, "linux/amd64"))
		checkFault(t, err, fault.Corrupt, "digest", "configuration")
	}
}

// rootTar returns a root file system in a tar, as GNU tar packs it.
func rootTar(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	writeFile(t, filepath.Join(root, "file"), []byte("of a root"))
	writeFile(t, filepath.Join(root, "etc", "passwd"), []byte("root:x:0:0::/:/bin/sh\n"))
	path := filepath.Join(t.TempDir(), "My Root.tar")
	out, err := exec.Command("tar", "-C", root, "--sort=name", "--transform=s,^./,,", "-cf", path, "file", "etc").CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return path
}

// TestTar: a root file system is an image of one layer, whatever it is compressed with and wherever it comes from.
func TestTar(t *testing.T) {
	path := rootTar(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := digest.FromBytes(data).String()
	files := []string{path}
	for _, program := range []string{"gzip", "zstd", "bzip2"} {
		files = append(files, packed(t, path, program))
	}
	id := resolveOK(t, "tar:"+path, "linux/amd64").Digest
	for _, file := range files {
		compressed, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range []string{"tar:" + file, "tar:-"} {
			opts := options(t, "linux/amd64")
			opts.Stdin = bytes.NewReader(compressed)
			image, err := Resolve(t.Context(), ref, opts)
			if err != nil {
				t.Errorf("Resolve(%q) of %s: %v", ref, file, err)
				continue
			}
			if got := contentOf(t, image); !slices.Equal(got, []string{want}) || image.Digest != id || image.Reference != ref {
				t.Errorf("Resolve(%q) of %s: got %s with the layers %q, want %s with %s", ref, file, image.Digest, got, id, want)
			}
			if left, err := os.ReadDir(opts.TempDir); err != nil || len(left) > 0 {
				t.Errorf("Resolve(%q): temporary files: got %v, %v; want none", ref, left, err)
			}
			_ = image.Close()
		}
	}
	if name := resolveOK(t, "tar:"+path, "linux/amd64").Name; name != "my-root:latest" {
		t.Errorf("a root file system is called %q, want it after its file", name)
	}
	if arm := resolveOK(t, "tar:"+path, "linux/arm64"); arm.Platform.String() != "linux/arm64" || arm.Digest == id {
		t.Errorf("for linux/arm64: got %s for %s, want another image", arm.Digest, arm.Platform)
	}
}

// TestTarChanges: a file that changes while it is pulled is not taken for what it was.
func TestTarChanges(t *testing.T) {
	path := rootTar(t)
	image := resolveOK(t, "tar:"+path, "linux/amd64")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0}, 10240), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(readBlob(t, image.Blobs[0])).String(); got == image.Blobs[0].DiffID {
		t.Errorf("the file's other bytes have the old digest %s", got)
	}
}

// TestBadFiles: what is given to a transport and is something else, and which reference would have been right.
func TestBadFiles(t *testing.T) {
	c := newContent(t)
	members := make(map[string]string)
	docker := writeArchive(t, members, savedImage(t, members, nil, "x"))
	layout := c.layout(named(c.image("linux/amd64", "x"), "v1"))
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		writeFile(t, path, data)
		return path
	}
	ociTar := filepath.Join(t.TempDir(), "oci.tar")
	skopeo(t, "copy", "oci:"+layout+":v1", "oci-archive:"+ociTar)
	old := file("old.tar", tarOf(t, map[string]string{"repositories": `{"busybox":{"latest":"abc"}}`, "abc/layer.tar": "", "abc/json": "{}"}))
	text := file("text", bytes.Repeat([]byte("text "), 1000))
	noLayout := file("no.tar", tarOf(t, map[string]string{"a": ""}))
	fifo := filepath.Join(t.TempDir(), "fifo")
	if out, err := exec.Command("mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	tests := []struct {
		ref  string
		kind fault.Kind
		word string
	}{
		{"docker-archive:" + ociTar, fault.Unsupported, "oci-archive:FILE"},
		{"docker-archive:" + old, fault.Unsupported, "before version 1.10"},
		{"docker-archive:" + rootTar(t), fault.Unsupported, "tar:FILE"},
		{"docker-archive:" + layout, fault.Unsupported, "oci:DIR"},
		{"docker-archive:" + fifo, fault.Unsupported, "write - for the FILE"},
		{"docker-archive:-", fault.Usage, "no standard input"},
		{"oci-archive:" + docker, fault.Unsupported, "docker-archive:FILE"},
		{"oci-archive:" + text, fault.Unsupported, "no tar"},
		{"oci-archive:" + noLayout, fault.Unsupported, "oci-layout"},
		{"oci-archive:" + ociTar + ":v2", fault.NotFound, `"v2"`},
		{"oci-archive:/no/such.tar", fault.NotFound, "/no/such.tar"},
		{"oci-archive:", fault.Usage, "oci-archive:FILE[:TAG]"},
		{"oci-archive:" + file("cut.gz", gzipped(t, tarOf(t, map[string]string{"a": strings.Repeat("abc", 9999)}))[:50]), fault.Corrupt, "incomplete"},
		{"oci:" + ociTar, fault.Unsupported, "oci-archive:"},
		{"dir:" + layout, fault.Unsupported, "oci:DIR"},
		{"dir:" + docker, fault.Unsupported, "docker-archive:FILE"},
		{"dir:/no/such/dir", fault.NotFound, "/no/such/dir"},
		{"dir:", fault.Usage, "dir:DIR"},
		{"tar:" + docker, fault.Unsupported, "docker-archive:FILE"},
		{"tar:" + ociTar, fault.Unsupported, "oci-archive:FILE"},
		{"tar:" + text, fault.Unsupported, "no tar"},
		{"tar:" + file("empty", nil), fault.Unsupported, "empty"},
		{"tar:" + t.TempDir(), fault.Unsupported, "no file"},
		{"tar:/no/such.tar", fault.NotFound, "/no/such.tar"},
		{"tar:", fault.Usage, "tar:FILE"},
		{"containers-storage:x", fault.Usage, "podman save NAME | banger image pull docker-archive:-"},
	}
	for _, test := range tests {
		opts := options(t, "linux/amd64")
		_, err := Resolve(t.Context(), test.ref, opts)
		checkFault(t, err, test.kind, test.word)
		if left, err := os.ReadDir(opts.TempDir); err != nil || len(left) > 0 {
			t.Errorf("Resolve(%q): temporary files: got %v, %v; want none", test.ref, left, err)
		}
	}
}

// TestIncompleteDirectory: files of skopeo's directory that are not there, or are others.
func TestIncompleteDirectory(t *testing.T) {
	c := newContent(t)
	layout := c.layout(named(c.image("linux/amd64", "x"), "v1"))
	dir := filepath.Join(t.TempDir(), "dir")
	skopeo(t, "copy", "oci:"+layout+":v1", "dir:"+dir)
	files, err := filepath.Glob(dir + "/" + strings.Repeat("[0-9a-f]", 64))
	if err != nil || len(files) != 2 {
		t.Fatalf("skopeo's directory has the blobs %q (%v), want a configuration and a layer", files, err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Resolve(t.Context(), "dir:"+dir, options(t, "linux/amd64"))
	checkFault(t, err, fault.Corrupt, "incomplete")
	writeFile(t, filepath.Join(dir, "version"), []byte("Directory Transport Version: 9.9\n"))
	_, err = Resolve(t.Context(), "dir:"+dir, options(t, "linux/amd64"))
	checkFault(t, err, fault.Unsupported, "version")
}

// TestArtifacts: what is no image is called what it is.
func TestArtifacts(t *testing.T) {
	c := newContent(t)
	image := c.image("linux/amd64", "x")
	manifest := func(artifactType, config string, layers ...string) ocispec.Descriptor {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			ArtifactType: artifactType, Config: c.addBlob(config, []byte("{}")), Layers: []ocispec.Descriptor{}}
		for _, layer := range layers {
			m.Layers = append(m.Layers, c.addBlob(layer, []byte(layer)))
		}
		return c.addManifest(ocispec.MediaTypeImageManifest, m)
	}
	text := func(s string) ocispec.Descriptor { return c.addBlob("", []byte(s)) }
	const imageConfig = ocispec.MediaTypeImageConfig
	tests := []struct {
		name string
		root ocispec.Descriptor
		want string
	}{
		{"helm", manifest("", "application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
			"a Helm chart"},
		{"wasm", manifest("", "application/vnd.wasm.config.v0+json", "application/wasm"), "a WebAssembly module"},
		{"wasm-layer", manifest("", imageConfig, "application/vnd.wasm.content.layer.v1+wasm"), "a WebAssembly module"},
		{"cosign", manifest("", imageConfig, "application/vnd.dev.cosign.simplesigning.v1+json"), "a cosign signature"},
		{"bundle", manifest("application/vnd.dev.sigstore.bundle.v0.3+json", emptyType, "application/octet-stream"),
			"a sigstore signature"},
		{"sbom", manifest("", "application/vnd.oci.image.config.v1+json", "application/spdx+json"), "an SBOM"},
		{"cyclonedx", manifest("application/vnd.cyclonedx+json", emptyType, "application/vnd.cyclonedx+json"), "an SBOM"},
		{"attestation", manifest("", imageConfig, "application/vnd.in-toto+json"), "an attestation"},
		{"dsse", manifest("", imageConfig, "application/vnd.dsse.envelope.v1+json"), "an attestation"},
		{"notation", manifest("", "application/vnd.cncf.notary.signature", "application/jose+json"), "a Notary signature"},
		{"ollama", manifest("", dockerConfig, "application/vnd.ollama.image.model"), "an AI model"},
		{"plugin", manifest("", "application/vnd.docker.plugin.v1+json"), "a plugin of docker"},
		{"artifact", manifest("application/vnd.example.thing", emptyType, emptyType),
			"an artifact of the type application/vnd.example.thing"},
		{"oras", manifest("", "application/vnd.unknown.config.v1+json", "text/plain"), "an OCI artifact"},
		{"empty", manifest("", emptyType, "text/plain"), "an OCI artifact"},
		{"other", manifest("", "application/x-other", "text/plain"), "an artifact of the type application/x-other"},
		{"artifact-manifest", text(`{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","artifactType":"application/x-y"}`),
			"application/x-y"},
		{"schema1", text(`{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"sha256:00"}],"signatures":[]}`), "schema 1"},
	}
	c.tag("image", image)
	host := serve(t, c)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.tag(test.name, test.root)
			for _, ref := range []string{host + "/r:" + test.name, "oci:" + c.layout(named(test.root, "v1"))} {
				_, err := Resolve(t.Context(), ref, options(t, "linux/amd64"))
				checkFault(t, err, fault.Unsupported, test.want)
			}
		})
	}
}

// TestUntypedConfigurations: docker's own manifests have had other types for their configurations, and are images.
func TestUntypedConfigurations(t *testing.T) {
	for _, mediaType := range []string{"application/octet-stream", "application/json", "text/html", ""} {
		c := newContent(t)
		var manifest ocispec.Manifest
		if err := json.Unmarshal(c.blobs[c.image("linux/amd64", "x").Digest], &manifest); err != nil {
			t.Fatal(err)
		}
		manifest.MediaType, manifest.Config.MediaType = dockerManifest, mediaType
		manifest.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
		d := c.addManifest(dockerManifest, manifest)
		c.tag("v1", d)
		dir := t.TempDir()
		for id, data := range c.blobs {
			writeFile(t, filepath.Join(dir, id.Encoded()), data)
		}
		writeFile(t, filepath.Join(dir, manifestName), c.blobs[d.Digest])
		writeFile(t, filepath.Join(dir, "version"), []byte(directoryVersion+"1\n"))
		skopeo(t, "inspect", "--config", "dir:"+dir)
		for _, ref := range []string{serve(t, c) + "/r:v1", "dir:" + dir} {
			image, err := Resolve(t.Context(), ref, options(t, "linux/amd64"))
			if err != nil || len(image.Blobs) != 1 {
				t.Errorf("type %q: %q is %v and the error %v, want an image of one layer", mediaType, ref, image, err)
			}
		}
	}
}

// TestForeignLayers: a layer that registries may not have is refused with the reason, and where it would be.
func TestForeignLayers(t *testing.T) {
	const at = "https://owner.example/layer"
	for _, test := range []struct {
		mediaType string
		urls      []string
		words     []string
	}{
		{dockerForeignLayer + ".gzip", []string{at}, []string{"foreign", at}},
		{ociForeignLayer + "v1.tar+gzip", nil, []string{"foreign", ociForeignLayer}},
		{ocispec.MediaTypeImageLayerGzip, []string{at}, []string{"foreign", at}},
		{ocispec.MediaTypeImageLayerGzip + encryptedSuffix, nil, []string{"encrypted"}},
	} {
		c := newContent(t)
		image := c.image("linux/amd64", "base", "foreign")
		var manifest ocispec.Manifest
		if err := json.Unmarshal(c.blobs[image.Digest], &manifest); err != nil {
			t.Fatal(err)
		}
		manifest.Layers[1].MediaType, manifest.Layers[1].URLs = test.mediaType, test.urls
		foreign := c.addManifest(ocispec.MediaTypeImageManifest, manifest)
		c.tag("v1", foreign)
		path := filepath.Join(t.TempDir(), "saved.tar")
		writeFile(t, path, tarOf(t, docker25(t, c, map[string]ocispec.Descriptor{"one:v1": foreign})))
		for _, ref := range []string{serve(t, c) + "/r:v1", "oci-archive:" + path, "docker-archive:" + path} {
			_, err := Resolve(t.Context(), ref, options(t, "linux/amd64"))
			checkFault(t, err, fault.Unsupported, test.words...)
		}
	}
}

// TestAbsolute: what a client sends to a daemon in another directory.
func TestAbsolute(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for ref, want := range map[string]string{
		"oci:x:v1": "oci:" + dir + "/x:v1", "oci-archive:x.tar": "oci-archive:" + dir + "/x.tar",
		"docker-archive:../x:a/b:c": "docker-archive:" + filepath.Dir(dir) + "/x:a/b:c", "dir:a:b": "dir:" + dir + "/a:b",
		"tar:x:y": "tar:" + dir + "/x:y", "oci:-": "oci:" + dir + "/-", "dir:-": "dir:" + dir + "/-", "tar:-": "tar:-", "docker-archive:-:x": "docker-archive:-:x",
		"docker-daemon:x": "docker-daemon:x", "debian": "debian", "oci:": "oci:", "oci::v1": "oci::v1", "tar:": "tar:",
	} {
		if got, err := Absolute(ref); got != want || err != nil {
			t.Errorf("Absolute(%q) = %q, %v; want %q", ref, got, err, want)
		}
		_, isName := FamiliarName(ref)
		if wantStdin := ref == "tar:-" || ref == "docker-archive:-:x"; ReadsStdin(ref) != wantStdin || isName != (ref == "debian") {
			t.Errorf("%q reads the standard input: %v, and is a name: %v; want %v", ref, ReadsStdin(ref), isName, wantStdin)
		}
	}
	for ref, want := range map[string]string{
		"docker.io/library/x:v1": "docker.io/library/x:v1@" + someDigest, "x@" + someDigest: "x@" + someDigest, "tar:/x": "tar:/x",
		"x:v1@sha256:" + strings.Repeat("0", 64): "x:v1@" + someDigest, // of an index, in which other images may be nearer
	} {
		if got := Pinned(ref, someDigest); got != want {
			t.Errorf("Pinned(%q) = %q, want %q", ref, got, want)
		}
	}
}

// TestPinned: an image of an index is found again, although its configuration does not say its variant.
func TestPinned(t *testing.T) {
	c := newContent(t)
	demanding := c.image("linux/amd64", "v3")
	demanding.Platform.Variant = "v3"
	index := c.index(c.image("linux/amd64", "v1"), demanding)
	c.tag("v1", index)
	host := serve(t, c)
	for _, ref := range []string{host + "/r:v1", host + "/r@" + index.Digest.String()} {
		image, err := Resolve(t.Context(), ref, options(t, "linux/amd64/v3"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Resolve(t.Context(), Pinned(image.Reference, image.Digest), options(t, image.Platform.String()))
		if err != nil || again.Digest != image.Digest {
			t.Errorf("%q again: got %v and the error %v, want %s", ref, again, err, image.Digest)
		}
	}
}

// outgoing makes an image to write of one that was found.
func outgoing(t *testing.T, image *Image, names ...string) Outgoing {
	t.Helper()
	out := Outgoing{Names: names, Config: image.RawConfig}
	for _, b := range image.Blobs {
		plain := uncompress(t, readBlob(t, b))
		out.Layers = append(out.Layers, OutgoingLayer{DiffID: b.DiffID, Size: int64(len(plain)), CopyTo: copyOf(plain)})
	}
	return out
}

// TestWriteArchive: what is written is what was read, for banger, skopeo, umoci and GNU tar.
func TestWriteArchive(t *testing.T) {
	c := newContent(t)
	dir := c.layout(named(c.image("linux/amd64", "base", "middle", "top"), "v1"), named(c.image("linux/arm64", "base", "arm"), "v2"))
	first := resolveOK(t, "oci:"+dir+":v1", "linux/amd64")
	second := resolveOK(t, "oci:"+dir+":v2", "linux/arm64")
	images := []Outgoing{outgoing(t, first, "one:v1", "ghcr.io/o/one:v2"), outgoing(t, second, "Odd Name")}
	for _, docker := range []bool{true, false} {
		var written bytes.Buffer
		if err := WriteArchive(t.Context(), &written, docker, images); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "written.tar")
		writeFile(t, path, written.Bytes())
		refs := []string{"oci-archive:" + path + ":one:v1", "oci-archive:" + path + ":ghcr.io/o/one:v2"}
		if docker {
			refs = append(refs, "docker-archive:"+path+":one:v1", "docker-archive:"+path+":ghcr.io/o/one:v2", "docker-archive:"+path+":@0")
		}
		for _, ref := range refs {
			sameImage(t, first, resolveOK(t, ref, "linux/amd64"))
			to := filepath.Join(t.TempDir(), "copied")
			skopeo(t, "copy", ref, "oci:"+to+":v1")
			sameImage(t, first, resolveOK(t, "oci:"+to+":v1", "linux/amd64"))
		}
		sameImage(t, second, resolveOK(t, "oci-archive:"+path+":Odd Name", "linux/arm64"))
		if docker {
			sameImage(t, second, resolveOK(t, "docker-archive:"+path+":@1", "linux/arm64"))
		}
		unpackedByUmoci(t, path, "one:v1", "top")
	}
}

func sameImage(t *testing.T, want, got *Image) {
	t.Helper()
	if !bytes.Equal(want.RawConfig, got.RawConfig) {
		t.Errorf("%s: got the configuration %s, want %s", got.Reference, got.RawConfig, want.RawConfig)
	}
	if w, g := contentOf(t, want), contentOf(t, got); !slices.Equal(w, g) {
		t.Errorf("%s: got the layers %q, want %q", got.Reference, g, w)
	}
}

// unpackedByUmoci has umoci unpack an image of an archive, and checks the file of its last layer.
func unpackedByUmoci(t *testing.T, archive, tag, want string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf(`mkdir layout && tar -C layout -xf %q && umoci unpack --rootless --image layout:%s bundle`, archive, tag)
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "bundle", "rootfs", "file")); err != nil || string(text) != want {
		t.Errorf("umoci unpacks %q (%v), want %q", text, err, want)
	}
}

// TestWriteArchiveFails: an error of a layer, or of the writer, is the error of all.
func TestWriteArchiveFails(t *testing.T) {
	plain := tarOf(t, map[string]string{"file": "x"})
	id := digest.FromBytes(plain).String()
	for name, layer := range map[string]OutgoingLayer{
		"short":  {DiffID: id, Size: int64(len(plain)) + 1, CopyTo: copyOf(plain)},
		"long":   {DiffID: id, Size: 5, CopyTo: copyOf(plain)},
		"broken": {DiffID: id, Size: 5, CopyTo: failingCopy},
	} {
		err := WriteArchive(t.Context(), io.Discard, true, []Outgoing{{Config: []byte("{}"), Layers: []OutgoingLayer{layer}}})
		if err == nil {
			t.Errorf("%s: a layer that is not what it is said to be is written", name)
		}
	}
}
