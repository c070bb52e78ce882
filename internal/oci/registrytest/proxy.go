package registrytest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands before a registry, and does to its answers what faults say. It forwards everything else as it is.
type Proxy struct {
	Address  string // localhost:PORT
	URL      string
	registry *Registry
	upstream *http.Client
	ended    chan struct{}

	mu       sync.Mutex
	faults   []planned
	requests []Request
	expired  map[string]string // what Authorization is replaced by
	running  int
	most     int
}

// Request is what a client asked for.
type Request struct {
	Path          string
	Range         string
	Authorization string
}

// planned are the faults of the requests for paths with a part in them, in order. What comes after the last is well.
type planned struct {
	part   string
	faults []Fault
}

// Answer is the registry's.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Fault answers a request, which ask forwards to the registry.
type Fault func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer)

// NewProxy starts a proxy, which ends with the test. With an authority it has TLS, and speaks HTTP/2.
func NewProxy(t testing.TB, registry *Registry, authority *Authority) *Proxy {
	t.Helper()
	p := &Proxy{
		registry: registry, upstream: registry.client(), ended: make(chan struct{}), expired: make(map[string]string),
	}
	server := httptest.NewUnstartedServer(p)
	if authority == nil {
		server.Start()
	} else {
		server.TLS, server.EnableHTTP2 = authority.Server(t), true
		server.StartTLS()
	}
	t.Cleanup(func() { close(p.ended); server.CloseClientConnections(); server.Close() })
	p.URL = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	_, p.Address, _ = strings.Cut(p.URL, "://")
	return p
}

// Plan has the requests for a path with this part meet faults, one each. A nil fault lets one pass.
func (p *Proxy) Plan(part string, faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, planned{part, faults})
}

// Forget drops the faults that are still planned.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Requests are those for paths with this part, so far.
func (p *Proxy) Requests(part string) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Request
	for _, r := range p.requests {
		if strings.Contains(r.Path, part) {
			found = append(found, r)
		}
	}
	return found
}

// Most is how many requests there were at the same time.
func (p *Proxy) Most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}

// ServeHTTP answers by the registry, or by a fault.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := p.note(r)
	defer func() {
		p.mu.Lock()
		p.running--
		p.mu.Unlock()
	}()
	if fault == nil {
		Pass(w, r, p.ask)
		return
	}
	fault(w, r, p.ask)
}

// note counts a request and returns its fault.
func (p *Proxy) note(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, Request{r.URL.Path, r.Header.Get("Range"), r.Header.Get("Authorization")})
	p.running++
	p.most = max(p.most, p.running)
	for i, plan := range p.faults {
		if strings.Contains(r.URL.Path, plan.part) && len(plan.faults) > 0 {
			p.faults[i].faults = plan.faults[1:]
			return plan.faults[0]
		}
	}
	return nil
}

// ask forwards a request.
func (p *Proxy) ask(r *http.Request) Answer {
	forwarded, err := http.NewRequestWithContext(r.Context(), r.Method, p.registry.URL()+r.URL.Path, nil)
	if err != nil {
		return Answer{Status: http.StatusBadGateway}
	}
	forwarded.Header = r.Header.Clone()
	p.mu.Lock()
	if expired := p.expired[r.Header.Get("Authorization")]; expired != "" {
		forwarded.Header.Set("Authorization", expired)
	}
	p.mu.Unlock()
	response, err := p.upstream.Do(forwarded)
	if err != nil {
		return Answer{Status: http.StatusBadGateway}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{Status: http.StatusBadGateway}
	}
	response.Header.Del("Content-Length")
	return Answer{Status: response.StatusCode, Header: response.Header, Body: body}
}

// begin sends the head of an answer, with the length that the whole body would have.
func (a Answer) begin(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.WriteHeader(a.Status)
}

func (a Answer) send(w http.ResponseWriter) {
	a.begin(w)
	_, _ = w.Write(a.Body)
}

// Pass is no fault.
func Pass(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) { ask(r).send(w) }

