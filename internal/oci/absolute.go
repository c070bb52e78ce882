package oci

// Absolute returns the reference with an absolute path where it names a file or a directory, so that it means the same
// in every directory. Any other is returned as it is.
func Absolute(ref string) (string, error) {
	t, rest, found := schemeOf(ref)
	if !found || !t.path {
		return ref, nil
	}
	path, tag, err := t.split(rest)
	if err != nil {
		return ref, nil //nolint:nilerr // Resolve says what is wrong with it
	}
	return t.join(path, tag)
}
