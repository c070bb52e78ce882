package oci

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/registrytest"
)

// pushed is an image in a registry.
type pushed struct {
	*registrytest.Registry
	manifest ocispec.Descriptor
	layer    string // its digest
}

// pushImage has skopeo push an image with one layer of some 100 KB to a new, open registry, as "team/tool:v1".
func pushImage(t *testing.T) pushed {
	t.Helper()
	c := newContent(t)
	manifest := c.image("linux/amd64", incompressible(100_000))
	r := registrytest.Start(t, registrytest.Options{})
	r.Push("oci:"+c.layout(named(manifest, "v1"))+":v1", "team/tool:v1")
	return pushed{r, manifest, resolveOK(t, r.Address+"/team/tool:v1", "linux/amd64").Blobs[0].Digest}
}

// incompressible is a text of some length, always the same, that gzip halves at most.
func incompressible(length int) string {
	random := rand.NewChaCha8([32]byte{})
	data := make([]byte, length/2)
	_, _ = random.Read(data)
	return hex.EncodeToString(data)
}

// download reads the first layer, and checks what it has read.
func download(t *testing.T, ref string, access Access) error {
	t.Helper()
	opts := options(t, "linux/amd64")
	opts.Access = access
	image, err := Resolve(t.Context(), ref, opts)
	if err != nil {
		return err
	}
	defer func() { _ = image.Close() }()
	body, err := image.Blobs[0].Open(t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(body)
	if err == nil && digest.FromBytes(data).String() != image.Blobs[0].Digest {
		err = fault.New(fault.Corrupt, errors.New("the test reads other bytes than those of the digest"), "")
	}
	return err
}

// hasty are limits that no test waits long for. silent ones are for what sends nothing: others wait longer, since the
// machine may be busy.
func hasty(silent bool) Limits {
	limits := Limits{Connect: 20 * time.Second, Silence: 20 * time.Second, Pause: time.Millisecond, Repeat: 3, Wait: time.Second}
	if silent {
		limits.Silence = time.Second
	}
	return limits
}

// TestFaults: what networks and registries do to a pull, by a proxy before a real registry. Each ends well, or with an
// error that says what happened and what to do.
func TestFaults(t *testing.T) {
	origin := pushImage(t)
	t.Run("HTTP 1.1", func(t *testing.T) { testFaults(t, origin, nil) })
	t.Run("HTTP 2", func(t *testing.T) { testFaults(t, origin, registrytest.NewAuthority(t)) })
}

func testFaults(t *testing.T, origin pushed, authority *registrytest.Authority) {
	other := registrytest.NewProxy(t, origin.Registry, authority) // another host, which has the same blobs
	const manifests, blobs = "/manifests/", "/blobs/"
	layer := blobs + origin.layer
	busy := func(status int, retryAfter string) registrytest.Fault {
		return registrytest.Refuse(status, retryAfter, "")
	}
	errorsOf := func(code, message string) string {
		text, err := json.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%s,"detail":{}}]}`, code, text)
	}
	for _, test := range []struct {
		name   string
		plan   func(p *registrytest.Proxy)
		kind   fault.Kind // 0: the pull succeeds
		words  string     // of the error and its hint, separated by |
		ranges string     // what the layer was asked for with; "*" is not checked
	}{
		{"nothing", func(*registrytest.Proxy) {}, 0, "", ""},
		{"cut in a manifest", func(p *registrytest.Proxy) { p.Plan(manifests, registrytest.Cut(30), registrytest.Cut(0)) },
			0, "", ""},
		{"cut in a manifest, always", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Repeat(9, registrytest.Cut(30))...)
		}, fault.Unreachable, "manifest|too soon: try again", ""},
		{"hang up, once", func(p *registrytest.Proxy) { p.Plan("/", registrytest.HangUp) }, 0, "", ""},
		{"hang up, always", func(p *registrytest.Proxy) {
			p.Plan("/", registrytest.Repeat(99, registrytest.HangUp)...)
		}, fault.Unreachable, "too soon: try again", ""},
		{"cut in a layer", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(1000), registrytest.Cut(2000), registrytest.Cut(0))
		}, 0, "", " bytes=1000- bytes=3000- bytes=3000-"},
		{"cut in a layer, always", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(99, registrytest.Cut(0))...)...)
		}, fault.Unreachable, "too soon|broken 4 times at byte 1000|try again", " bytes=1000- bytes=1000- bytes=1000-"},
		{"cut, without ranges", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(1000), registrytest.WholeCut(5000), registrytest.WholeCut(500), registrytest.WholeCut(-1))
		}, 0, "", " bytes=1000- bytes=5000- bytes=5000-"},
		{"another range than asked for", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(1000), registrytest.WrongRange)
		}, fault.Corrupt, "continuing|at byte 1000|bytes 1-", " bytes=1000-"},
		{"ranges in parts", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(1000), registrytest.Part(500), registrytest.Part(2000), registrytest.Part(1))
		}, 0, "", " bytes=1000- bytes=1500- bytes=3500- bytes=3501-"},
		{"ranges in many parts", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(50, registrytest.Part(500))...)...)
		}, 0, "", "*"},
		{"ranges of nothing", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(99, registrytest.Part(0))...)...)
		}, fault.Corrupt, "has 1000 bytes|the manifest says", " bytes=1000-"},
		{"stalled in a layer, once", func(p *registrytest.Proxy) { p.Plan(layer, p.Stall(1000)) }, 0, "", " bytes=1000-"},
		{"stalled in a layer, always", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Repeat(99, p.Stall(0))...)
		}, fault.Unreachable, "sent nothing for 1s|try again", "*"},
		{"stalled before the byte, without ranges", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(5000), p.WholeStall(500), registrytest.WholeCut(-1))
		}, 0, "", " bytes=5000- bytes=5000-"},
		{"stalled before the byte, without ranges, always", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(5000)}, registrytest.Repeat(99, p.WholeStall(500))...)...)
		}, fault.Unreachable, "sent nothing for 1s|at byte 5000|try again", "*"},
		{"stalled in a manifest", func(p *registrytest.Proxy) { p.Plan(manifests, p.Stall(10)) },
			fault.Unreachable, "sent nothing for 1s|manifest|try again", ""},
		{"stalled token server", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Challenge(fmt.Sprintf("Bearer realm=%q", p.URL+"/token")))
			p.Plan("/token", p.Stalled(`{"token":`))
		}, fault.Unreachable, "/token|sent nothing for 1s|try again", ""},
		{"no token server", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Challenge(fmt.Sprintf("Bearer realm=%q", p.URL+"/token")))
		}, fault.Unreachable, "the token server localhost:|404", ""},
		{"endless token", func(p *registrytest.Proxy) {
			challenge := registrytest.Challenge(fmt.Sprintf("Bearer realm=%q", p.URL+"/token"))
			p.Plan(manifests, registrytest.Repeat(99, challenge)...)
			p.Plan("/token", registrytest.Repeat(99, registrytest.Body("application/json", bytes.Repeat([]byte(" "), 1<<20)))...)
		}, fault.Unreachable, "/token|failed to decode response", ""},
		{"no answer", func(p *registrytest.Proxy) { p.Plan(manifests, p.Silent) },
			fault.Unreachable, "sent nothing for 1s|try again", ""},
		{"busy, and says until when", func(p *registrytest.Proxy) {
			p.Plan(manifests, busy(429, "0"), busy(503, "0"))
			p.Plan(layer, busy(429, "0"), busy(503, ""))
		}, 0, "", "  "},
		{"busy for a date", func(p *registrytest.Proxy) {
			p.Plan(manifests, busy(503, time.Now().UTC().Format(http.TimeFormat)))
		}, 0, "", ""},
		{"busy for too long", func(p *registrytest.Proxy) { p.Plan(manifests, registrytest.Repeat(9, busy(429, "3600"))...) },
			fault.Unreachable, "429 Too Many Requests|limits your pulls|Retry-After: 3600|banger login", ""},
		{"busy in a layer", func(p *registrytest.Proxy) { p.Plan(layer, registrytest.Cut(1000), busy(503, "0"), busy(502, "")) },
			0, "", " bytes=1000- bytes=1000- bytes=1000-"},
		{"busy for ever", func(p *registrytest.Proxy) { p.Plan(manifests, busy(503, "99999999999")) },
			fault.Unreachable, "503 Service Unavailable|Retry-After: 99999999999", ""},
		{"busy for too long in a layer", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(9, busy(429, "3600"))...)...)
		}, fault.Unreachable, "429 Too Many Requests|Retry-After: 3600", " bytes=1000-"},
		{"broken in a layer", func(p *registrytest.Proxy) {
			p.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(99, busy(503, ""))...)...)
		}, fault.Unreachable, "503 Service Unavailable|try again later", " bytes=1000- bytes=1000- bytes=1000- bytes=1000-"},
		{"broken", func(p *registrytest.Proxy) { p.Plan(manifests, registrytest.Repeat(9, busy(500, ""))...) },
			fault.Unreachable, "500 Internal Server Error|try again later", ""},
		{"no such tag", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Refuse(404, "", errorsOf("MANIFEST_UNKNOWN", "we moved\x1b[2J house")))
		}, fault.NotFound, "404 Not Found|we moved[2J house (MANIFEST_UNKNOWN)|check the tag", ""},
		{"no such layer", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Refuse(404, "", errorsOf("BLOB_UNKNOWN", "no such blob")))
		}, fault.NotFound, "no such blob", ""},
		{"forbidden", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Refuse(403, "", errorsOf("DENIED", "not for you")))
		}, fault.Unreachable, "403 Forbidden|not for you|without credentials|banger login", ""},
		{"forbidden in a layer", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Cut(1000), registrytest.Refuse(403, "", errorsOf("DENIED", "not any more")))
		}, fault.Unreachable, "403 Forbidden|not any more|without credentials|banger login", " bytes=1000-"},
		{"wrong byte in a manifest", func(p *registrytest.Proxy) { p.Plan(manifests, registrytest.Flip(20)) },
			fault.Corrupt, "digest|manifest", ""},
		{"wrong byte in a configuration", func(p *registrytest.Proxy) { p.Plan(blobs, registrytest.Flip(20)) },
			fault.Corrupt, "digest|configuration", ""},
		{"wrong byte in a layer", func(p *registrytest.Proxy) { p.Plan(layer, registrytest.Flip(20)) },
			fault.Corrupt, "digest", ""},
		{"web page", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Body("text/html; charset=utf-8", []byte("<html>log in to the network")))
		}, fault.Unsupported, "web page|text/html|login page", ""},
		{"no manifest", func(p *registrytest.Proxy) { p.Plan(manifests, registrytest.Body("application/json", []byte("[]"))) },
			fault.Unsupported, "manifest|container image", ""},
		{"content type that lies", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Type("application/vnd.docker.distribution.manifest.v1+json"))
			p.Plan(layer, registrytest.Type("text/html"))
		}, 0, "", ""},
		{"manifest that is too large", func(p *registrytest.Proxy) {
			p.Plan(manifests, registrytest.Body("application/json", make([]byte, maxDocument+1)))
		}, fault.Unsupported, "more than 16 MiB", ""},
		{"endless manifest", func(p *registrytest.Proxy) { p.Plan(manifests, p.Endless) },
			fault.Unsupported, "more than 16 MiB", ""},
		{"endless layer", func(p *registrytest.Proxy) { p.Plan(layer, p.Endless) },
			fault.Corrupt, "more bytes|" + origin.layer, ""},
		{"layer of another size", func(p *registrytest.Proxy) { p.Plan(layer, registrytest.Body("", []byte("short"))) },
			fault.Corrupt, "has 5 bytes|the manifest says", ""},
		{"redirect to another host", func(p *registrytest.Proxy) { p.Plan(layer, registrytest.Redirect(other.URL)) },
			0, "", ""},
		{"redirect to a host that is not there", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Redirect(strings.TrimRight(p.URL, "0123456789")+"1"))
		}, fault.Unreachable, "refused|nothing listens", ""},
		{"redirect without end", func(p *registrytest.Proxy) {
			p.Plan(layer, registrytest.Repeat(99, registrytest.Redirect(p.URL))...)
		}, fault.Unreachable, "redirects ten times", "*"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := registrytest.NewProxy(t, origin.Registry, authority)
			test.plan(p)
			access := alone(t)
			access.Limits = hasty(strings.Contains(test.words, "sent nothing") || strings.HasPrefix(test.name, "stalled"))
			if authority != nil {
				access.CAFile = authority.File
			}
			began := time.Now()
			err := download(t, p.Address+"/team/tool:v1", access)
			if test.kind != 0 {
				checkFault(t, err, test.kind, strings.Split(test.words, "|")...)
			} else if err != nil {
				t.Errorf("pulling: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "signature") {
				t.Errorf("error %q: want no query of a redirect, which is a secret", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the pull took %s, with limits of some milliseconds", took)
			}
			var ranges []string
			for _, r := range p.Requests(layer) {
				ranges = append(ranges, r.Range)
			}
			if got := strings.Join(ranges, " "); test.ranges != "*" && got != test.ranges {
				t.Errorf("ranges of the requests for the layer: got %q, want %q", got, test.ranges)
			}
		})
	}
}

// TestFromAByteOnWithoutRanges: what comes before the byte may break, too.
func TestFromAByteOnWithoutRanges(t *testing.T) {
	origin := pushImage(t)
	p := registrytest.NewProxy(t, origin.Registry, nil)
	opts := options(t, "linux/amd64")
	image, err := Resolve(t.Context(), p.Address+tool, opts)
	if err != nil {
		t.Fatal(err)
	}
	whole := readBlob(t, image.Blobs[0])
	p.Plan("/blobs/", registrytest.WholeCut(500), registrytest.WholeCut(2000), registrytest.WholeCut(-1))
	body, err := image.Blobs[0].OpenAt(t.Context(), 1000)
	if err != nil {
		t.Fatalf("OpenAt: %v", err)
	}
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, whole[1000:]) {
		t.Errorf("got %d bytes and the error %v, want the last %d", len(got), err, len(whole)-1000)
	}
}

// TestDeadConnections: a connection that stays open and carries nothing is given up, by HTTP/2, too, where all requests
// share one.
func TestDeadConnections(t *testing.T) {
	origin := pushImage(t)
	ca := registrytest.NewAuthority(t)
	secure := registrytest.Start(t, registrytest.Options{Authority: ca, Storage: origin.Storage})
	for name, r := range map[string]*registrytest.Registry{"HTTP 1.1": origin.Registry, "HTTP 2": secure} {
		for _, after := range []int64{1, 2000, 20_000} { // in the TLS handshake or the manifest, and in the layer
			access := alone(t)
			access.CAFile, access.Limits = ca.File, hasty(true)
			access.Limits.Connect = time.Second
			w := registrytest.NewWire(t, r.Address, 1, after)
			began := time.Now()
			err := download(t, w.Address+"/team/tool:v1", access)
			if after == 20_000 && (err != nil || w.Connections() < 2) {
				t.Errorf("%s: after %d bytes: got the error %v and %d connections, want another connection to go on",
					name, after, err, w.Connections())
			}
			if err != nil {
				checkFault(t, err, fault.Unreachable, "try again")
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: after %d bytes: the pull took %s", name, after, took)
			}
		}
	}
}
