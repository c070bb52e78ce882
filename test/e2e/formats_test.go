package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inspected is a part of what `image inspect --json` prints.
type inspected struct {
	Digest    string
	Reference string
	Platform  string
	Guest     string
	Disk      string
	SHA256    string
	Config    json.RawMessage
	Layers    []struct {
		DiffID string `json:"diff_id"`
	}
}

func (u *user) inspectImage(name string) inspected {
	u.t.Helper()
	var image inspected
	if err := json.Unmarshal([]byte(u.must("image", "inspect", "--json", name)), &image); err != nil {
		u.t.Fatal(err)
	}
	return image
}

// host runs a program that judges, in the user's directory, and returns what it prints.
func (u *user) host(name string, args ...string) string {
	u.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = u.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		u.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (u *user) skopeo(args ...string) string {
	u.t.Helper()
	return u.host("skopeo", append([]string{"--insecure-policy", "--tmpdir", u.dir}, args...)...)
}

// sameAs fails the test unless two images have the same configuration and layers.
func (u *user) sameAs(want inspected, name string) {
	u.t.Helper()
	u.sameLayers(want, name)
	if got := u.inspectImage(name); !bytes.Equal(got.Config, want.Config) {
		u.t.Errorf("%s: the configuration is %s, want %s", name, got.Config, want.Config)
	}
}

// sameLayers is sameAs for what skopeo has made another format of: it writes the configuration anew.
func (u *user) sameLayers(want inspected, name string) {
	u.t.Helper()
	if got := u.inspectImage(name); !slices.Equal(got.Layers, want.Layers) || len(got.Layers) == 0 {
		u.t.Errorf("%s: the layers are %v, want %v", name, got.Layers, want.Layers)
	}
}

// TestSources: Alpine goes through every source and format, by skopeo's hand and by banger's, and stays what it is.
func TestSources(t *testing.T) {
	u := newUser(t)
	registry := startRegistry(t, u)
	alpine := fixture(t, "BANGER_TEST_ALPINE", "alpine")
	u.must("image", "pull", "docker-archive:"+alpine, "--name", "alpine")
	want := u.inspectImage("alpine")

	u.must("image", "save", "alpine", "-o", "docker.tar")
	u.must("image", "save", "--format", "oci-archive", "alpine", "--output", "oci.tar")
	u.skopeo("copy", "docker-archive:docker.tar:alpine:latest", "oci:layout:v1")
	u.skopeo("copy", "oci-archive:oci.tar:alpine", "dir:dir")
	u.host("zstd", "-q", "docker.tar", "-o", "docker.tar.zst")
	u.host("gzip", "-k", "oci.tar")
	u.host("chmod", "-R", "a+rX", "layout", "dir")
	for name, format := range map[string]string{"schema2": "v2s2", "oci": "oci"} {
		u.skopeo("copy", "--format", format, "--dest-tls-verify=false", "docker-archive:docker.tar:alpine:latest",
			"docker://"+registry.address+"/alpine:"+name)
	}
	for name, reference := range map[string]string{
		"a": "docker-archive:docker.tar", "b": "oci-archive:oci.tar", "c": "oci:layout:v1", "d": "dir:dir", "e": "docker-archive:docker.tar.zst",
		"f": "oci-archive:oci.tar.gz:alpine", "g": registry.address + "/alpine:schema2", "h": registry.address + "/alpine:oci",
	} {
		u.must("image", "pull", reference, "--name", name)
		if strings.Contains(reference, "-archive:") {
			u.sameAs(want, name)
		}
		u.sameLayers(want, name)
	}
	if saved := u.skopeo("inspect", "--format", "{{.Layers}}", "docker-archive:docker.tar"); !strings.Contains(saved, want.Layers[0].DiffID) {
		t.Errorf("skopeo inspects the layers %s, want %v", saved, want.Layers)
	}
	checkDockerDaemon(u, want)
	checkStreams(u, want)
	u.leftovers()
}

// checkDockerDaemon: an image of a daemon that answers as docker does, with what banger has saved, and daemons that are not there.
func checkDockerDaemon(u *user, want inspected) {
	u.t.Helper()
	socket := filepath.Join(u.dir, "docker.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		u.t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		u.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/images/docker.io/library/alpine:latest/get" {
			http.ServeFile(w, r, filepath.Join(u.dir, "docker.tar"))
			return
		}
		http.Error(w, `{"message":"No such image"}`, http.StatusNotFound)
	})}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	u.env = []string{"DOCKER_HOST=unix://" + socket}
	u.must("image", "pull", "docker-daemon:alpine", "--name", "daemon")
	u.sameAs(want, "daemon")
	u.says(refusal{notFound, []string{"No such image"}}, "image", "pull", "docker-daemon:nothing")
	u.env = []string{"DOCKER_HOST=tcp://127.0.0.1:1"}
	u.says(refusal{unsupported, []string{"tcp://127.0.0.1:1", "docker-archive:-"}}, "image", "pull", "docker-daemon:alpine")
	u.env = []string{"DOCKER_HOST=unix:///no/such.sock"}
	u.says(refusal{unreachable, []string{"/no/such.sock"}}, "image", "pull", "docker-daemon:alpine")
	u.env = nil
}

