package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The exit codes of docs/exit-codes.md.
const (
	usage       = 2
	notFound    = 3
	unreachable = 4
	corrupt     = 5
	unsupported = 6
	platform    = 7
	noSpace     = 8
	conflict    = 9
	noTool      = 10
	ofRun       = 125
	interrupted = 130
)

// refusal is what banger has to answer to bad input: an exit code, words of the message, and nothing left behind.
type refusal struct {
	code  int
	words []string
}

func (u *user) refuses(want refusal, args ...string) {
	u.t.Helper()
	u.says(want, args...)
	u.leftovers()
}

// says runs banger and checks how it refuses, whatever else is there.
func (u *user) says(want refusal, args ...string) {
	u.t.Helper()
	got := u.run(args...)
	if got.code != want.code {
		u.t.Errorf("banger %s: want exit code %d, got %v", strings.Join(args, " "), want.code, got)
	}
	for _, word := range want.words {
		if !strings.Contains(got.stderr, word) {
			u.t.Errorf("banger %s: want %q in the message, got %v", strings.Join(args, " "), word, got)
		}
	}
	if strings.Count(got.stderr, "error:") != 1 {
		u.t.Errorf("banger %s: want one error, got %v", strings.Join(args, " "), got)
	}
}

// TestBadLayouts: images that are wrong in one way each.
func TestBadLayouts(t *testing.T) {
	content := tarOf(t, map[string][]byte{"etc/motd": bytes.Repeat([]byte("hello\n"), 5000)})
	for _, c := range []struct {
		name string
		make func(l *layout)
		want refusal
	}{
		{"corrupt blob", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, content))
			bad := append([]byte{}, content...)
			bad[700] ^= 1
			l.write("blobs/sha256/"+digestOf(content)[7:], bad)
		}, refusal{corrupt, []string{digestOf(content)[:19]}}},
		{"truncated blob", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, content))
			l.write("blobs/sha256/"+digestOf(content)[7:], content[:len(content)/2])
		}, refusal{corrupt, []string{digestOf(content)[:19]}}},
		{"missing blob", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, content))
			_ = os.Remove(filepath.Join(l.dir, "blobs/sha256", digestOf(content)[7:]))
		}, refusal{corrupt, []string{digestOf(content)[:19]}}},
		{"truncated gzip", func(l *layout) {
			var zipped bytes.Buffer
			w := gzip.NewWriter(&zipped)
			_, _ = w.Write(content)
			_ = w.Close()
			l.tag(l.image("amd64", nil, []string{digestOf(content)}, zipped.Bytes()[:zipped.Len()-20]))
		}, refusal{corrupt, []string{digestOf(content)[:19]}}},
		{"wrong diff_id", func(l *layout) {
			l.tag(l.image("amd64", nil, []string{digestOf([]byte("other"))}, content))
		}, refusal{corrupt, []string{digestOf([]byte("other"))[:19], digestOf(content)[:19]}}},
		{"layer that is no tar", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, []byte(strings.Repeat("not a tar ", 1000))))
		}, refusal{unsupported, []string{"tar"}}},
		{"wrong platform", func(l *layout) {
			l.tag(l.image("arm64", nil, nil, content))
		}, refusal{platform, []string{"linux/arm64", "linux/amd64"}}},
		{"no such platform in the index", func(l *layout) {
			arm := l.image("arm64", nil, nil, content)
			arm.Platform = map[string]string{"os": "linux", "architecture": "arm64"}
			riscv := l.image("riscv64", nil, nil, content)
			riscv.Platform = map[string]string{"os": "linux", "architecture": "riscv64"}
			l.tag(l.json(mediaIndex, map[string]any{
				"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []descriptor{arm, riscv},
			}))
		}, refusal{platform, []string{"linux/arm64", "linux/riscv64"}}},
		{"not an image", func(l *layout) {
			config := l.blob("application/vnd.cncf.helm.config.v1+json", []byte(`{"name":"chart"}`))
			l.tag(l.json(mediaManifest, map[string]any{
				"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": []descriptor{},
			}))
		}, refusal{unsupported, []string{"application/vnd.cncf.helm.config.v1+json"}}},
		{"hard link to nothing", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, linkTar(t, "usr/bin/a", "usr/bin/gone")))
		}, refusal{unsupported, []string{"usr/bin/a", "usr/bin/gone"}}},
		{"name that is too long", func(l *layout) {
			l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{strings.Repeat("n", 256): nil})))
		}, refusal{unsupported, []string{"nnnn"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			l := newLayout(t, u, "image")
			c.make(l)
			u.refuses(c.want, "image", "pull", "oci:"+l.dir+":v1", "--name", "x")
		})
	}
}

// TestNewlineInAName: debugfs cannot be given such a name, and the reference builder says so. The default one writes it.
func TestNewlineInAName(t *testing.T) {
	u := newUser(t)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"etc/two\nlines": nil})))
	pull := []string{"image", "pull", "oci:" + l.dir + ":v1", "--name", "x"}
	u.refuses(refusal{unsupported, []string{`two\nlines`}}, append(pull, "--builder", "mkfs")...)
	u.must(pull...)
	u.must("image", "export", "x", u.dir+"/x.ext4")
	fsck(t, u.dir+"/x.ext4")
}

