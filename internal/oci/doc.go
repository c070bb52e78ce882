// Package oci finds container images: it turns a reference into an Image, which is a configuration and a list of
// layers that can be opened. It reads manifests and configurations at once, and layers only when they are opened.
//
// An image comes from a registry, from a docker daemon, from an OCI image layout (a directory, or a tar of one), from the
// archive that `docker save` writes, from a directory of skopeo's, or is made of a root file system in a tar; WriteArchive
// writes archives. Manifests and configurations are checked against their digests here; layers are checked by whoever
// reads them, against Blob.Digest and Blob.DiffID.
//
// This is the only package that knows the libraries for registries: oras-go, which logs in to them, and podman's reader of
// registries.conf. References follow docker's rules (docs/oci.md); how registries are reached is in docs/registries.md.
package oci