// checkStreams: archives on standard input and output, here and through a daemon, whose bytes are the same.
func checkStreams(u *user, want inspected) {
	u.t.Helper()
	direct := u.pipeTo("sha256sum", "image", "save", "alpine")
	for _, through := range []string{"no daemon", "a daemon"} {
		if through == "a daemon" {
			daemon := u.startDaemon()
			defer u.stopDaemon(daemon)
		}
		if sum := u.pipeTo("sha256sum", "image", "save", "alpine"); sum != direct {
			u.t.Errorf("through %s, image save writes other bytes", through)
		}
		if names := u.pipeTo("tar tv", "image", "save", "alpine"); !strings.Contains(names, "manifest.json") {
			u.t.Errorf("through %s, tar sees\n%s", through, names)
		}
		archive, err := os.ReadFile(filepath.Join(u.dir, "docker.tar.zst"))
		if err != nil {
			u.t.Fatal(err)
		}
		if got := u.feed(string(archive), "image", "pull", "docker-archive:-", "--name", "piped"); got.code != 0 {
			u.t.Errorf("through %s, pulling from a pipe: %v", through, got)
		}
		u.sameAs(want, "piped")
		u.must("image", "rm", "piped")
		if got := u.feed("", "image", "pull", "tar:-"); got.code != unsupported || !strings.Contains(got.stderr, "empty") {
			u.t.Errorf("through %s, pulling from an empty input: %v", through, got)
		}
		u.says(refusal{notFound, []string{"nothing"}}, "image", "save", "nothing", "-o", "x.tar")
		u.says(refusal{usage, []string{"cpio"}}, "image", "save", "--format", "cpio", "alpine", "-o", "x.tar")
		u.says(refusal{usage, []string{"no regular file"}}, "image", "save", "alpine", "-o", u.dir)
		u.says(refusal{notFound, []string{"no/such"}}, "image", "save", "alpine", "-o", "no/such/x.tar")
		if full := u.pipeTo("{ head -c 100 >/dev/null; }; echo", "image", "save", "alpine"); full != "\n" {
			u.t.Errorf("through %s, a reader that has enough: %q", through, full)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(u.dir, "x.tar*")); len(left) > 0 {
		u.t.Errorf("saves that failed have left %q", left)
	}
}

// TestSaveDiskFull: a save that does not fit is named as such, and nothing of it stays.
func TestSaveDiskFull(t *testing.T) {
	u := newUser(t)
	u.must("image", "pull", "docker-archive:"+fixture(t, "BANGER_TEST_ALPINE", "alpine"), "--name", "alpine")
	setup := "mkdir -p $HOME/small && mount -t tmpfs -o size=1m none $HOME/small"
	check := `sh -c '"$@"; code=$?; find $HOME/small -mindepth 1 | sed "s/^/LEFT /" >&2; exit $code' sh`
	got := u.inNamespace(setup+` && set -- `+check+` "$@"`, "image", "save", "alpine", "-o", u.dir+"/small/alpine.tar")
	if got.code != noSpace || !strings.Contains(got.stderr, "hint:") || strings.Contains(got.stderr, "LEFT ") {
		t.Errorf("want exit code %d, a hint and nothing left, got %v", noSpace, got)
	}
}

// TestSaveFetches: a layer that the store has lost is fetched for a save, and where that cannot be, the error says so.
func TestSaveFetches(t *testing.T) {
	u := newUser(t)
	registry := startRegistry(t, u)
	l := newLayout(t, u, "image")
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"etc/motd": []byte("hello\n")})))
	registry.push(l.dir+":v1", "x:v1")
	u.must("image", "pull", registry.address+"/x:v1", "--name", "x")
	want := u.inspectImage("x")
	u.must("image", "save", "x", "-o", "first.tar")
	forget := func() {
		if err := os.RemoveAll(filepath.Join(u.home, "layers", "sha256")); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	l.tag(l.image("amd64", nil, nil, tarOf(t, map[string][]byte{"etc/motd": []byte("bye\n")})))
	registry.push(l.dir+":v1", "x:v1") // the tag moves on; what is fetched is the image that was pulled
	u.must("image", "save", "x", "-o", "second.tar")
	u.host("cmp", "first.tar", "second.tar")
	u.must("image", "pull", "docker-archive:second.tar", "--name", "again")
	u.sameAs(want, "again")
	u.must("image", "rm", "again")

	u.must("image", "pull", "oci:image:v1", "--name", "y")
	forget()
	if err := os.Rename(l.dir, l.dir+"-moved"); err != nil {
		t.Fatal(err)
	}
	u.refuses(refusal{notFound, []string{"no longer in the layer store", "oci:"}}, "image", "save", "y", "-o", "third.tar")
	if left, _ := filepath.Glob(filepath.Join(u.dir, "third*")); len(left) > 0 {
		t.Errorf("a save that failed has left %q", left)
	}
}