// TestBadReferences: references that lead nowhere.
func TestBadReferences(t *testing.T) {
	u := newUser(t)
	junk := filepath.Join(u.dir, "junk.tar")
	if err := os.WriteFile(junk, []byte("this is no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": nil})))
	for _, c := range []struct {
		name string
		args []string
		want refusal
	}{
		{"unknown host", []string{"registry.invalid/x:y"}, refusal{unreachable, []string{"registry.invalid"}}},
		{"nobody listens", []string{"localhost:1/x:y"}, refusal{unreachable, []string{"localhost:1"}}},
		{"bad reference", []string{"UPPER CASE"}, refusal{usage, []string{"UPPER CASE"}}},
		{"no archive", []string{"docker-archive:" + junk}, refusal{unsupported, []string{"junk.tar"}}},
		{"no such archive", []string{"docker-archive:" + u.dir + "/none.tar"}, refusal{notFound, []string{"none.tar"}}},
		{"no such layout", []string{"oci:" + u.dir + "/none:v1"}, refusal{notFound, []string{"none"}}},
		{"no layout", []string{"oci:" + u.dir}, refusal{unsupported, []string{u.dir}}},
		{"unknown tag of a layout", []string{"oci:" + l.dir + ":v9"}, refusal{notFound, []string{"v9", "v1"}}},
		{"bad platform", []string{"oci:" + l.dir + ":v1", "--platform", "amd64/linux/x/y"}, refusal{usage, []string{"amd64/linux/x/y"}}},
		{"bad size", []string{"oci:" + l.dir + ":v1", "--size", "huge"}, refusal{usage, []string{"huge"}}},
		{"size too small", []string{"oci:" + l.dir + ":v1", "--size", "10MiB"}, refusal{noSpace, []string{"at least 64MiB"}}},
		{"bad builder", []string{"oci:" + l.dir + ":v1", "--builder", "magic"}, refusal{usage, []string{"magic"}}},
		{"bad name", []string{"oci:" + l.dir + ":v1", "--name", "a b"}, refusal{usage, []string{"a b"}}},
		{"no reference", nil, refusal{usage, []string{"REFERENCE"}}},
		{"unknown flag", []string{"--fast"}, refusal{usage, []string{"--fast"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := *u
			u.t = t
			u.refuses(c.want, append([]string{"image", "pull"}, c.args...)...)
		})
	}
}

// TestBadRuns: what `vm run` says when it cannot even start.
func TestBadRuns(t *testing.T) {
	u := newUser(t)
	u.must("image", "pull", "oci:"+scratchLayout(t, u)+":v1", "--name", "scratch")
	u.must("image", "pull", "oci:"+u.dir+"/scratch:v1", "--name", "bare", "--no-guest")
	u.refuses(refusal{ofRun, []string{"kernel", "banger kernel import"}}, "vm", "run", "scratch")
	u.withKernel()
	u.refuses(refusal{ofRun, []string{"without the guest agent"}}, "vm", "run", "bare")
	u.refuses(refusal{ofRun, []string{"none"}}, "vm", "run", "--pull", "never", "none")
	u.refuses(refusal{ofRun, []string{"none"}}, "vm", "run", "--kernel", "none", "scratch")
	u.refuses(refusal{usage, []string{"--cpus"}}, "vm", "run", "--cpus", "0", "scratch")
	u.refuses(refusal{usage, []string{"An_Name"}}, "vm", "run", "--name", "An_Name", "scratch")
	u.refuses(refusal{usage, []string{"terminal"}}, "vm", "run", "-t", "scratch")
	u.env = []string{"PATH=/nonexistent"}
	u.refuses(refusal{ofRun, []string{"qemu", "apt-get install qemu"}}, "vm", "run", "scratch")
}

