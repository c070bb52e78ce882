package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/banger-vm/banger/internal/fault"
)

// refusal is an answer of a registry, or of its token server, that is not what was asked for.
type refusal struct {
	from       string // HOST[:PORT] that answered
	token      bool   // whether that is a token server
	status     int
	codes      []string // of the distribution-spec, "Error Codes"
	words      string   // what it said, fit for a terminal; may be ""
	retryAfter string   // how long it wants to be left alone, as it said it; may be ""
}

// Error is what the registry said.
func (r *refusal) Error() string {
	text := fmt.Sprintf("%s answers %d %s", r.from, r.status, http.StatusText(r.status))
	if r.words != "" {
		text += ": " + r.words
	}
	return text
}

// maxWords is how much of a refusal is read, in bytes.
const maxWords = 8 << 10

// checkStatus returns a refusal if the answer's status is none of ok.
func checkStatus(response *http.Response, ok []int) error {
	if slices.Contains(ok, response.StatusCode) {
		return nil
	}
	r := &refusal{
		from: response.Request.URL.Host, status: response.StatusCode, retryAfter: printable(response.Header.Get("Retry-After")),
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxWords))
	var said struct{ Errors errcode.Errors }
	if err == nil && json.Unmarshal(body, &said) == nil {
		r.take(said.Errors)
	} else if strings.HasPrefix(response.Header.Get("Content-Type"), "text/plain") {
		r.words = shorten(printable(string(body)))
	}
	return r
}

// take takes the registry's words.
func (r *refusal) take(said errcode.Errors) {
	var words []string
	for _, e := range said {
		r.codes = append(r.codes, e.Code)
		text := e.Message // the detail is a structure, for programs
		if e.Code != "" {
			text = strings.TrimSpace(fmt.Sprintf("%s (%s)", text, e.Code))
		}
		words = append(words, printable(text))
	}
	r.words = shorten(strings.Join(words, "; "))
}

// printable leaves out what would move a terminal's cursor, or worse.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case unicode.IsPrint(c):
			return c
		}
		return -1
	}, s))
}