// TestRootFileSystem: a root file system in a tar boots, whatever it is compressed with.
func TestRootFileSystem(t *testing.T) {
	u := newUser(t).withKernel()
	u.host("sh", "-c", "tar -xzOf '"+fixture(t, "BANGER_TEST_ALPINE", "alpine")+"' --wildcards '*layer.tar' >root.tar && zstd -q root.tar")
	u.must("image", "pull", "tar:root.tar.zst", "--name", "root")
	if again := u.must("image", "pull", "tar:root.tar", "--name", "root2"); !strings.Contains(again, "up to date") {
		t.Errorf("the same root, not compressed, is another image: %s", again)
	}
	got := u.run("vm", "run", "--rm", "root", "--", "sh", "-c", "cat /etc/alpine-release; exit 7")
	if got.code != 7 || !strings.HasPrefix(got.stdout, "3.10") {
		t.Errorf("running it: %v", got)
	}
	u.must("image", "save", "root", "-o", "saved.tar")
	layer := u.host("sh", "-c", `tar -xOf saved.tar "blobs/sha256/$(sha256sum <root.tar | cut -d' ' -f1)" | cmp - root.tar && echo same`)
	if layer != "same\n" {
		t.Errorf("the saved layer is not the root that was pulled: %s", layer)
	}
	u.refuses(refusal{usage, []string{"no standard input"}}, "vm", "run", "--rm", "tar:-")
	u.leftovers()
}

