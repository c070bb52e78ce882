// Package credential finds, stores and removes the credentials that registries are logged in to with, in the places
// where docker and podman have them: docker's config.json, podman's auth.json (containers-auth.json(5)), and the
// credential helpers that these files and registries.conf name.
package credential

import (
	"fmt"
	"strings"
)

// Credential is what a registry knows its user by. The zero value is nobody's.
type Credential struct {
	Username string
	Password string
	// IdentityToken is what a token server gives tokens for, in the place of a password (OAuth 2.0's refresh token).
	IdentityToken string
	// RegistryToken is a Bearer token for the registry itself.
	RegistryToken string
	// Source is the file or the helper that it came from, in words.
	Source string
}

// None reports whether there is nothing to log in with.
func (c Credential) None() bool {
	return c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

// String names the user and the source, and no secret: it is what %v and %+v print.
func (c Credential) String() string {
	switch {
	case c.None():
		return "no credentials"
	case c.Username == "":
		return "the token of " + c.Source
	}
	return fmt.Sprintf("user %q of %s", c.Username, c.Source)
}

// GoString is String, so that %#v shows no secret either.
func (c Credential) GoString() string { return c.String() }

// hub is the registry of names without a host, as references have it.
const hub = "docker.io"

// hubKeys are what Docker Hub is called where credentials are, the name first that docker itself uses
// (docker/cli, cli/registry, IndexServer).
func hubKeys() []string {
	return []string{"https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"}
}

// Registry returns the host[:port] that a user means by the name of a registry, in any of the forms that docker login
// takes: "docker.io" for Docker Hub. false says that it is none.
func Registry(name string) (string, bool) {
	host := plainHost(name)
	if host == "" || strings.ContainsAny(host, " \t\n@?#") {
		return "", false
	}
	rest := strings.TrimSuffix(strings.TrimPrefix(withoutScheme(name), host), "/")
	if rest != "" && rest != "/v1" && rest != "/v2" {
		return "", false
	}
	return canonical(host), true
}

func withoutScheme(key string) string {
	return strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
}

func plainHost(key string) string {
	host, _, _ := strings.Cut(withoutScheme(key), "/")
	return host
}

// canonical gives Docker Hub its one name.
func canonical(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return hub
	}
	return host
}

// canonicalKey returns the key of a file as HOST[:PORT][/PATH]. A key with a scheme, which docker writes for old
// registries, counts for its host (containers-auth.json(5)).
func canonicalKey(key string) string {
	if withoutScheme(key) != key {
		return canonical(plainHost(key))
	}
	host, path, found := strings.Cut(key, "/")
	if !found {
		return canonical(host)
	}
	return canonical(host) + "/" + path
}

// keysOf are the keys that may hold credentials for a repository, the most specific first.
func keysOf(registry, repository string) []string {
	var keys []string
	for path := repository; path != ""; {
		keys = append(keys, registry+"/"+path)
		cut := strings.LastIndexByte(path, '/')
		path = path[:max(cut, 0)]
	}
	return append(keys, registry)
}

// serverOf is what helpers are asked for, and what docker writes into files.
func serverOf(registry string) string {
	if registry == hub {
		return hubKeys()[0]
	}
	return registry
}

// serversOf are all names under which a helper may have the credentials of a registry.
func serversOf(registry string) []string {
	if registry == hub {
		return hubKeys()
	}
	return []string{registry}
}
