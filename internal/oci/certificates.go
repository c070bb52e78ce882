package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.podman.io/image/v5/pkg/tlsclientconfig"

	"github.com/banger-vm/banger/internal/fault"
)

// certificateDirs are the directories that have a directory per registry with its certificates: podman's
// (containers-certs.d(5)) and docker's, the user's own first.
func certificateDirs(getenv func(string) string) []string {
	var dirs []string
	config := getenv("XDG_CONFIG_HOME")
	if home := getenv("HOME"); config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		dirs = append(dirs, filepath.Join(config, "containers", "certs.d"), filepath.Join(config, "docker", "certs.d"))
	}
	return append(dirs, "/etc/containers/certs.d", "/etc/docker/certs.d")
}

// hosts is an http.RoundTripper that has the certificates of each host: those that a registry is given go to no other
// host that it redirects to.
type hosts struct {
	access   Access
	registry string // HOST[:PORT] that Access.CertDir is for
	domain   string // what the registry is called: "docker.io" for "registry-1.docker.io"
	insecure bool
	answered func(scheme string) // called when the registry has answered over a scheme

	mu         sync.Mutex
	transports map[string]*http.Transport // by scheme and host
	// wanting are the hosts that have asked for a client certificate and not answered yet: whether they got one.
	wanting   map[string]bool
	satisfied map[string]bool // hosts that have answered
}

// RoundTrip sends a request by the transport of its host.
func (h *hosts) RoundTrip(request *http.Request) (*http.Response, error) {
	if h.exposes(request) {
		err := errors.New("no credentials are sent there, since the connection is not encrypted")
		return nil, fault.New(fault.Unreachable, err, unencryptedHint)
	}
	transport, err := h.transport(request)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, h.explain(request.URL.Host, err)
	}
	if request.URL.Host == h.registry {
		h.answered(request.URL.Scheme)
	}
	h.satisfy(request.URL.Host)
	sortChallenges(response.Header)
	return response, nil
}

// sortChallenges has the challenge first that can be answered (RFC 9110, section 11.6.1), a Bearer one before a Basic one:
// the library that logs in looks at no other.
func sortChallenges(header http.Header) {
	rank := func(challenge string) int {
		scheme, _, _ := strings.Cut(challenge, " ")
		if i := slices.Index([]string{"bearer", "basic"}, strings.ToLower(scheme)); i >= 0 {
			return i
		}
		return 2
	}
	slices.SortStableFunc(header["Www-Authenticate"], func(a, b string) int { return rank(a) - rank(b) })
}

// exposes reports whether somebody on the way could read credentials in a request. A token for the registry itself is
// none: without encryption it is nobody's, see endpoint.withheld.
func (h *hosts) exposes(request *http.Request) bool {
	if request.URL.Scheme != "http" || h.insecure || loopback(request.URL.Host) {
		return false
	}
	authorization := request.Header.Get("Authorization")
	if scheme, _, _ := strings.Cut(authorization, " "); request.URL.Host == h.registry && strings.EqualFold(scheme, "bearer") {
		authorization = ""
	}
	return authorization != "" || request.Body != nil && request.Body != http.NoBody // in which token servers get secrets
}

// unencryptedHint is that of credentials that are not sent.
const unencryptedHint = "pass --insecure, or set insecure = true for the registry in registries.conf, to log in without " +
	"encryption"

// certificateWanted is the error of a connection to a host that has asked for a client certificate. What such a host
// says when it wants another is often lost: it hangs up (RFC 8446, section 4.4.2.4).
type certificateWanted struct {
	err   error
	shown bool
}

func (c *certificateWanted) Error() string {
	if c.shown {
		return c.err.Error() + " (it has asked for a client certificate, and does not seem to accept the one it got)"
	}
	return c.err.Error() + " (it has asked for a client certificate, and got none)"
}

func (h *hosts) explain(host string, err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if shown, wanting := h.wanting[host]; wanting {
		return &certificateWanted{err, shown}
	}
	return err
}

func (h *hosts) satisfy(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.wanting, host)
	h.satisfied[host] = true
}

// choose returns the first certificate that a host may want, or an empty one, as crypto/tls does by itself.
func (h *hosts) choose(host string, own []tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		chosen := new(tls.Certificate)
		for i := range own {
			if request.SupportsCertificate(&own[i]) == nil {
				chosen = &own[i]
				break
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.satisfied[host] {
			h.wanting[host] = len(chosen.Certificate) > 0
		}
		return chosen, nil
	}
}

func (h *hosts) transport(request *http.Request) (*http.Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	host := request.URL.Host
	key := request.URL.Scheme + "://" + host // by which there are proxies, too
	if t := h.transports[key]; t != nil {
		return t, nil
	}
	config, err := h.tls(host)
	if err != nil {
		return nil, err
	}
	if h.transports == nil {
		h.transports = make(map[string]*http.Transport)
		h.wanting, h.satisfied = make(map[string]bool), make(map[string]bool)
	}
	config.GetClientCertificate = h.choose(host, config.Certificates)
	if host == h.registry { // what has shown a certificate is not asked without TLS
		config.VerifyConnection = func(tls.ConnectionState) error { h.answered("https"); return nil }
	}
	t := newTransport(h.access.Limits)
	t.TLSClientConfig = config
	if err := h.throughTLS(t, request); err != nil {
		return nil, err
	}
	h.transports[key] = t
	return t, nil
}

// throughTLS has a transport reach a proxy that has TLS as a host of its own: it is not the registry, and is not shown the
// registry's client certificate.
func (h *hosts) throughTLS(t *http.Transport, request *http.Request) error {
	proxy, err := t.Proxy(request)
	if err != nil || proxy == nil || proxy.Scheme != "https" {
		return err
	}
	config, err := h.tls(proxy.Host)
	if err != nil {
		return err
	}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: h.access.Limits.Connect}, Config: config}
	t.DialTLSContext = dialer.DialContext // which is for the proxy alone: all that the transport asks goes through it
	return nil
}

