// Package registrytest has real registries for tests (Debian's docker-registry, on loopback): open ones, ones with
// passwords, with tokens, with TLS and with client certificates; the token server that they trust; and a proxy in front
// of them that does to a download what networks and registries do.
package registrytest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Options say what a registry asks of its clients. The zero value asks nothing, over plain HTTP.
type Options struct {
	Users     map[string]string // passwords by user, for Basic authentication
	Tokens    *TokenServer      // whose tokens are wanted
	Authority *Authority        // of the registry's certificate, which is one for registry.example as well: it has TLS
	Clients   *Authority        // of the certificates that clients must have; needs Authority
	Storage   string            // directory, which registries may share; "" is one of its own
}

// Registry is a running registry.
type Registry struct {
	t       testing.TB
	options Options
	Address string // localhost:PORT
	Storage string
}

// Start starts a registry, which ends with the test.
func Start(t testing.TB, options Options) *Registry {
	t.Helper()
	r := &Registry{t: t, options: options, Storage: options.Storage}
	dir := t.TempDir()
	if r.Storage == "" {
		r.Storage = filepath.Join(dir, "storage")
	}
	for range 5 { // another process may take the port that was free
		if r.run(dir) {
			return r
		}
	}
	t.Fatal("docker-registry does not come up")
	return nil
}

func (r *Registry) run(dir string) bool {
	r.t.Helper()
	r.Address = "localhost:" + freePort(r.t)
	config := filepath.Join(dir, "config.yml")
	write(r.t, config, r.configuration(dir))
	var log bytes.Buffer
	registry := exec.Command("docker-registry", "serve", config)
	registry.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	registry.Stdout, registry.Stderr = &log, &log
	if err := registry.Start(); err != nil {
		r.t.Fatalf("starting docker-registry (apt-get install docker-registry): %v", err)
	}
	ended := make(chan struct{})
	go func() { _ = registry.Wait(); close(ended) }()
	r.t.Cleanup(func() { _ = registry.Process.Kill(); <-ended })
	for range 600 {
		if connection, err := net.Dial("tcp", r.Address); err == nil {
			_ = connection.Close()
			return true
		}
		select {
		case <-ended:
			r.t.Logf("docker-registry ended: %s", &log)
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	return false
}

// configuration is docker-registry's (distribution, "Configuring a registry").
func (r *Registry) configuration(dir string) []byte {
	r.t.Helper()
	var c strings.Builder
	fmt.Fprintf(&c, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n")
	fmt.Fprintf(&c, "storage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\n", r.Storage)
	fmt.Fprintf(&c, "http:\n  addr: %q\n", strings.Replace(r.Address, "localhost", "127.0.0.1", 1))
	if r.options.Authority != nil {
		certificate, key := r.options.Authority.Issue(r.t, dir, "server", "localhost", "127.0.0.1", "registry.example")
		fmt.Fprintf(&c, "  tls:\n    certificate: %q\n    key: %q\n", certificate, key)
		if r.options.Clients != nil {
			fmt.Fprintf(&c, "    clientcas: [%q]\n", r.options.Clients.File)
		}
	}
	switch {
	case r.options.Users != nil:
		file := filepath.Join(dir, "htpasswd")
		write(r.t, file, htpasswd(r.t, r.options.Users))
		fmt.Fprintf(&c, "auth:\n  htpasswd: {realm: test, path: %q}\n", file)
	case r.options.Tokens != nil:
		s := r.options.Tokens
		fmt.Fprintf(&c, "auth:\n  token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}\n",
			s.URL+"/token", s.service, s.issuer, s.authority.File)
	}
	return []byte(c.String())
}

// htpasswd is a file of passwords as docker-registry wants them, hashed by bcrypt.
func htpasswd(t testing.TB, users map[string]string) []byte {
	t.Helper()
	var lines bytes.Buffer
	for user, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", user, hash)
	}
	return lines.Bytes()
}

// Push has skopeo copy an image (oci:DIR:TAG, docker-archive:FILE) into the registry, which must ask nothing of its
// clients.
func (r *Registry) Push(image, name string) {
	r.t.Helper()
	skopeo := exec.Command("skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
		image, "docker://"+r.Address+"/"+name)
	if out, err := skopeo.CombinedOutput(); err != nil {
		r.t.Fatalf("skopeo copy %s: %v\n%s", image, err, out)
	}
}

// URL is the registry's.
func (r *Registry) URL() string {
	if r.options.Authority != nil {
		return "https://" + r.Address
	}
	return "http://" + r.Address
}

// client trusts the registry's authority.
func (r *Registry) client() *http.Client {
	if r.options.Authority == nil {
		return &http.Client{Transport: &http.Transport{}}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: r.options.Authority.Trust()}}
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