// Cut hangs up after n bytes of the body.
func Cut(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		a := ask(r)
		a.begin(w)
		_, _ = w.Write(a.Body[:min(n, len(a.Body))])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// HangUp hangs up before any answer.
func HangUp(http.ResponseWriter, *http.Request, func(*http.Request) Answer) {
	panic(http.ErrAbortHandler)
}

// Stall sends n bytes of the body, and then nothing until the client goes away.
func (p *Proxy) Stall(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		a := ask(r)
		a.begin(w)
		_, _ = w.Write(a.Body[:min(n, len(a.Body))])
		_ = http.NewResponseController(w).Flush()
		p.wait(r)
	}
}

// Stalled sends the beginning of a body of its own, and then nothing until the client goes away.
func (p *Proxy) Stalled(begin string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ func(*http.Request) Answer) {
		_, _ = io.WriteString(w, begin)
		_ = http.NewResponseController(w).Flush()
		p.wait(r)
	}
}

// Silent never answers.
func (p *Proxy) Silent(_ http.ResponseWriter, r *http.Request, _ func(*http.Request) Answer) {
	p.wait(r)
}

func (p *Proxy) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.ended:
	}
}

// Refuse answers with a status, a Retry-After if it is not "", and a body.
func Refuse(status int, retryAfter, body string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func(*http.Request) Answer) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// Challenge asks for a login, in one of several ways (RFC 9110, section 11.6.1).
func Challenge(challenges ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func(*http.Request) Answer) {
		for _, challenge := range challenges {
			w.Header().Add("WWW-Authenticate", challenge)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// Flip changes the byte at an offset.
func Flip(offset int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		a := ask(r)
		if a.Status < 300 && offset < len(a.Body) {
			a.Body[offset] ^= 1
		}
		a.send(w)
	}
}

// WholeCut ignores a Range, and hangs up after n bytes of the whole; with n < 0 it sends all of it.
func WholeCut(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		r.Header.Del("Range")
		if n < 0 {
			ask(r).send(w)
			return
		}
		Cut(n)(w, r, ask)
	}
}

// WholeStall is Stall for a request that asks for a range, of which a registry without ranges knows nothing.
func (p *Proxy) WholeStall(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		r.Header.Del("Range")
		p.Stall(n)(w, r, ask)
	}
}

// Part answers to a Range with n bytes of it alone (RFC 9110, section 15.3.7).
func Part(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		if first, ok := strings.CutSuffix(r.Header.Get("Range"), "-"); ok {
			from, _ := strconv.Atoi(strings.TrimPrefix(first, "bytes="))
			r.Header.Set("Range", first+"-"+strconv.Itoa(from+max(n, 1)-1))
		}
		a := ask(r)
		a.Body = a.Body[:min(n, len(a.Body))]
		a.send(w)
	}
}

// WrongRange answers as if another part of the blob had been asked for.
func WrongRange(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
	r.Header.Set("Range", "bytes=1-")
	ask(r).send(w)
}

// Redirect sends the client to the same path elsewhere.
func Redirect(url string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ func(*http.Request) Answer) {
		http.Redirect(w, r, url+r.URL.Path+"?signature=secret-of-a-test", http.StatusTemporaryRedirect)
	}
}

// Type answers with another Content-Type.
func Type(contentType string) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		a := ask(r)
		a.Header.Set("Content-Type", contentType)
		a.send(w)
	}
}

// Body answers with another body, of a Content-Type, and without the digest of the true one.
func Body(contentType string, body []byte) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ func(*http.Request) Answer) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}
}

// Endless sends the registry's body and then zeros for ever, without saying how long it is.
func (p *Proxy) Endless(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
	a := ask(r)
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	_, err := w.Write(a.Body)
	for zeros := make([]byte, 64<<10); err == nil; {
		_, err = w.Write(zeros)
	}
}

// Slow waits before it forwards a request.
func Slow(d time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		time.Sleep(d)
		Pass(w, r, ask)
	}
}

// Expire has the token of a request be one that ended long ago from then on, which replaces it on its way to the
// registry.
func (p *Proxy) Expire(expired string) Fault {
	return func(w http.ResponseWriter, r *http.Request, ask func(*http.Request) Answer) {
		p.mu.Lock()
		p.expired[r.Header.Get("Authorization")] = "Bearer " + expired
		p.mu.Unlock()
		Pass(w, r, ask)
	}
}

// Repeat is a fault n times.
func Repeat(n int, fault Fault) []Fault {
	faults := make([]Fault, n)
	for i := range faults {
		faults[i] = fault
	}
	return faults
}