// TestArtifacts: what a real registry has that is no image, or not whole, is called what it is.
func TestArtifacts(t *testing.T) {
	u := newUser(t)
	registry := startRegistry(t, u)
	l := newLayout(t, u, "artifact")
	manifest := func(config, layer string, more map[string]any) map[string]any {
		m := map[string]any{
			"schemaVersion": 2, "mediaType": mediaManifest, "config": l.blob(config, []byte(`{}`)),
			"layers": []descriptor{l.blob(layer, []byte("the content of "+layer))},
		}
		maps.Copy(m, more)
		return m
	}
	for name, c := range map[string]struct {
		manifest map[string]any
		want     string
	}{
		"helm": {manifest("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip", nil), "a Helm chart"},
		"wasm": {manifest("application/vnd.wasm.config.v0+json", "application/wasm", nil), "a WebAssembly module"},
		"sign": {manifest(mediaConfig, "application/vnd.dev.cosign.simplesigning.v1+json", nil), "a cosign signature"},
		"sbom": {manifest("application/vnd.oci.empty.v1+json", "application/spdx+json", nil), "an SBOM"},
		"oras": {manifest("application/vnd.oci.empty.v1+json", "text/plain", map[string]any{"artifactType": "application/vnd.example.thing"}),
			"an artifact of the type application/vnd.example.thing"},
	} {
		registry.put(l, "artifact", name, c.manifest)
		u.refuses(refusal{unsupported, []string{"not a container image but " + c.want}}, "image", "pull", registry.address+"/artifact:"+name)
	}
	base := tarOf(t, map[string][]byte{"etc/motd": []byte("hello")})
	config := l.json(mediaConfig, map[string]any{"os": "linux", "architecture": "amd64",
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(base)}}})
	for name, mediaType := range map[string]string{
		"foreign":   "application/vnd.oci.image.layer.nondistributable.v1.tar",
		"encrypted": "application/vnd.oci.image.layer.v1.tar+encrypted",
	} {
		registry.put(l, "image", name, map[string]any{
			"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": []descriptor{l.blob(mediaType, base)},
		})
		u.refuses(refusal{unsupported, []string{"layer 1", name, mediaType}}, "image", "pull", registry.address+"/image:"+name)
	}
}

// TestOtherPlatform: an image for another architecture is pulled, exported and saved, and running it says what it needs.
func TestOtherPlatform(t *testing.T) {
	u := newUser(t).withKernel()
	registry := startRegistry(t, u)
	l := newLayout(t, u, "image")
	var entries []descriptor
	for _, architecture := range []string{"amd64", "arm64", "riscv64"} {
		d := l.image(architecture, nil, nil, tarOf(t, map[string][]byte{"etc/motd": []byte(architecture)}))
		d.Platform = map[string]string{"os": "linux", "architecture": architecture}
		entries = append(entries, d)
	}
	l.tag(l.json(mediaIndex, map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": entries}))
	u.skopeo("copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "oci:image:v1", "docker://"+registry.address+"/many:v1")
	u.must("image", "pull", "--platform", "linux/aarch64", registry.address+"/many:v1", "--name", "arm")
	u.must("image", "pull", registry.address+"/many:v1", "--name", "here")
	arm, here := u.inspectImage("arm"), u.inspectImage("here")
	if arm.Platform != "linux/arm64" || arm.Guest != "" || arm.Digest != entries[1].Digest || here.Digest != entries[0].Digest {
		t.Errorf("pulled %+v and %+v, want %s and %s", arm, here, entries[1].Digest, entries[0].Digest)
	}
	u.refuses(refusal{ofRun, []string{"linux/arm64", "emulation", "linux/amd64"}}, "vm", "run", "--rm", "arm")
	u.refuses(refusal{platform, []string{"linux/amd64, linux/arm64, linux/riscv64"}}, "image", "pull", "--platform", "linux/s390x",
		registry.address+"/many:v1")
	u.must("image", "export", "arm", "arm.ext4")
	fsck(t, u.dir+"/arm.ext4")
	u.must("image", "save", "arm", "here", "-o", "both.tar")
	if got := u.skopeo("inspect", "--override-arch", "arm64", "--format", "{{.Architecture}}", "docker-archive:both.tar:arm"); got != "arm64\n" {
		t.Errorf("skopeo finds an image for %q, want arm64", got)
	}
	u.must("image", "pull", "--platform", "linux/arm64", "docker-archive:both.tar:arm", "--name", "arm2")
	u.sameAs(arm, "arm2")
	u.leftovers()
}
