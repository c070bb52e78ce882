package oci

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"

	"github.com/banger-vm/banger/internal/fault"
)

// Prefixes of references to what is not in a registry, as skopeo has them (containers-transports(5)).
const (
	registryPrefix   = "docker://"
	layoutPrefix     = "oci:"
	ociArchivePrefix = "oci-archive:"
	archivePrefix    = "docker-archive:"
	directoryPrefix  = "dir:"
	daemonPrefix     = "docker-daemon:"
	storagePrefix    = "containers-storage:"
	tarPrefix        = "tar:" // banger's own
)

// parseNamed completes a name by docker's rules: "debian" becomes "docker.io/library/debian:latest". A name with a
// digest gets no tag. An error is a fault.Usage.
func parseNamed(name string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(name, registryPrefix))
	if err != nil {
		err = fmt.Errorf("reading the reference %q: %w", name, err)
		return nil, fault.New(fault.Usage, err, "write it as in debian:bookworm or ghcr.io/owner/image:tag")
	}
	return reference.TagNameOnly(named), nil
}

// FamiliarName returns docker's short form of a reference to a registry, or of what registries.conf has for it, with the
// tag ("debian:bookworm", "localhost:5000/debian:bookworm"), or with the digest if there is no tag. false says that ref
// names something that is not in a registry, or nothing at all.
func FamiliarName(ref string) (string, bool) {
	if _, _, elsewhere := schemeOf(ref); elsewhere {
		return "", false
	}
	named, err := userConfiguration().resolve(ref)
	if err != nil { // the pull says what is wrong with the configuration
		named, err = parseNamed(ref)
	}
	if err != nil {
		return "", false
	}
	return shortName(named), true
}

// shortName returns docker's familiar form. A tag beats a digest: it is what people call the image.
func shortName(named reference.Named) string {
	if tagged, ok := named.(reference.Tagged); ok {
		return reference.FamiliarName(named) + ":" + tagged.Tag()
	}
	return reference.FamiliarString(named)
}

// layoutName names an image of a layout. Layouts may be tagged with whole references.
func layoutName(dir, tag string) string {
	if strings.ContainsAny(tag, "/:") {
		if named, err := parseNamed(tag); err == nil {
			return shortName(named)
		}
	}
	if tag == "" {
		tag = "latest"
	}
	return fileName(dir) + ":" + nameChars(tag)
}

// fileName makes the name of a repository from that of a file or directory.
func fileName(path string) string {
	if path == stdinPath {
		return "stdin"
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		absolute = path
	}
	base := strings.ToLower(filepath.Base(absolute))
	for _, suffix := range []string{".gz", ".tgz", ".zst", ".tzst", ".bz2", ".tar", ".docker-save", ".oci-archive", ".rootfs"} {
		base = strings.TrimSuffix(base, suffix)
	}
	if base = strings.Trim(nameChars(base), "._-"); base == "" {
		return "image"
	}
	return base
}

// nameChars replaces what cannot be in a name or tag.
func nameChars(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, s)
}