// TestNames: what a name stands for, and who may take it.
func TestNames(t *testing.T) {
	u := newUser(t)
	one, two := newLayout(t, u, "one"), newLayout(t, u, "two")
	one.tag(one.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": []byte("1")})))
	two.tag(two.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": []byte("2")})))
	first := u.must("image", "pull", "oci:"+one.dir+":v1", "--name", "x")
	u.refuses(refusal{conflict, []string{`"x"`, "one"}}, "image", "pull", "oci:"+two.dir+":v1", "--name", "x")
	if again := u.must("image", "pull", "oci:"+one.dir+":v1", "--name", "x"); !strings.Contains(again, "up to date") {
		t.Errorf("a second pull of the same digest: want it up to date, got %q (the first printed %q)", again, first)
	}
	// The tag moves on: the same reference has another digest now, and the name follows it.
	one.tag(one.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": []byte("3")})))
	u.must("image", "pull", "oci:"+one.dir+":v1", "--name", "x")
	if list := u.must("image", "ls"); !strings.Contains(list, "<none>") {
		t.Errorf("want the image that lost its name listed, got\n%s", list)
	}
	u.must("image", "rm", "x")
	u.refuses(refusal{notFound, []string{`"x"`}}, "image", "inspect", "x")
	u.refuses(refusal{notFound, []string{`"x"`}}, "image", "export", "x", u.dir+"/x.ext4")
	if _, err := os.Stat(u.dir + "/x.ext4"); err == nil {
		t.Error("exporting an image that does not exist left a file")
	}
}

// TestHostileLayers: a layer that plants links out of the image and writes and deletes through them touches nothing of
// the host.
func TestHostileLayers(t *testing.T) {
	u := newUser(t)
	outside := filepath.Join(u.dir, "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	u.own(outside)
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	u.own(precious)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil,
		packTar(t, []member{
			{Header: tar.Header{Name: "etc", Typeflag: tar.TypeSymlink, Linkname: outside}},
			{Header: tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("../", 20) + outside[1:]}},
		}),
		packTar(t, []member{
			{Header: tar.Header{Name: "etc/planted", Mode: 0o644}, data: "x"},
			{Header: tar.Header{Name: "up/planted", Mode: 0o644}, data: "x"},
			{Header: tar.Header{Name: "etc/.wh.precious"}},
			{Header: tar.Header{Name: "../../../.." + outside + "/planted", Mode: 0o644}, data: "x"},
			{Header: tar.Header{Name: outside + "/absolute", Mode: 0o644}, data: "x"},
		})))
	u.must("image", "pull", "oci:"+l.dir+":v1", "--name", "hostile")
	entries, err := os.ReadDir(outside)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(precious); err != nil || string(data) != "mine" || len(entries) != 1 {
		t.Errorf("the layer reached the host: %v has %d entries, precious is %q (%v)", outside, len(entries), data, err)
	}
}

// TestLayersAreFreed: removing the last image of a layer frees the layer.
func TestLayersAreFreed(t *testing.T) {
	u := newUser(t)
	base, top := tarOf(t, map[string][]byte{"base": []byte("b")}), tarOf(t, map[string][]byte{"top": []byte("t")})
	one, two := newLayout(t, u, "one"), newLayout(t, u, "two")
	one.tag(one.image("amd64", nil, nil, base))
	two.tag(two.image("amd64", nil, nil, base, top))
	u.must("image", "pull", "oci:"+one.dir, "--name", "one")
	u.must("image", "pull", "oci:"+two.dir, "--name", "two")
	for _, step := range []struct {
		remove string
		left   int
	}{{"two", 1}, {"one", 0}} {
		u.must("image", "rm", step.remove)
		layers, err := filepath.Glob(filepath.Join(u.home, "layers", "sha256", strings.Repeat("?", 64)))
		if err != nil || len(layers) != step.left {
			t.Errorf("after removing %q: %d layers are left (%v), want %d", step.remove, len(layers), err, step.left)
		}
	}
	u.leftovers()
}

// TestDamagedImages: an image that something has damaged says so, can be removed, and is made anew by a pull.
func TestDamagedImages(t *testing.T) {
	u := newUser(t)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": nil})))
	pull := []string{"image", "pull", "oci:" + l.dir, "--name", "x"}
	for _, damage := range []string{"truncate -s 1M rootfs.ext4", "rm rootfs.ext4", "echo junk > image.json", "rm -r ."} {
		u.must(pull...)
		dirs, err := filepath.Glob(filepath.Join(u.home, "images", strings.Repeat("?", 64)))
		if err != nil || len(dirs) != 1 {
			t.Fatalf("want one image, got %q (%v)", dirs, err)
		}
		shell := exec.Command("sh", "-c", damage)
		shell.Dir = dirs[0]
		if strings.HasPrefix(damage, "rm -r") {
			shell = exec.Command("rm", "-r", dirs[0])
		}
		if out, err := shell.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", damage, err, out)
		}
		if got := u.run("image", "inspect", "x"); got.code != corrupt && got.code != notFound || !strings.Contains(got.stderr, "pull") {
			t.Errorf("inspect after %q: want a clear error, got %v", damage, got)
		}
		if again := u.must(pull...); strings.Contains(again, "up to date") {
			t.Errorf("pull after %q: the damage was not noticed: %s", damage, again)
		}
		u.must("image", "rm", "x")
	}
	u.leftovers()
}

// TestExportTargets: an export replaces a file, and nothing else.
func TestExportTargets(t *testing.T) {
	u := newUser(t)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"a": nil})))
	u.must("image", "pull", "oci:"+l.dir, "--name", "x")
	u.refuses(refusal{usage, []string{"no regular file"}}, "image", "export", "x", u.dir)
	u.refuses(refusal{usage, []string{"no regular file"}}, "image", "export", "x", "/dev/null")
	u.refuses(refusal{usage, []string{"-"}}, "image", "export", "x", "-")
	u.refuses(refusal{notFound, []string{"no/such"}}, "image", "export", "x", u.dir+"/no/such/file")
	for range 2 {
		u.must("image", "export", "x", u.dir+"/x.ext4")
	}
	fsck(t, u.dir+"/x.ext4")
	if parts, _ := filepath.Glob(u.dir + "/*part*"); len(parts) > 0 {
		t.Errorf("left behind: %q", parts)
	}
}
