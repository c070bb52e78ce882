package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/credential"
	"github.com/banger-vm/banger/internal/oci/registrytest"
)

const tool = "/team/tool:v1" // what pushImage pushes

// checkPull pulls, and wants it to succeed (kind 0) or to fail with these words, separated by |. No secret is ever said.
func checkPull(t *testing.T, ref string, access Access, kind fault.Kind, words string) {
	t.Helper()
	err := download(t, ref, access)
	if kind == 0 {
		if err != nil {
			t.Errorf("pulling %s: %v\nhint: %s", ref, err, fault.HintOf(err))
		}
		return
	}
	checkFault(t, err, kind, strings.Split(words, "|")...)
	if err != nil && strings.Contains(err.Error()+fault.HintOf(err), "secret") {
		t.Errorf("error %q with the hint %q: want no secret in it", err, fault.HintOf(err))
	}
}

// TestBasic: a registry with passwords.
func TestBasic(t *testing.T) {
	origin := pushImage(t)
	r := registrytest.Start(t, registrytest.Options{Users: map[string]string{"me": "secret"}, Storage: origin.Storage})
	for _, test := range []struct {
		name, login string
		kind        fault.Kind
		words       string
	}{
		{"right", "me:secret", 0, ""},
		{"nobody", "", fault.Unreachable, "401|asked without credentials|auth.json|banger login " + r.Address},
		{"wrong", "me:not-the-secret", fault.Unreachable, `401|asked as user "me" of |auth.json|banger login ` + r.Address},
		{"unknown", "you:secret", fault.Unreachable, `asked as user "you" of `},
	} {
		t.Run(test.name, func(t *testing.T) {
			access := alone(t)
			if test.login != "" {
				access.Credentials = loggedIn(t, r.Address, test.login)
			}
			checkPull(t, r.Address+tool, access, test.kind, test.words)
		})
	}
}

// TestTokens: a registry that trusts a token server's tokens.
func TestTokens(t *testing.T) {
	origin := pushImage(t)
	s := registrytest.NewTokenServer(t, map[string]string{"me": "secret"}, nil)
	r := registrytest.Start(t, registrytest.Options{Tokens: s, Storage: origin.Storage})
	withToken := alone(t)
	file := filepath.Join(t.TempDir(), "config.json")
	writeFile(t, file, fmt.Appendf(nil, `{"auths": {%q: {"auth": "bWU6", "identitytoken": %q}}}`, r.Address, s.IdentityToken()))
	withToken.Credentials = fromFile(file)
	checkPull(t, r.Address+tool, withToken, 0, "")

	access := alone(t)
	checkPull(t, r.Address+tool, access, fault.Unreachable, "the token server localhost:|401|incorrect username or password|without credentials")
	access.Credentials = loggedIn(t, r.Address, "me:another secret")
	checkPull(t, r.Address+tool, access, fault.Unreachable, `the token server localhost:|asked as user "me" of `)
	access.Credentials = loggedIn(t, r.Address, "me:secret")
	before := s.Issued()
	checkPull(t, r.Address+tool, access, 0, "")
	if n := s.Issued() - before; n != 1 {
		t.Errorf("a pull asked for %d tokens, want one for all", n)
	}
	for _, scope := range s.Scopes() {
		if scope != "repository:team/tool:pull" {
			t.Errorf("a pull asked for the right %q, want to pull from team/tool alone", scope)
		}
	}
}

