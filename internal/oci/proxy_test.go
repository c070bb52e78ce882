package oci

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/registrytest"
)

// alreadyAlone is the variable of the environment by which a test knows that it has a process to itself.
const alreadyAlone = "BANGER_TEST_IN_A_PROCESS_OF_ITS_OWN"

// inOwnProcess runs the test again in a process of its own, and reports whether this is that one: net/http reads the
// environment's proxies once in a process.
func inOwnProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv(alreadyAlone) != "" {
		return true
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), alreadyAlone+"=1")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// useProxy has all that the environment says about proxies be this one.
func useProxy(t *testing.T, url string) {
	t.Helper()
	for name, value := range map[string]string{"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "", "no_proxy": ""} {
		t.Setenv(name, value)
	}
}

// TestNoProxyForThisMachine: what counts as this machine, and so gets credentials without TLS, is not asked for by
// another.
func TestNoProxyForThisMachine(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	var seen []string
	proxy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Host)
		w.WriteHeader(http.StatusTeapot)
	}))
	useProxy(t, "http://"+proxy)
	for host, asked := range map[string]bool{
		"registry.example": true, "localhost:1": false, "127.0.0.1:1": false, "k3d.localhost:1": false,
	} {
		seen = nil
		checkPull(t, host+"/r:v1", alone(t), fault.Unreachable, "")
		if got := len(seen) > 0; got != asked {
			t.Errorf("%s: the proxy was asked for %q, want it asked: %t", host, seen, asked)
		}
	}
}

// proxyWithTLS starts a proxy that knows where some HOST:PORTs are and asks for a client certificate. It tells how often it
// was shown one.
func proxyWithTLS(t *testing.T, ca *registrytest.Authority, where map[string]string) (url string, shown func() int64) {
	t.Helper()
	var certificates atomic.Int64
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host = where[r.In.URL.Host] }}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		certificates.Add(int64(len(r.TLS.PeerCertificates)))
		if r.Method == http.MethodConnect {
			tunnel(t, w, where[r.Host])
			return
		}
		forward.ServeHTTP(w, r)
	}))
	server.TLS = ca.Server(t)
	server.TLS.ClientAuth = tls.RequestClientCert
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, certificates.Load
}

// tunnel answers to CONNECT (RFC 9110, section 9.3.6).
func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	there, err := net.Dial("tcp", to)
	if err != nil {
		t.Errorf("connecting a tunnel: %v", err)
		return
	}
	defer func() { _ = there.Close() }()
	w.WriteHeader(http.StatusOK)
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Errorf("connecting a tunnel: %v", err)
		return
	}
	defer func() { _ = here.Close() }()
	go func() { _, _ = io.Copy(there, buffered); _ = there.Close() }()
	_, _ = io.Copy(here, there)
}

// TestProxyWithTLS: a proxy that has TLS is not the registry: it is not shown the registry's client certificate, and that
// it has TLS says nothing about the registry.
func TestProxyWithTLS(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	origin := pushImage(t)
	ca, clients := registrytest.NewAuthority(t), registrytest.NewAuthority(t)
	secure := registrytest.Start(t, registrytest.Options{Authority: ca, Clients: clients, Storage: origin.Storage})
	proxy, shown := proxyWithTLS(t, ca, map[string]string{
		"registry.example:5000": secure.Address, "plain.example:5000": origin.Address,
	})
	useProxy(t, proxy)
	access := alone(t)
	checkPull(t, "registry.example:5000"+tool, access, fault.Unreachable, "unknown authority")
	access.CAFile, access.CertDir = ca.File, t.TempDir()
	clients.Issue(t, access.CertDir, "client")
	checkPull(t, "registry.example:5000"+tool, access, 0, "")
	access.Insecure = true
	checkPull(t, "plain.example:5000"+tool, access, 0, "")
	if n := shown(); n != 0 {
		t.Errorf("the proxy was shown the registry's client certificate %d times", n)
	}
}
