package oci

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	podman "go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"

	"github.com/banger-vm/banger/internal/fault"
)

// Configuration is registries.conf (containers-registries.conf(5)), with its drop-in directories, as podman reads it.
type Configuration struct {
	system *types.SystemContext // nil is the user's and the host's
}

func userConfiguration() *Configuration {
	sysregistriesv2.InvalidateCache() // a daemon sees what has been edited
	return &Configuration{}
}

// NewConfiguration returns the configuration of one file, without any other of the host. A file that does not exist is
// an error of whoever uses the configuration.
func NewConfiguration(file string) *Configuration {
	return &Configuration{system: &types.SystemContext{
		SystemRegistriesConfPath: file, SystemRegistriesConfDirPath: file + ".d", UserShortNameAliasConfPath: file + ".aliases",
	}}
}

// configurationError is that of a file that cannot be read, whose path the library says.
func configurationError(err error) error {
	err = fmt.Errorf("reading the configuration of registries: %w", err)
	return fault.New(fault.Usage, err, "`man 5 containers-registries.conf` has the file's form")
}

// helpers are the credential helpers, see credential.Open.
func (c *Configuration) helpers() ([]string, error) {
	helpers, err := sysregistriesv2.CredentialHelpers(c.system)
	if err != nil {
		return nil, configurationError(err)
	}
	return helpers, nil
}

// place is where a repository may be: in its registry, or in a mirror of that.
type place struct {
	named    reference.Named // what to ask for there
	insecure bool
	proxied  string // the registry that a mirror of several ones is asked for ("ns" of the distribution-spec), or ""
}

// places returns where to look for an image: its mirrors, and then its registry.
func (c *Configuration) places(named reference.Named) ([]place, error) {
	whole, err := podman.ParseNamed(named.String())
	if err != nil {
		return nil, fmt.Errorf("reading the reference %q: %w", named, err)
	}
	registry, err := sysregistriesv2.FindRegistry(c.system, whole.Name())
	if err != nil {
		return nil, configurationError(err)
	}
	if registry == nil {
		return []place{{named: named}}, nil
	}
	if registry.Blocked {
		err := fmt.Errorf("registries.conf blocks what begins with %q", registry.Prefix)
		hint := "blocked = true is in " + sysregistriesv2.ConfigurationSourceDescription(c.system)
		return nil, fault.New(fault.Unreachable, err, hint)
	}
	// A library that pulls both a tag and a digest would ask for the tag; the digest decides.
	sources, err := registry.PullSourcesFromReference(withoutTag(whole))
	if err != nil {
		return nil, configurationError(err)
	}
	var places []place
	for _, s := range sources {
		rewritten, err := reference.ParseNormalizedNamed(s.Reference.String())
		if err != nil {
			return nil, configurationError(err)
		}
		places = append(places, place{rewritten, s.Endpoint.Insecure, s.Endpoint.NamespaceProxy})
	}
	return places, nil
}

// withoutTag drops the tag of a reference that has a digest, too.
func withoutTag(named podman.Named) podman.Named {
	digested, ok := named.(podman.Digested)
	if !ok {
		return named
	}
	if exact, err := podman.WithDigest(podman.TrimNamed(named), digested.Digest()); err == nil {
		return exact
	}
	return named
}

// insecure reports whether registries.conf allows a registry to go without verified TLS.
func (c *Configuration) insecure(host string) (bool, error) {
	registry, err := sysregistriesv2.FindRegistry(c.system, host)
	if err != nil {
		return false, configurationError(err)
	}
	return registry != nil && registry.Insecure, nil
}

// alias returns what registries.conf says that a name without a registry stands for, with the name's tag and digest;
// or the name itself. The table that distributions install is not asked: its names are not Docker's.
func (c *Configuration) alias(name string) (string, error) {
	bare, tail := name, ""
	if at := strings.IndexAny(name, ":@"); at >= 0 {
		bare, tail = name[:at], name[at:]
	}
	host, _, _ := strings.Cut(bare, "/")
	if bare == "" || strings.Contains(host, ".") || host == "localhost" || strings.Contains(tail, "/") {
		return name, nil
	}
	found, origin, err := sysregistriesv2.ResolveShortNameAlias(c.system, bare)
	if err != nil {
		if _, parse := podman.Parse(bare); parse != nil {
			return name, nil // no name at all, which is said better elsewhere
		}
		return "", configurationError(err)
	}
	if found == nil || strings.HasSuffix(filepath.Base(origin), distributionTable) {
		return name, nil
	}
	return found.Name() + tail, nil
}

// distributionTable ends the name of the file of aliases that distributions install (containers/shortnames):
// 000-shortnames.conf, or shortnames.conf.
const distributionTable = "shortnames.conf"

// resolve returns the reference that a user means by a name: an alias of registries.conf, or else Docker's rules.
func (c *Configuration) resolve(name string) (reference.Named, error) {
	whole, err := c.alias(strings.TrimPrefix(name, registryPrefix))
	if err != nil {
		return nil, err
	}
	return parseNamed(whole)
}
