package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/oci/registrytest"
)

// pushed is an image of some layers in an open registry, as "team/tool:v1".
func (u *user) pushed(layers int) *registrytest.Registry {
	u.t.Helper()
	l := newLayout(u.t, u, "image")
	var tars [][]byte
	for i := range layers {
		text := bytes.Repeat(fmt.Appendf(nil, "layer %d\n", i), 5000)
		tars = append(tars, tarOf(u.t, map[string][]byte{fmt.Sprintf("etc/file%d", i): text}))
	}
	l.tag(l.image("amd64", nil, nil, tars...))
	r := registrytest.Start(u.t, registrytest.Options{})
	r.Push("oci:"+l.dir+":v1", "team/tool:v1")
	return r
}

// tunnel is a proxy that connects to one address, whatever host it is asked for, and counts how often.
type tunnel struct {
	t       *testing.T
	address string
	refuse  bool
	opened  atomic.Int32
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || p.refuse {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	p.opened.Add(1)
	server, err := net.Dial("tcp", p.address)
	if err != nil {
		p.t.Errorf("the proxy: %v", err)
		return
	}
	w.WriteHeader(http.StatusOK)
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.t.Errorf("the proxy: %v", err)
		return
	}
	go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
	go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
}

// TestProxy: the environment's proxy is used, and says what is wrong with it.
func TestProxy(t *testing.T) {
	u := newUser(t)
	open := u.pushed(1)
	ca := registrytest.NewAuthority(t)
	r := registrytest.Start(t, registrytest.Options{Authority: ca, Storage: open.Storage})
	proxy := &tunnel{t: t, address: r.Address}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	pull := []string{"image", "pull", "--no-guest", "--tls-ca", u.give(ca.File, "ca.pem"), "registry.example/team/tool:v1"}
	u.env = []string{"HTTPS_PROXY=http://someone:secret@" + address}
	u.must(pull...)
	if proxy.opened.Load() == 0 {
		t.Error("the pull has not used the proxy")
	}
	proxy.refuse = true
	u.says(refusal{unreachable, []string{"the proxy " + address + " answers 403", "HTTPS_PROXY", "NO_PROXY"}}, pull...)
	if got := u.run(pull...); strings.Contains(got.stderr, "secret") {
		t.Errorf("want no password of the proxy in the message, got %v", got)
	}
	u.env = []string{"HTTPS_PROXY=http://localhost:1"}
	u.says(refusal{unreachable, []string{"proxyconnect", "refused", "HTTPS_PROXY"}}, pull...)
	u.env = []string{"HTTPS_PROXY=http://localhost:1", "NO_PROXY=registry.example"}
	u.says(refusal{unreachable, []string{"registry.example", "no such host", "network"}}, pull...)
}

// TestParallelLayers: several layers are fetched at once, but not as many as there are.
func TestParallelLayers(t *testing.T) {
	u := newUser(t)
	p := registrytest.NewProxy(t, u.pushed(12), nil)
	p.Plan("/blobs/", registrytest.Repeat(99, registrytest.Slow(100*time.Millisecond))...)
	u.must("image", "pull", "--no-guest", p.Address+"/team/tool:v1")
	if got := p.Most(); got < 2 || got > 4 {
		t.Errorf("the registry had %d requests at a time, want more than one and at most 4", got)
	}
	before := len(p.Requests("/"))
	u.must("image", "pull", "--no-guest", p.Address+"/team/tool:v1")
	if got := p.Requests("/")[before:]; len(got) != 1 || !strings.Contains(fmt.Sprint(got), "/manifests/v1") {
		t.Errorf("a second pull made the requests %v, want one for the manifest", got)
	}
}

// TestMirrorAndAlias: the user's own registries.conf is followed, and the progress says where the image is from.
func TestMirrorAndAlias(t *testing.T) {
	u := newUser(t)
	mirror := u.pushed(2)
	conf := filepath.Join(u.dir, ".config/containers/registries.conf")
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
[aliases]
"tool" = "registry.example/team/tool"
[[registry]]
location = "registry.example"
[[registry.mirror]]
location = "localhost:1"
[[registry.mirror]]
location = %q
`, mirror.Address)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got := u.run("image", "pull", "--no-guest", "tool:v1")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "registry.example/team/tool:v1 ") ||
		!strings.Contains(got.stderr, "localhost:1") || !strings.Contains(got.stderr, "asking "+mirror.Address+" instead") {
		t.Errorf("a pull of an alias by a mirror: got %v, want the whole name, and what was tried", got)
	}
	u.must("image", "inspect", "tool:v1")
	u.says(refusal{unreachable, []string{"registry.example", "mirrors were tried", mirror.Address + " answers 404", "localhost:1", "refused"}},
		"image", "pull", "tool:v2")
	if err := os.WriteFile(conf, []byte("[[registry]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	u.says(refusal{usage, []string{conf}}, "image", "pull", "tool:v1")
}

// TestSettles: a pull's disk reaches the host's behind it, again where that was cut off, and an image that a crash of the
// machine cost is made again. The process that settles it works elsewhere, and finds a home that is relative.
func TestSettles(t *testing.T) {
	u := newUser(t)
	u.env = []string{"BANGER_HOME=" + filepath.Base(u.home)}
	name := u.pushed(1).Address + "/team/tool:v1"
	path := func(file string) string {
		found, _ := filepath.Glob(filepath.Join(u.home, "images/*/rootfs.ext4"))
		if len(found) != 1 {
			t.Fatalf("the disks are %s, want one", found)
		}
		return filepath.Join(filepath.Dir(found[0]), file)
	}
	pull := func() os.FileInfo {
		u.must("image", "pull", "--no-guest", name)
		marks := filepath.Join(u.home, "images/*/unsettled")
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			left, _ := filepath.Glob(marks)
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("nothing settles the image: %s is still there", left)
			}
		}
		disk, err := os.Stat(path("rootfs.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	first := pull()
	for _, c := range []struct {
		boot  string // which had not settled the image
		again bool
	}{{strings.TrimSpace(string(boot)), false}, {"another", true}} {
		if err := os.WriteFile(path("unsettled"), []byte(c.boot), 0o644); err != nil {
			t.Fatal(err)
		}
		u.own(path("unsettled"))
		if disk := pull(); os.SameFile(first, disk) == c.again {
			t.Errorf("after the boot %q did not settle the image: made again: %v, want %v", c.boot, !c.again, c.again)
		}
	}
}