// TestSeveralChallenges: of those of a registry, one that can be answered is.
func TestSeveralChallenges(t *testing.T) {
	origin := pushImage(t)
	users := map[string]string{"me": "secret"}
	s := registrytest.NewTokenServer(t, users, nil)
	bearer := fmt.Sprintf("Bearer realm=%q", s.URL+"/token")
	for _, test := range []struct {
		options    registrytest.Options
		challenges []string
	}{
		{registrytest.Options{Users: users, Storage: origin.Storage}, []string{"Negotiate", `Basic realm="x"`}},
		{registrytest.Options{Users: users, Storage: origin.Storage}, []string{"Negotiate", `BASIC realm="x"`, "NTLM"}},
		{registrytest.Options{Tokens: s, Storage: origin.Storage}, []string{"Negotiate", `Basic realm="x"`, bearer}},
	} {
		p := registrytest.NewProxy(t, registrytest.Start(t, test.options), nil)
		p.Plan("/", registrytest.Challenge(test.challenges...))
		access := alone(t)
		access.Credentials = loggedIn(t, p.Address, "me:secret")
		checkPull(t, p.Address+tool, access, 0, "")
	}
	p := registrytest.NewProxy(t, origin.Registry, nil)
	p.Plan("/", registrytest.Challenge("Negotiate", "NTLM"))
	checkPull(t, p.Address+tool, alone(t), fault.Unreachable, "401")
}

// TestTokenServerElsewhere: a registry cannot have credentials sent to this host's own services, nor to where there is no
// TLS although the registry has it.
func TestTokenServerElsewhere(t *testing.T) {
	origin := pushImage(t)
	ca := registrytest.NewAuthority(t)
	secure := registrytest.NewProxy(t, origin.Registry, ca)
	plain := registrytest.NewProxy(t, origin.Registry, nil)
	for realm, p := range map[string]*registrytest.Proxy{
		"http://localhost:1/token": secure, "http://169.254.169.254/token": plain, "https://169.254.169.254/token": secure,
	} {
		p.Plan("/", registrytest.Challenge(fmt.Sprintf("Bearer realm=%q", realm)))
		access := alone(t)
		access.CAFile = ca.File
		access.Credentials = loggedIn(t, p.Address, "me:secret")
		checkPull(t, p.Address+tool, access, fault.Unreachable, "bearer realm|token server that it should not")
	}
	// One without TLS gets no password, unless it is on this host.
	plain.Plan("/", registrytest.Challenge(`Bearer realm="http://192.0.2.1/token"`))
	access := alone(t)
	access.Credentials = loggedIn(t, plain.Address, "me:secret")
	checkPull(t, plain.Address+tool, access, fault.Unreachable, "http://192.0.2.1/token|not encrypted|--insecure")
	// Of a registry on this host, the token server may be here, by another name.
	plain.Plan("/", registrytest.Challenge(`Bearer realm="http://127.0.0.1:1/token"`))
	checkPull(t, plain.Address+tool, alone(t), fault.Unreachable, "127.0.0.1:1/token|refused")
}

// TestTokenExpires: a token that ends in the middle of a pull, before a layer and within it, is renewed.
func TestTokenExpires(t *testing.T) {
	origin := pushImage(t)
	s := registrytest.NewTokenServer(t, nil, nil)
	r := registrytest.Start(t, registrytest.Options{Tokens: s, Storage: origin.Storage})
	p := registrytest.NewProxy(t, r, nil)
	expired := p.Expire(s.Token(time.Now().Add(-time.Hour), []string{"repository:team/tool:pull"}))
	p.Plan("/blobs/"+origin.layer, expired, registrytest.Cut(1000), expired, registrytest.Cut(500), expired)
	checkPull(t, p.Address+tool, alone(t), 0, "")
	if got, asked := s.Issued(), p.Requests("/blobs/"+origin.layer); got != 4 || len(asked) != 6 {
		t.Errorf("got %d tokens, and %d requests for the layer; want one token at first and one for each that expired, and 6 requests",
			got, len(asked))
	}
	p.Plan("/blobs/"+origin.layer, registrytest.Repeat(99, expired)...)
	checkPull(t, p.Address+tool, alone(t), fault.Unreachable, "401|asked without credentials")
}