func shorten(s string) string {
	const most = 400
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// failure gives an error of a request its kind and a hint.
func (e *endpoint) failure(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Failure {
		return e.plain(err)
	}
	if r := refusalOf(err); r != nil {
		return e.refused(ctx, r)
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) || strings.Contains(err.Error(), "missing username or password") {
		return e.refused(ctx, &refusal{from: e.host, status: http.StatusUnauthorized})
	}
	return fault.New(fault.Unreachable, fmt.Errorf("asking %s: %w", e.domain, e.plain(err)), e.explain(err))
}

// refusalOf finds the registry's refusal, or its token server's.
func refusalOf(err error) *refusal {
	var own *refusal
	if errors.As(err, &own) {
		return own
	}
	var token *errcode.ErrorResponse
	if !errors.As(err, &token) {
		return nil
	}
	r := &refusal{from: "the token server " + token.URL.Host, token: true, status: token.StatusCode}
	r.take(token.Errors)
	return r
}

// refused is the error for what a registry answered.
func (e *endpoint) refused(ctx context.Context, r *refusal) error {
	login := "banger login " + e.domain
	if e.domain == "docker.io" {
		login = "banger login"
	}
	switch {
	case e.isStorage(r):
		hint := fmt.Sprintf("%s does not give what %s keeps there%s: try again later; a proxy or the network may be in the way",
			r.from, e.domain, r.until())
		return fault.New(fault.Unreachable, fmt.Errorf("%w (%s redirects to it)", r, e.domain), hint)
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		who, hint := e.whoIsRefused(ctx, login)
		return fault.New(fault.Unreachable, fmt.Errorf("%w (%s)", r, who), hint)
	case r.status == http.StatusNotFound && !r.token:
		return fault.New(fault.NotFound, r, e.notFoundHint(r))
	case r.status == http.StatusTooManyRequests:
		return fault.New(fault.Unreachable, r, fmt.Sprintf("the registry limits your pulls%s: wait, or log in: %s", r.until(), login))
	}
	return fault.New(fault.Unreachable, r, fmt.Sprintf("the registry has a problem%s: try again later", r.until()))
}

// isStorage reports whether a refusal is that of a host behind the registry, which knows neither its users nor its images.
// Where a registry redirects to another one, that says in the words of registries what there is not.
func (e *endpoint) isStorage(r *refusal) bool {
	return !r.token && r.from != e.host && (r.status != http.StatusNotFound || len(r.codes) == 0)
}

// until is when a registry wants to be asked again, in its own words.
func (r *refusal) until() string {
	if r.retryAfter == "" {
		return ""
	}
	return fmt.Sprintf(" (Retry-After: %s)", r.retryAfter)
}

// whoIsRefused says as whom the registry was asked, and never the secret.
func (e *endpoint) whoIsRefused(ctx context.Context, login string) (who, hint string) {
	e.mu.Lock()
	if !e.asked { // it has refused without saying how to log in
		e.login, e.asked = e.access.Credentials.Find(ctx, e.domain, e.repository), true
	}
	found, withheld := e.login, e.withheld()
	e.mu.Unlock()
	if !found.None() && withheld {
		return "not asked as " + found.String() + ", since the connection is not encrypted", unencryptedHint
	}
	if !found.None() {
		return "asked as " + found.String(), "check that this user may pull the image; to log in as another: " + login
	}
	who = "asked without credentials: there are none in " + strings.Join(e.access.Credentials.Places(), ", ")
	for _, problem := range found.Problems {
		who += "; " + printable(problem.Error())
	}
	return who, fmt.Sprintf("check the name; if the image is private, log in: %s", login)
}

func (e *endpoint) notFoundHint(r *refusal) string {
	if slices.Contains(r.codes, errcode.ErrorCodeNameUnknown) {
		return fmt.Sprintf("%s has no repository %q: check the name", e.domain, e.repository)
	}
	return fmt.Sprintf("check the tag: is there such an image in %s/%s?", e.domain, e.repository)
}

// explain says what to do about a request that has failed.
func (e *endpoint) explain(err error) (hint string) {
	for _, known := range []func(error) (string, bool){
		e.explainTLS, e.explainName, e.explainProxy, e.explainTokenServer, e.explainConnection,
	} {
		if hint, ok := known(err); ok {
			return hint
		}
	}
	return fmt.Sprintf("check the name %q and the network; an image that needs no network can be given as oci:DIR", e.domain)
}

// plain makes an error of net/http readable: with the URL only where another host than the registry has failed, and
// without what may be a secret in it.
func (e *endpoint) plain(err error) error {
	var request *url.Error
	if !errors.As(err, &request) {
		return err
	}
	reason := request.Err
	if strings.Contains(reason.Error(), "timeout awaiting response headers") { // net/http has no type for it
		reason = silence{e.access.Limits.Silence}
	}
	if u, parse := url.Parse(request.URL); parse == nil && u.Host != e.host {
		return fmt.Errorf("%s: %w", bare(u), reason)
	}
	return reason
}

// untrusted reports whether TLS has failed because of a certificate: a registry that has one is not asked without.
func untrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

func (e *endpoint) explainTLS(err error) (string, bool) {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		wanted  *certificateWanted
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("if it is the registry's own CA, pass --tls-ca FILE with the CA's certificate, or put that into "+
			"%s; --insecure asks without checking", e.suggestedFile("ca.crt")), true
	case errors.As(err, &name):
		return "use a name that is in the registry's certificate; --insecure asks without checking", true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the registry's certificate has expired, or this host's clock is wrong; --insecure asks without checking", true
	case errors.As(err, &wanted):
		return fmt.Sprintf("put the certificate into %s, with client.key beside it, or pass --cert-dir DIR with the two",
			e.suggestedFile("client.cert")), true
	case untrusted(err):
		return "--insecure asks without checking the certificate", true
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it has no TLS: pass --insecure, or set insecure = true for it in registries.conf, to do without", true
	}
	return "", false
}

// suggestedFile is where a certificate of the registry would be found.
func (e *endpoint) suggestedFile(name string) string {
	if len(e.access.CertsD) == 0 {
		return name + " of a --cert-dir"
	}
	return fmt.Sprintf("%s/%s/%s", e.access.CertsD[0], e.domain, name)
}

func (e *endpoint) explainName(err error) (string, bool) {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return "", false
	}
	if dns.IsNotFound {
		return fmt.Sprintf("there is no host %q: check the name, and that this host has a network", dns.Name), true
	}
	return fmt.Sprintf("the name %q could not be looked up: check the network and its name server", dns.Name), true
}

func (e *endpoint) explainProxy(err error) (string, bool) {
	var operation *net.OpError
	var proxy *proxyRefusal
	if errors.As(err, &operation) && operation.Op == "proxyconnect" || errors.As(err, &proxy) {
		return "check HTTPS_PROXY and HTTP_PROXY; NO_PROXY has the hosts that are asked directly", true
	}
	return "", false
}

// proxyRefusal is the answer of a proxy that does not connect.
type proxyRefusal struct {
	proxy  string
	status string
}

func (p *proxyRefusal) Error() string {
	return fmt.Sprintf("the proxy %s answers %s", p.proxy, p.status)
}

// explainTokenServer explains why the library that logs in refuses to ask a token server. It has no type for that.
func (e *endpoint) explainTokenServer(err error) (string, bool) {
	hint := "the registry names a token server that it should not, so nothing was sent to it: one without TLS, or on this " +
		"host or in a cloud's metadata network"
	return hint, strings.Contains(err.Error(), "bearer realm")
}

func (e *endpoint) explainConnection(err error) (string, bool) {
	var silent silence
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is the registry running, and is the port right?", true
	case errors.As(err, &silent), errors.As(err, &network) && network.Timeout():
		return "the registry or the network hangs: try again", true
	case broken(err):
		return "the registry or the network ends connections too soon: try again", true
	}
	return "", false
}
