package oci

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/banger-vm/banger/internal/oci/credential"
)

const userAgent = "banger"

// endpoint is a repository where it is asked for: in its registry or in a mirror (OCI distribution-spec, "Pull").
type endpoint struct {
	domain     string // what the registry is called
	host       string // HOST[:PORT] that is asked
	repository string // "" is the registry itself
	query      string // of each URL
	insecure   bool
	access     Access
	hosts      *hosts
	client     *auth.Client

	mu     sync.Mutex
	scheme string           // what the registry has answered over; "" is not known yet
	login  credential.Found // what it was logged in to with, once it has asked
	asked  bool             // whether it has
}

// hubHost is where Docker Hub is a registry (docker/cli, and containers/image docs of docker://).
const hubHost = "registry-1.docker.io"

// newEndpoint makes an endpoint. It says nothing to the registry.
func newEndpoint(p place, access Access) *endpoint {
	e := &endpoint{
		domain: reference.Domain(p.named), repository: reference.Path(p.named),
		insecure: access.Insecure || p.insecure, access: access,
	}
	if p.proxied != "" {
		e.query = url.Values{"ns": {p.proxied}}.Encode()
	}
	e.connect()
	return e
}

func (e *endpoint) connect() {
	e.host = e.domain
	if e.domain == "docker.io" {
		e.host = hubHost
	}
	e.hosts = &hosts{
		access: e.access, registry: e.host, domain: e.domain, insecure: e.insecure, answered: e.settle,
	}
	e.client = &auth.Client{
		Client: &http.Client{
			Transport: &repeating{
				base:   &patient{e.hosts, e.access.Limits.Silence},
				limits: e.access.Limits, report: e.access.Report,
			},
			CheckRedirect: redirects(e.insecure),
		},
		Header:     http.Header{"User-Agent": {userAgent}},
		Cache:      auth.NewCache(),
		ClientID:   userAgent,
		Credential: func(ctx context.Context, _ string) (auth.Credential, error) { return e.credential(ctx), nil },
	}
	if loopback(e.host) { // its token server may be here, too
		e.client.BlockedRealmPrefixes = slices.DeleteFunc(auth.DefaultBlockedRealmPrefixes(), func(p netip.Prefix) bool {
			return p.Addr().IsLoopback()
		})
	}
}

// settle remembers the scheme by which the registry has answered.
func (e *endpoint) settle(scheme string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.scheme = scheme
}

func (e *endpoint) settled() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scheme
}

// credential returns what to log in with, when the registry asks for it.
func (e *endpoint) credential(ctx context.Context) auth.Credential {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.asked {
		e.login, e.asked = e.access.Credentials.Find(ctx, e.domain, e.repository), true
	}
	if e.withheld() {
		return auth.EmptyCredential
	}
	return auth.Credential{
		Username: e.login.Username, Password: e.login.Password,
		RefreshToken: e.login.IdentityToken, AccessToken: e.login.RegistryToken,
	}
}

// withheld reports whether the credentials must not be sent, because somebody on the way could read them.
func (e *endpoint) withheld() bool { return e.scheme == "http" && !e.insecure && !loopback(e.host) }

// loopback reports whether a HOST[:PORT] is this machine.
func loopback(host string) bool {
	name := hostname(host)
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback() || name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// local reports whether a HOST[:PORT] is near: the host itself, an address of a private network (RFC 1918), or a name
// of multicast DNS (RFC 6762).
func local(host string) bool {
	ip, err := netip.ParseAddr(hostname(host))
	return err == nil && ip.IsPrivate() || loopback(host) || strings.HasSuffix(hostname(host), ".local")
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// schemes are what to try, in order.
func (e *endpoint) schemes() []string {
	if scheme := e.settled(); scheme != "" {
		return []string{scheme}
	}
	if e.insecure || local(e.host) {
		return []string{"https", "http"}
	}
	return []string{"https"}
}

// get sends a GET request for a path below the repository, "" for the registry itself. The answer's status is one of ok.
// Its body releases what it holds when it is closed.
func (e *endpoint) get(ctx context.Context, path string, header http.Header, ok ...int) (*http.Response, error) {
	response, err := e.send(ctx, path, header)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, e.failure(ctx, err)
	}
	if err := checkStatus(response, ok); err != nil {
		_ = response.Body.Close()
		return nil, e.failure(ctx, err)
	}
	return response, nil
}

// send tries the schemes.
func (e *endpoint) send(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	if e.repository != "" { // the token for it is used without asking what it has to be for
		ctx = auth.WithScopesForHost(ctx, e.host, auth.ScopeRepository(e.repository, auth.ActionPull))
	}
	var first error
	for _, scheme := range e.schemes() {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url(scheme, path), nil)
		if err != nil {
			return nil, err
		}
		request.Header = header.Clone()
		response, err := e.client.Do(request)
		switch {
		case err == nil:
			return response, nil
		case e.settled() != "" || ctx.Err() != nil || untrusted(err):
			return nil, err
		case first == nil:
			first = err
		case errors.Is(first, http.ErrSchemeMismatch): // plain HTTP was right, and failed
			first = err
		}
	}
	return nil, first
}

func (e *endpoint) url(scheme, path string) string {
	u := url.URL{Scheme: scheme, Host: e.host, Path: "/v2/", RawQuery: e.query}
	if path != "" {
		u.Path += e.repository + "/" + path
	}
	return u.String()
}

// Close closes the connections.
func (e *endpoint) Close() error {
	e.hosts.CloseIdleConnections()
	return nil
}