// TestTLS: whom to trust, and whom not.
func TestTLS(t *testing.T) {
	origin := pushImage(t)
	ca := registrytest.NewAuthority(t)
	r := registrytest.Start(t, registrytest.Options{Authority: ca, Storage: origin.Storage})
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	certsD, dir, junk := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "junk.pem")
	writeFile(t, filepath.Join(certsD, r.Address, "ca.crt"), read(ca.File))
	writeFile(t, filepath.Join(dir, "any.crt"), read(ca.File))
	writeFile(t, junk, []byte("junk"))
	another := registrytest.NewAuthority(t).File
	_, port, _ := strings.Cut(r.Address, ":")
	for _, test := range []struct {
		name   string
		host   string
		change func(a *Access)
		kind   fault.Kind
		words  string
	}{
		{"unknown CA", r.Address, func(a *Access) { a.CertsD = []string{"/etc/of/a/test/certs.d"} },
			fault.Unreachable, "unknown authority|--tls-ca|/etc/of/a/test/certs.d/" + r.Address + "/ca.crt|--insecure"},
		{"--tls-ca", r.Address, func(a *Access) { a.CAFile = ca.File }, 0, ""},
		{"--tls-ca of another", r.Address, func(a *Access) { a.CAFile = another }, fault.Unreachable, "unknown authority"},
		{"--tls-ca of junk", r.Address, func(a *Access) { a.CAFile = junk }, fault.Usage, "junk.pem|PEM"},
		{"--tls-ca of nothing", r.Address, func(a *Access) { a.CAFile = "/not/there" }, fault.Usage, "/not/there"},
		{"--cert-dir", r.Address, func(a *Access) { a.CertDir = dir }, 0, ""},
		{"--cert-dir of nothing", r.Address, func(a *Access) { a.CertDir = "/not/there" }, fault.Usage, "/not/there"},
		{"certs.d", r.Address, func(a *Access) { a.CertsD = []string{t.TempDir(), certsD} }, 0, ""},
		{"--insecure", r.Address, func(a *Access) { a.Insecure = true }, 0, ""},
		{"insecure in registries.conf", r.Address, func(a *Access) {
			a.Configuration = configured(t, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", r.Address))
		}, 0, ""},
		{"another name", "127.0.0.2:" + port, func(a *Access) { a.CAFile = ca.File }, fault.Unreachable, "127.0.0.2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			access := alone(t)
			test.change(&access)
			checkPull(t, test.host+tool, access, test.kind, test.words)
		})
	}
}

// configured is a registries.conf with this text.
func configured(t *testing.T, text string) *Configuration {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.conf")
	writeFile(t, file, []byte(text))
	return NewConfiguration(file)
}

// TestClientCertificates: a registry that wants one; and that it is shown to no other host.
func TestClientCertificates(t *testing.T) {
	origin := pushImage(t)
	ca, clients := registrytest.NewAuthority(t), registrytest.NewAuthority(t)
	r := registrytest.Start(t, registrytest.Options{Authority: ca, Clients: clients, Storage: origin.Storage})
	access := alone(t)
	access.CAFile = ca.File
	checkPull(t, r.Address+tool, access, fault.Unreachable, "certificate|client.cert|client.key|--cert-dir")
	dir := t.TempDir()
	clients.Issue(t, dir, "client")
	access.CertDir = dir
	checkPull(t, r.Address+tool, access, 0, "")
	access.CertDir, access.CertsD = "", []string{t.TempDir()}
	clients.Issue(t, filepath.Join(access.CertsD[0], r.Address), "client")
	checkPull(t, r.Address+tool, access, 0, "")

	half := t.TempDir()
	clients.Issue(t, half, "client")
	if err := os.Remove(filepath.Join(half, "client.key")); err != nil {
		t.Fatal(err)
	}
	access.CertDir = half
	checkPull(t, r.Address+tool, access, fault.Usage, "client.key|client.cert")

	// The proxy redirects to the registry, which is another host and wants a certificate: it must get none.
	p := registrytest.NewProxy(t, origin.Registry, ca)
	p.Plan("/blobs/"+origin.layer, registrytest.Repeat(9, registrytest.Redirect(r.URL()))...)
	access.CertDir, access.CertsD = dir, []string{}
	checkPull(t, p.Address+tool, access, fault.Unreachable, "certificate")
}

