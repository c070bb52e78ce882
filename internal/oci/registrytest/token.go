package registrytest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// TokenServer gives Bearer tokens to its users for what they ask (distribution, "Token Authentication Specification").
// Registries with Options.Tokens trust them.
type TokenServer struct {
	URL       string
	users     map[string]string
	refresh   string // an identity token that is as good as a password
	service   string
	issuer    string
	authority *Authority
	key       *ecdsa.PrivateKey
	chain     []string // the certificate of key, in base64

	mu     sync.Mutex
	scopes []string
	issued int
}

// NewTokenServer starts a server, which ends with the test. Without users, it gives tokens to everybody. With an
// authority it has TLS.
func NewTokenServer(t testing.TB, users map[string]string, authority *Authority) *TokenServer {
	t.Helper()
	s := &TokenServer{
		users: users, refresh: "identity-token-of-a-test", service: "registry of a test", issuer: "token server of a test",
		authority: NewAuthority(t), key: newKey(t),
	}
	s.chain = []string{base64.StdEncoding.EncodeToString(s.authority.sign(t, s.key, nil))}
	server := httptest.NewUnstartedServer(s)
	if authority == nil {
		server.Start()
	} else {
		server.TLS = authority.Server(t)
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	s.URL = strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
	return s
}

// IdentityToken is one that the server gives tokens for, in the place of a password.
func (s *TokenServer) IdentityToken() string { return s.refresh }

// Issued is how many tokens were given, and Scopes what for.
func (s *TokenServer) Issued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

// Scopes are what tokens were asked for.
func (s *TokenServer) Scopes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.scopes...)
}

// ServeHTTP answers to GET with Basic authentication, and to POST with an identity token (OAuth 2.0).
func (s *TokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.knows(r) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
		return
	}
	s.mu.Lock()
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	s.scopes = append(s.scopes, scopes...)
	s.issued++
	s.mu.Unlock()
	token := s.Token(time.Now().Add(5*time.Minute), scopes)
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

func (s *TokenServer) knows(r *http.Request) bool {
	if r.ParseForm() != nil {
		return false
	}
	if r.Method == http.MethodPost {
		return r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("refresh_token") == s.refresh
	}
	user, password, ok := r.BasicAuth()
	if s.users == nil {
		return !ok
	}
	want, known := s.users[user]
	return ok && known && want == password
}

// access is what a token is good for.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Token signs a token (JWT, RFC 7519, with ES256) that ends at a time; registries accept it for another minute.
func (s *TokenServer) Token(until time.Time, scopes []string) string {
	granted := []access{}
	for _, scope := range scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		name, actions, _ := cutLast(rest, ":")
		granted = append(granted, access{kind, name, strings.Split(actions, ",")})
	}
	began := time.Now().Add(-24 * time.Hour).Unix()
	head := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": s.chain})
	body := part(map[string]any{
		"iss": s.issuer, "sub": "a user", "aud": s.service, "exp": until.Unix(), "nbf": began, "iat": began,
		"jti": rand.Text(), "access": granted,
	})
	sum := sha256.Sum256([]byte(head + "." + body))
	a, b, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		panic(err) // of a test's own key
	}
	signature := append(a.FillBytes(make([]byte, 32)), b.FillBytes(make([]byte, 32))...) // RFC 7518, section 3.4
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func part(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a map of strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func cutLast(s, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(s, separator); i >= 0 {
		return s[:i], s[i+len(separator):], true
	}
	return s, "", false
}