// CloseIdleConnections closes the connections to all hosts.
func (h *hosts) CloseIdleConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.transports {
		t.CloseIdleConnections()
	}
}

// proxyFor returns the proxy of the environment, or nil. There is none for what counts as this machine, which is more
// than net/http spares.
func proxyFor(request *http.Request) (*url.URL, error) {
	if loopback(request.URL.Host) {
		return nil, nil
	}
	return http.ProxyFromEnvironment(request)
}

// dial connects to this machine for every name below localhost, whatever a name server says (RFC 6761, section 6.3):
// credentials are sent there without TLS.
func dial(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil && strings.HasSuffix(host, ".localhost") {
			address = net.JoinHostPort("localhost", port)
		}
		return d.DialContext(ctx, network, address)
	}
}

// newTransport is Go's own, with limits to the wait, and without Go's decompression: digests are of what is sent.
func newTransport(limits Limits) *http.Transport {
	return &http.Transport{
		Proxy:                 proxyFor,
		DialContext:           dial(&net.Dialer{Timeout: limits.Connect}),
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		IdleConnTimeout:       limits.Silence,
		TLSHandshakeTimeout:   limits.Connect,
		ResponseHeaderTimeout: limits.Silence,
		// All requests to a host share a connection. One that is dead is found out before a request is given up, so that the
		// next one does not take it again.
		HTTP2: &http.HTTP2Config{SendPingTimeout: limits.Silence / 4, PingTimeout: limits.Silence / 2},
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			return &proxyRefusal{proxy: proxy.Host, status: printable(answer.Status)}
		},
	}
}

// tls returns whom to trust as a host, and what to show it.
func (h *hosts) tls(host string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: h.insecure} //nolint:gosec // as the user says
	if path := h.access.CAFile; path != "" {
		if err := trust(config, path); err != nil {
			return nil, err
		}
	}
	dir := h.certificates(host)
	if dir == "" {
		return config, nil
	}
	if err := tlsclientconfig.SetupCertificates(dir, config); err != nil {
		err = fmt.Errorf("reading the certificates of %q in %q: %w", host, dir, err)
		return nil, fault.New(fault.Usage, err, "it has ca.crt, and client.cert with client.key, all in PEM")
	}
	return config, nil
}

// trust adds a file's certificates to those that the host trusts.
func trust(config *tls.Config, path string) error {
	pem, err := os.ReadFile(path)
	if err != nil {
		return fault.New(fault.Usage, fmt.Errorf("reading the CA's certificate: %w", err), "")
	}
	if config.RootCAs, err = x509.SystemCertPool(); err != nil {
		return fmt.Errorf("reading the host's CA certificates: %w", err)
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		err := fmt.Errorf("reading the CA's certificate: %q has no certificate in PEM", path)
		return fault.New(fault.Usage, err, "it begins with -----BEGIN CERTIFICATE-----")
	}
	return nil
}

// certificates returns the directory with a host's certificates, or "". As with podman, the first that exists is the
// only one.
func (h *hosts) certificates(host string) string {
	ours := host == h.registry
	if ours && h.access.CertDir != "" {
		return h.access.CertDir
	}
	name := host
	if ours {
		name = h.domain
	}
	for _, dir := range h.access.CertsD {
		dir = filepath.Join(dir, name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

// checkFiles refuses what the flags name and what is not there, or is of no use, before anybody is asked.
func (a Access) checkFiles() error {
	if a.CAFile != "" {
		if err := trust(new(tls.Config), a.CAFile); err != nil {
			return err
		}
	}
	if a.CertDir == "" {
		return nil
	}
	if _, err := os.ReadDir(a.CertDir); err != nil {
		return fault.New(fault.Usage, fmt.Errorf("reading the registry's certificates: %w", err), "")
	}
	return nil
}

// redirects is an http.Client's policy: no more than ten, and none that gives up encryption. The library that logs in
// takes the credentials away where a redirect leads to another host, port or scheme.
func redirects(insecure bool) func(*http.Request, []*http.Request) error {
	return func(request *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			err := errors.New("it redirects ten times in a row")
			return fault.New(fault.Unreachable, err, "the registry has a problem: try again later")
		}
		if last := via[len(via)-1].URL; last.Scheme == "https" && request.URL.Scheme != "https" && !insecure {
			err := errors.New("a redirect from TLS to a URL without it is not followed")
			return fault.New(fault.Unreachable, err, "--insecure follows it")
		}
		return nil
	}
}

// bare returns a URL without what may be a secret: the user, and the query, in which object stores have signatures.
func bare(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