// TestRedirectLosesCredentials: neither a password nor a token goes to the host that a registry redirects to, be it
// another port of the same one.
func TestRedirectLosesCredentials(t *testing.T) {
	origin := pushImage(t)
	s := registrytest.NewTokenServer(t, map[string]string{"me": "secret"}, nil)
	for name, r := range map[string]*registrytest.Registry{
		"basic":  registrytest.Start(t, registrytest.Options{Users: map[string]string{"me": "secret"}, Storage: origin.Storage}),
		"bearer": registrytest.Start(t, registrytest.Options{Tokens: s, Storage: origin.Storage}),
	} {
		front, storage := registrytest.NewProxy(t, r, nil), registrytest.NewProxy(t, origin.Registry, nil)
		front.Plan("/blobs/"+origin.layer, registrytest.Redirect(storage.URL), registrytest.Redirect(storage.URL))
		storage.Plan("/", registrytest.Cut(1000))
		access := alone(t)
		access.Credentials = loggedIn(t, front.Address, "me:secret")
		checkPull(t, front.Address+tool, access, 0, "")
		seen := storage.Requests("/blobs/")
		if len(seen) != 2 || seen[1].Range != "bytes=1000-" {
			t.Errorf("%s: the other host got %v, want a request and another for the rest", name, seen)
		}
		for _, request := range seen {
			if request.Authorization != "" {
				t.Errorf("%s: the other host got credentials", name)
			}
		}
	}
	// Where TLS was, TLS must stay.
	ca := registrytest.NewAuthority(t)
	front, storage := registrytest.NewProxy(t, origin.Registry, ca), registrytest.NewProxy(t, origin.Registry, nil)
	front.Plan("/blobs/"+origin.layer, registrytest.Redirect(storage.URL))
	access := alone(t)
	access.CAFile = ca.File
	checkPull(t, front.Address+tool, access, fault.Unreachable, "redirect from TLS|--insecure")
}

// TestStorageRefuses: a host that the registry redirects to knows nobody, so that no login would help; another registry
// knows what there is.
func TestStorageRefuses(t *testing.T) {
	origin := pushImage(t)
	layer := "/blobs/" + origin.layer
	const unknown = `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`
	for _, test := range []struct {
		part  string
		fault registrytest.Fault
		kind  fault.Kind
		words string
	}{
		{layer, registrytest.Refuse(403, "", "<Error>expired"), fault.Unreachable, "403 Forbidden"},
		{layer, registrytest.Refuse(404, "", "<Error>NoSuchKey"), fault.Unreachable, "404 Not Found"},
		{layer, registrytest.Refuse(429, "7200", ""), fault.Unreachable, "429 Too Many Requests|Retry-After: 7200"},
		{"/manifests/", registrytest.Refuse(403, "", ""), fault.Unreachable, "403 Forbidden"},
		{"/manifests/", registrytest.Refuse(404, "", unknown), fault.NotFound, "404 Not Found|check the tag"},
	} {
		front, storage := registrytest.NewProxy(t, origin.Registry, nil), registrytest.NewProxy(t, origin.Registry, nil)
		front.Plan(test.part, registrytest.Redirect(storage.URL))
		storage.Plan("/", test.fault)
		words := test.words
		if test.kind == fault.Unreachable {
			words += "|" + front.Address + " redirects to it|" + storage.Address + " does not give"
		}
		access := alone(t)
		access.Credentials = loggedIn(t, front.Address, "me:secret")
		err := download(t, front.Address+tool, access)
		checkFault(t, err, test.kind, strings.Split(words, "|")...)
		if text := fmt.Sprint(err) + fault.HintOf(err); strings.Contains(text, "login") || strings.Contains(text, "asked as") {
			t.Errorf("%s: the error is %q, want nothing about logging in", test.part, text)
		}
	}
}

