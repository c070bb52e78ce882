package oci

import "strings"

// Absolute returns the reference with an absolute path where it names a layout or an archive, so that it means the same
// in every directory. Any other is returned as it is.
func Absolute(ref string) (string, error) {
	for _, prefix := range []string{layoutPrefix, archivePrefix} {
		rest, found := strings.CutPrefix(ref, prefix)
		if !found || rest == "" || rest[0] == ':' {
			continue
		}
		path, tag, _ := strings.Cut(rest, ":")
		return pathReference(prefix, path, tag)
	}
	return ref, nil
}
