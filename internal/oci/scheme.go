package oci

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/fault"
)

// scheme is a prefix of references to what is not in a registry (containers-transports(5)).
type scheme struct {
	prefix string
	form   string // how such a reference is written
	path   bool   // a path follows the prefix
	stdin  bool   // which may be "-" for the standard input
	ref    bool   // and after which may come a colon, and what chooses one of several images
	// resolve returns the image that the rest of a reference names.
	resolve func(ctx context.Context, rest string, opts Options) (*Image, error)
}

func schemes() []scheme {
	return []scheme{
		{prefix: layoutPrefix, form: "oci:DIR[:TAG]", path: true, ref: true, resolve: resolveLayout},
		{prefix: ociArchivePrefix, form: "oci-archive:FILE[:TAG]", path: true, stdin: true, ref: true, resolve: resolveOCIArchive},
		{prefix: archivePrefix, form: "docker-archive:FILE[:REF]", path: true, stdin: true, ref: true, resolve: resolveArchive},
		{prefix: directoryPrefix, form: "dir:DIR", path: true, resolve: resolveDirectory},
		{prefix: tarPrefix, form: "tar:FILE", path: true, stdin: true, resolve: resolveTar},
		{prefix: daemonPrefix, form: "docker-daemon:NAME", resolve: resolveDaemon},
		{prefix: storagePrefix, resolve: refuseStorage},
	}
}

// schemeOf returns the scheme of a reference, and what follows the prefix. false stands for a registry.
func schemeOf(ref string) (t scheme, rest string, found bool) {
	for _, t := range schemes() {
		if rest, found := strings.CutPrefix(ref, t.prefix); found {
			return t, rest, true
		}
	}
	return scheme{}, ref, false
}

// refuseStorage refuses an image of podman's own storage, whose format is that of its driver.
func refuseStorage(context.Context, string, Options) (*Image, error) {
	err := fmt.Errorf("reading the reference: banger does not read %s", storagePrefix)
	return nil, fault.New(fault.Usage, err, "let podman read it: podman save NAME | banger image pull docker-archive:-")
}

// split splits what follows the prefix into a path and a reference. As with skopeo, a path that a reference may follow
// has no colon. An error is a fault.Usage.
func (t scheme) split(rest string) (path, ref string, err error) {
	path = rest
	if t.ref {
		path, ref, _ = strings.Cut(rest, ":")
	}
	if path == "" {
		err := fmt.Errorf("reading the reference: %q begins with no path", rest)
		return "", "", fault.New(fault.Usage, err, "write "+t.form)
	}
	return path, ref, nil
}

// join is the reverse of split, with the prefix and an absolute path: so the reference means the same in every directory.
func (t scheme) join(path, ref string) (string, error) {
	if !t.stdin || path != stdinPath {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", fmt.Errorf("making the path %q absolute: %w", path, err)
		}
		path = absolute
	}
	if ref == "" {
		return t.prefix + path, nil
	}
	return t.prefix + path + ":" + ref, nil
}

// located is a reference to a path.
type located struct {
	path string // as it was given
	ref  string // "" without one
	full string // the reference with an absolute path
}

// locate reads what follows the prefix of a scheme.
func locate(prefix, rest string) (located, error) {
	t, _, _ := schemeOf(prefix)
	path, ref, err := t.split(rest)
	if err != nil {
		return located{}, err
	}
	full, err := t.join(path, ref)
	return located{path, ref, full}, err
}

// ReadsStdin reports whether a reference names the standard input: "-" in the place of a FILE.
func ReadsStdin(ref string) bool {
	t, rest, found := schemeOf(ref)
	path, _, err := t.split(rest)
	return found && t.stdin && err == nil && path == stdinPath
}

// Pinned returns the reference with the digest of an image, where it is one of a registry: a tag may move on, and the digest
// of an index leaves open which of its images it was.
func Pinned(ref, digest string) string {
	if _, _, elsewhere := schemeOf(ref); elsewhere {
		return ref
	}
	name, _, _ := strings.Cut(ref, "@")
	return name + "@" + digest
}