// TestPlainHTTP: without TLS, credentials go to loopback alone, unless the user says otherwise.
func TestPlainHTTP(t *testing.T) {
	for host, want := range map[string]struct{ tried, sent bool }{
		"localhost:5000": {true, true}, "127.0.0.1": {true, true}, "[::1]:5000": {true, true}, "10.1.2.3:5000": {true, false},
		"192.168.1.1": {true, false}, "printer.local": {true, false}, "registry.example": {false, false}, "8.8.8.8:5000": {false, false},
	} {
		for _, insecure := range []bool{false, true} {
			e := &endpoint{host: host, insecure: insecure}
			if got := len(e.schemes()) == 2; got != (want.tried || insecure) {
				t.Errorf("%s, insecure %t: tries plain HTTP: %t", host, insecure, got)
			}
			e.settle("http")
			if got := !e.withheld(); got != (want.sent || insecure) {
				t.Errorf("%s, insecure %t: sends credentials over plain HTTP: %t", host, insecure, got)
			}
		}
	}
	origin := pushImage(t)
	r := registrytest.Start(t, registrytest.Options{Users: map[string]string{"me": "secret"}, Storage: origin.Storage})
	access := alone(t)
	access.Credentials = loggedIn(t, r.Address, "me:secret")
	e := newEndpoint(place{named: mustName(t, r.Address+tool)}, mustDefault(t, access))
	e.host = "10.255.255.1:5000" // as if it were there
	e.settle("http")
	_, hint := e.whoIsRefused(t.Context(), "")
	if !strings.Contains(hint, "--insecure") {
		t.Errorf("credentials that are not sent: got the hint %q, want it to name --insecure", hint)
	}
}

