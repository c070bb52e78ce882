package oci

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/registrytest"
)

// TestLogIn: a registry is asked before anything is stored, and pulls find what is stored.
func TestLogIn(t *testing.T) {
	origin := pushImage(t)
	users := map[string]string{"me": "secret"}
	s := registrytest.NewTokenServer(t, users, nil)
	basic := registrytest.Start(t, registrytest.Options{Users: users, Storage: origin.Storage})
	token := registrytest.Start(t, registrytest.Options{Tokens: s, Storage: origin.Storage})
	for _, test := range []struct {
		name, registry, user, password string
		unchecked                      bool
		kind                           fault.Kind
		words                          string
	}{
		{"basic", basic.Address, "me", "secret", false, 0, ""},
		{"basic, as an address", "http://" + basic.Address + "/", "me", "secret", false, 0, ""},
		{"basic, wrong", basic.Address, "me", "guess", false, fault.Unreachable, `401|asked as user "me" of this login`},
		{"token", token.Address, "me", "secret", false, 0, ""},
		{"token, wrong", token.Address, "me", "guess", false, fault.Unreachable, `incorrect username or password|asked as user "me" of this login`},
		{"nobody is asked", origin.Address, "me", "secret", true, 0, ""},
		{"no registry", strings.TrimPrefix(s.URL, "http://"), "me", "guess", false, fault.Unreachable, "401"},
		{"nobody there", closedPort(t), "me", "guess", false, fault.Unreachable, "refused"},
		{"no name", "a.example/team", "me", "guess", false, fault.Usage, "not the name of a registry"},
		{"Docker Hub's user", "team", "me", "guess", false, fault.Usage, "are on Docker Hub|team:443"},
	} {
		t.Run(test.name, func(t *testing.T) {
			access := alone(t)
			access.Credentials = fromFile(filepath.Join(t.TempDir(), "new", "auth.json"))
			got, err := LogIn(t.Context(), test.registry, test.user, test.password, access)
			if test.kind != 0 {
				checkFault(t, err, test.kind, strings.Split(test.words, "|")...)
				if err != nil && strings.Contains(err.Error(), "guess") {
					t.Errorf("error %q: want no password in it", err)
				}
				if found := access.Credentials.Find(t.Context(), test.registry, ""); !found.None() {
					t.Errorf("a refused login was stored: %v", found.Credential)
				}
				return
			}
			if err != nil || got.Unchecked != test.unchecked || got.Username != "me" || len(got.Places) != 1 {
				t.Fatalf("LogIn: got %+v and the error %v", got, err)
			}
			checkPull(t, got.Registry+tool, access, 0, "")
			out, err := LogOut(t.Context(), test.registry, access)
			if err != nil || len(out.Places) != 1 || out.Places[0] != got.Places[0] {
				t.Errorf("LogOut: got %+v and the error %v, want them removed from %q", out, err, got.Places)
			}
			_, err = LogOut(t.Context(), test.registry, access)
			checkFault(t, err, fault.NotFound, "nobody is logged in", got.Places[0])
		})
	}
}

// TestLogInByTLS: the certificates of a login are those of a pull.
func TestLogInByTLS(t *testing.T) {
	ca := registrytest.NewAuthority(t)
	users := map[string]string{"me": "secret"}
	r := registrytest.Start(t, registrytest.Options{Users: users, Authority: ca})
	access := alone(t)
	access.Credentials = fromFile(filepath.Join(t.TempDir(), "auth.json"))
	_, err := LogIn(t.Context(), r.Address, "me", "secret", access)
	checkFault(t, err, fault.Unreachable, "unknown authority", "--tls-ca")
	access.CAFile = ca.File
	if _, err := LogIn(t.Context(), r.Address, "me", "secret", access); err != nil {
		t.Errorf("with the CA's certificate: %v", err)
	}

	// A token server with a certificate of the same CA, on another port.
	s := registrytest.NewTokenServer(t, users, ca)
	r = registrytest.Start(t, registrytest.Options{Tokens: s, Authority: ca})
	if _, err := LogIn(t.Context(), r.Address, "me", "secret", access); err != nil {
		t.Errorf("with a token server: %v", err)
	}
	access.CAFile, access.Insecure = "", true
	if _, err := LogIn(t.Context(), r.Address, "me", "secret", access); err != nil {
		t.Errorf("without checking certificates: %v", err)
	}
}
