package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// registry is a real registry on loopback, with storage of its own.
type registry struct {
	t       *testing.T
	address string // host:port
	dir     string
}

func startRegistry(t *testing.T, u *user) *registry {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	_ = listener.Close()
	r := &registry{t: t, address: "localhost:" + port, dir: filepath.Join(u.dir, "registry")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../scripts/registry.sh")
	if err != nil {
		t.Fatal(err)
	}
	r.do(script, "start", r.dir, port)
	t.Cleanup(func() { _ = exec.Command(script, "stop", r.dir).Run() })
	return r
}

func (r *registry) do(name string, args ...string) {
	r.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		r.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// push copies an image of an OCI layout (DIR:TAG) into the registry.
func (r *registry) push(layout, name string) {
	r.t.Helper()
	r.do("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+layout,
		"docker://"+r.address+"/"+name)
}

// layerFile returns the file of the largest blob in the registry's storage.
func (r *registry) layerFile() string {
	r.t.Helper()
	var largest string
	var size int64
	_ = filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "data" {
			return nil
		}
		if info, err := d.Info(); err == nil && info.Size() > size && isLayer(path) {
			largest, size = path, info.Size()
		}
		return nil
	})
	if largest == "" {
		r.t.Fatalf("no layer in the registry's storage %s", r.dir)
	}
	return largest
}

// isLayer tells a layer from a manifest and a config, which are JSON.
func isLayer(path string) bool {
	data, err := os.ReadFile(path)
	return err == nil && len(data) > 0 && data[0] != '{'
}

// put uploads a manifest as it is, with the blobs that it names, which are in a layout (OCI distribution-spec, "Push").
func (r *registry) put(l *layout, repository, tag string, manifest any) {
	r.t.Helper()
	text, err := json.Marshal(manifest)
	if err != nil {
		r.t.Fatal(err)
	}
	var named struct {
		MediaType string
		Config    descriptor
		Layers    []descriptor
	}
	if err := json.Unmarshal(text, &named); err != nil {
		r.t.Fatal(err)
	}
	for _, d := range append(named.Layers, named.Config) {
		data, err := os.ReadFile(filepath.Join(l.dir, "blobs", "sha256", strings.TrimPrefix(d.Digest, "sha256:")))
		if err != nil {
			r.t.Fatal(err)
		}
		place := r.send(http.MethodPost, "http://"+r.address+"/v2/"+repository+"/blobs/uploads/", "", nil)
		r.send(http.MethodPut, place+"&digest="+url.QueryEscape(d.Digest), "application/octet-stream", data)
	}
	r.send(http.MethodPut, "http://"+r.address+"/v2/"+repository+"/manifests/"+tag, named.MediaType, text)
}

// send sends a request that has to succeed, and returns the Location of the answer.
func (r *registry) send(method, to, mediaType string, body []byte) string {
	r.t.Helper()
	request, err := http.NewRequest(method, to, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", mediaType)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode >= http.StatusMultipleChoices {
		r.t.Fatalf("%s %s: the registry answers %s: %s", method, to, answer.Status, text)
	}
	return answer.Header.Get("Location")
}