// TestCredentialsInPlain: what a request without TLS may carry, and to whom.
func TestCredentialsInPlain(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel() // nothing is sent: a request that is let through ends with this
	for _, test := range []struct {
		url, authorization, body string
		refused                  bool
	}{
		{"http://192.0.2.1/token", "Basic bWU6c2VjcmV0", "", true},
		{"http://192.0.2.1/token", "Bearer t", "", true},
		{"http://192.0.2.1/token", "", "refresh_token=secret", true},
		{"http://192.0.2.1/token", "", "", false},
		{"http://10.1.2.3:5000/v2/", "Basic bWU6c2VjcmV0", "", true},
		{"http://10.1.2.3:5000/v2/", "Bearer anonymous", "", false}, // its own
		{"http://localhost:5000/token", "Basic bWU6c2VjcmV0", "", false},
		{"https://192.0.2.1/token", "Basic bWU6c2VjcmV0", "refresh_token=secret", false},
	} {
		for _, insecure := range []bool{false, true} {
			request, err := http.NewRequestWithContext(stopped, http.MethodPost, test.url, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if test.authorization != "" {
				request.Header.Set("Authorization", test.authorization)
			}
			h := &hosts{access: mustDefault(t, alone(t)), registry: "10.1.2.3:5000", insecure: insecure, answered: func(string) {}}
			_, err = h.RoundTrip(request)
			if want := test.refused && !insecure; want != (fault.KindOf(err) == fault.Unreachable) {
				t.Errorf("%s with %q and %q, insecure %t: got %v, want it refused: %t", test.url, test.authorization, test.body, insecure, err, want)
			}
		}
	}
}

// TestBelowLocalhost: names in .localhost are this machine without a name server that knows them.
func TestBelowLocalhost(t *testing.T) {
	origin := pushImage(t)
	r := registrytest.Start(t, registrytest.Options{Users: map[string]string{"me": "secret"}, Storage: origin.Storage})
	_, port, _ := strings.Cut(r.Address, ":")
	access := alone(t)
	access.Credentials = loggedIn(t, "k3d.localhost:"+port, "me:secret")
	checkPull(t, "k3d.localhost:"+port+tool, access, 0, "")
}

// TestHelperThatHangs: a helper that is asked after a refusal, as whom it was, ends with the pull.
func TestHelperThatHangs(t *testing.T) {
	dir := t.TempDir()
	program, file := filepath.Join(dir, "docker-credential-hangs"), filepath.Join(dir, "config.json")
	writeFile(t, program, []byte("#!/bin/sh\nexec sleep 100 2>/dev/null\n"))
	writeFile(t, file, []byte(`{"credsStore": "hangs"}`))
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	opts := options(t, "linux/amd64")
	opts.Access.Credentials = fromFile(file)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := Resolve(ctx, host+tool, opts)
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 30*time.Second {
		t.Errorf("got %v after %s, want the end of the context in time", err, took)
	}
}

// TestMirrors: they are asked in order, and then the registry; what was tried is said.
func TestMirrors(t *testing.T) {
	origin := pushImage(t)
	one, two, home := registrytest.NewProxy(t, origin.Registry, nil), registrytest.NewProxy(t, origin.Registry, nil),
		registrytest.NewProxy(t, origin.Registry, nil)
	gone := closedPort(t)
	conf := func(mirrors ...string) string {
		text := fmt.Sprintf("[[registry]]\nprefix = \"registry.example/far\"\nlocation = \"%s/team\"\n", home.Address)
		for _, m := range mirrors {
			text += fmt.Sprintf("[[registry.mirror]]\nlocation = \"%s/team\"\n", m)
		}
		return text
	}
	layer := "/blobs/" + origin.layer
	refuse := registrytest.Refuse(http.StatusServiceUnavailable, "7200", "closed on Sundays")
	for _, test := range []struct {
		name    string
		mirrors []string
		plan    func()
		kind    fault.Kind
		words   string // of the error, separated by |
		reports string // of the progress, separated by |
		home    int    // requests for a manifest at the registry
	}{
		{"the first", []string{one.Address, two.Address}, func() {}, 0, "", one.Address + " is a mirror of registry.example", 0},
		{"the second", []string{gone, two.Address}, func() {}, 0, "", gone + "|refused|asking " + two.Address + " instead", 0},
		{"the registry", []string{gone, one.Address}, func() { one.Plan("/manifests/", refuse) }, 0, "",
			"refused|closed on Sundays|asking " + home.Address + " instead", 1},
		{"a wrong mirror", []string{one.Address}, func() { one.Plan("/manifests/", registrytest.Flip(20)) }, 0, "", "digest", 1},
		{"none", []string{gone, one.Address}, func() {
			one.Plan("/manifests/", refuse)
			home.Plan("/manifests/", registrytest.Refuse(http.StatusNotFound, "", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`))
		}, fault.NotFound, home.Address + " answers 404|mirrors were tried|" + gone + "|refused|" + one.Address + " answers 503", "", 1},
		{"a mirror with a wrong configuration", []string{one.Address}, func() { one.Plan("/blobs/", registrytest.Flip(20)) },
			0, "", one.Address + ": the bytes of|asking " + home.Address + " instead", 0},
		{"none for the configuration", []string{one.Address}, func() {
			one.Plan("/", registrytest.Repeat(9, registrytest.Refuse(404, "", ""))...)
			home.Plan("/blobs/", refuse)
		}, fault.Unreachable, home.Address + " answers 503 Service Unavailable: closed on Sundays (mirrors were tried: " + one.Address + " answers 404", "", 1},
		{"none for a layer", []string{one.Address}, func() {
			one.Plan("/", registrytest.Repeat(9, registrytest.Refuse(404, "", ""))...)
			home.Plan(layer, refuse)
		}, fault.Unreachable, home.Address + " answers 503 Service Unavailable: closed on Sundays (mirrors were tried: " + one.Address + " answers 404", "", 1},
		{"a layer that the mirror lacks", []string{one.Address}, func() { one.Plan(layer, registrytest.Refuse(404, "", "")) },
			0, "", "404|asking " + home.Address, 0},
		{"a mirror that breaks in a layer", []string{one.Address}, func() {
			one.Plan(layer, append([]registrytest.Fault{registrytest.Cut(1000)}, registrytest.Repeat(9, registrytest.Cut(0))...)...)
		}, 0, "", "at byte 1000|asking " + home.Address, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.plan()
			before := len(home.Requests("/manifests/"))
			var said []string
			var mu sync.Mutex
			access := alone(t)
			access.Limits, access.Configuration = hasty(false), configured(t, conf(test.mirrors...))
			access.Report = func(text string) { mu.Lock(); said = append(said, text); mu.Unlock() }
			checkPull(t, "registry.example/far/tool:v1", access, test.kind, test.words)
			for _, word := range strings.Split(test.reports, "|") {
				if all := strings.Join(said, "\n"); !strings.Contains(all, word) {
					t.Errorf("progress: got %q, want %q in it", all, word)
				}
			}
			if got := len(home.Requests("/manifests/")) - before; got != test.home {
				t.Errorf("the registry was asked for %d manifests, want %d", got, test.home)
			}
		})
		for _, p := range []*registrytest.Proxy{one, two, home} {
			p.Forget()
		}
	}
}

// TestMirrorOfAnIndex: a mirror that has something else under a digest of the index is left for the registry.
func TestMirrorOfAnIndex(t *testing.T) {
	c, other := newContent(t), newContent(t)
	image := c.image("linux/amd64", "x")
	c.tag("v1", c.index(image))
	other.blobs, other.manifests["v1"] = c.blobs, c.manifests["v1"]
	other.manifests[image.Digest.String()] = []byte("<html>the cache is full")
	home, mirror := serve(t, c), serve(t, other)
	access := alone(t)
	access.Configuration = configured(t, fmt.Sprintf("[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", home, mirror))
	checkPull(t, home+tool, access, 0, "")
	c.manifests[image.Digest.String()] = []byte("<html>closed")
	checkPull(t, home+tool, access, fault.Corrupt, home+": the bytes of|mirrors were tried: "+mirror+": the bytes of")
}

// TestConfiguration: what else registries.conf says.
func TestConfiguration(t *testing.T) {
	c := configured(t, `
[aliases]
"tool" = "registry.example/team/tool"
"team/part" = "registry.example/part"
[[registry]]
location = "blocked.example"
blocked = true
`)
	for name, want := range map[string]string{
		"tool": "registry.example/team/tool:latest", "tool:v1": "registry.example/team/tool:v1", "team/part": "registry.example/part:latest",
		"docker://tool": "registry.example/team/tool:latest", "debian": "docker.io/library/debian:latest",
		"localhost/tool": "localhost/tool:latest", "localhost:5000/tool": "localhost:5000/tool:latest", "a/tool": "docker.io/a/tool:latest",
	} {
		if got, err := c.resolve(name); err != nil || got.String() != want {
			t.Errorf("%s: got %v (%v), want %s", name, got, err, want)
		}
	}
	access := alone(t)
	access.Configuration = c
	checkPull(t, "blocked.example/x", access, fault.Unreachable, `blocks|"blocked.example"|registries.conf`)
	access.Configuration = configured(t, "[[registry]\n")
	checkPull(t, "registry.example/x", access, fault.Usage, "registries.conf|man 5 containers-registries.conf")

	table := filepath.Join(t.TempDir(), "000-shortnames.conf")
	writeFile(t, table, []byte("[aliases]\n\"debian\" = \"registry.example/debian\"\n"))
	if got, err := NewConfiguration(table).resolve("debian"); err != nil || got.String() != "docker.io/library/debian:latest" {
		t.Errorf("a name of the distribution's table: got %v (%v), want Docker's", got, err)
	}
}

// TestOneRequest: what is known already costs no more than its manifest.
func TestOneRequest(t *testing.T) {
	origin := pushImage(t)
	p := registrytest.NewProxy(t, origin.Registry, nil)
	resolveOK(t, p.Address+tool, "linux/amd64")
	if got := p.Requests("/manifests/"); len(got) != 1 {
		t.Errorf("resolving asked for %d manifests, want one", len(got))
	}
	if got := p.Requests("/v2/"); len(got) != 2 {
		t.Errorf("resolving made the requests %v, want one for the manifest and one for the configuration", got)
	}
}

// fromFile is the store of one file.
func fromFile(file string) *credential.Store {
	return credential.Open(func(name string) string {
		if name == "REGISTRY_AUTH_FILE" {
			return file
		}
		return ""
	}, os.Getuid(), nil)
}

func mustName(t *testing.T, ref string) reference.Named {
	t.Helper()
	named, err := parseNamed(ref)
	if err != nil {
		t.Fatal(err)
	}
	return named
}

func mustDefault(t *testing.T, access Access) Access {
	t.Helper()
	whole, err := access.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return whole
}
