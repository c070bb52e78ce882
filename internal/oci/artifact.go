package oci

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/banger-vm/banger/internal/fault"
)

// artifactKinds are what people push to registries besides images, by the beginnings of the media types of their
// configurations, layers or artifactType.
func artifactKinds() []struct{ mediaType, what string } {
	return []struct{ mediaType, what string }{
		{"application/vnd.cncf.helm.", "a Helm chart"},
		{"application/vnd.dev.cosign.simplesigning.", "a cosign signature"},
		{"application/vnd.dev.cosign.artifact.sig.", "a cosign signature"},
		{"application/vnd.dev.cosign.artifact.sbom.", "an SBOM"},
		{"application/vnd.dev.cosign.", "an artifact of cosign"},
		{"application/vnd.dev.sigstore.bundle", "a sigstore signature or attestation"},
		{"application/vnd.cncf.notary.signature", "a Notary signature"},
		{"application/vnd.in-toto", "an attestation"},
		{"application/vnd.dsse.envelope.", "an attestation"},
		{"application/spdx+json", "an SBOM"},
		{"text/spdx", "an SBOM"},
		{"application/vnd.cyclonedx", "an SBOM"},
		{"application/vnd.syft", "an SBOM"},
		{"application/sarif+json", "a report of vulnerabilities"},
		{"application/vnd.wasm.", "a WebAssembly module"},
		{"application/vnd.module.wasm.", "a WebAssembly module"},
		{"application/vnd.bytecodealliance.wasm.", "a WebAssembly module"},
		{"application/wasm", "a WebAssembly module"},
		{"application/vnd.cncf.openpolicyagent.", "an OPA policy"},
		{"application/vnd.cncf.flux.", "a Flux artifact"},
		{"application/vnd.cncf.model.", "an AI model"},
		{"application/vnd.ollama.", "an AI model of Ollama"},
		{"application/vnd.docker.ai.", "an AI model of Docker"},
		{"application/vnd.docker.plugin.", "a plugin of docker"},
		{"application/vnd.docker.compose.", "a Compose project"},
		{"application/vnd.docker.app.", "a Docker App"},
		{"application/vnd.devcontainers", "a feature of dev containers"},
		{"application/vnd.acme.rocket.", "an OCI artifact"},
		{"application/vnd.oci.artifact.manifest.", "an OCI artifact"},
		{"application/vnd.cncf.oras.artifact.manifest.", "an OCI artifact"},
		{"application/vnd.unknown.", "an OCI artifact"},
		{emptyType, "an OCI artifact"},
	}
}

// emptyType is the configuration of an artifact that needs none (OCI image-spec, manifest.md, "Guidelines for Artifact
// Usage").
const emptyType = "application/vnd.oci.empty.v1+json"

// artifactKind says in words what has a media type; "" if nobody knows.
func artifactKind(mediaType string) string {
	for _, kind := range artifactKinds() {
		if strings.HasPrefix(mediaType, kind.mediaType) {
			return kind.what
		}
	}
	return ""
}

// notImage is the error for an artifact that is no container image. The first of the media types that says something is
// in it.
func notImage(mediaTypes ...string) error {
	what, mediaType := "", ""
	for _, t := range mediaTypes {
		kind := artifactKind(t)
		if t != "" && mediaType == "" || kind != "" && (what == "" || mediaType == emptyType) {
			what, mediaType = kind, t
		}
	}
	switch {
	case mediaType == "":
		what = "something of no known type"
	case what == "":
		what = "an artifact of the type " + mediaType
	default:
		what += " (" + mediaType + ")"
	}
	err := fmt.Errorf("reading the manifest: this is not a container image but %s", what)
	return fault.New(fault.Unsupported, err, "check that the reference names a container image")
}

// checkIsImage refuses Helm charts, signatures and other artifacts. Signatures and attestations have the configuration of
// an image; only their layers say what they are.
func (d *document) checkIsImage() error {
	types := []string{d.ArtifactType, d.Config.MediaType}
	for _, layer := range d.Layers {
		types = append(types, layer.MediaType)
	}
	if t := d.Config.MediaType; t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return notImage(types...)
	}
	for _, t := range types {
		if artifactKind(t) != "" {
			return notImage(t)
		}
	}
	return nil
}

// Docker's media types of layers that are not to be had from registries (distribution, "Image Manifest Version 2, Schema
// 2"); OCI's are application/vnd.oci.image.layer.nondistributable.v1.tar with suffixes.
const (
	dockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	ociForeignLayer    = "application/vnd.oci.image.layer.nondistributable."
)

// encryptedSuffix ends the media types of layers that are encrypted (containers/ocicrypt).
const encryptedSuffix = "+encrypted"

// checkForeign refuses a layer that only its owner distributes, and one that nobody here can read.
func checkForeign(d ocispec.Descriptor) error {
	foreign := strings.HasPrefix(d.MediaType, dockerForeignLayer) || strings.HasPrefix(d.MediaType, ociForeignLayer)
	switch {
	case strings.HasSuffix(d.MediaType, encryptedSuffix):
		err := fmt.Errorf("it is encrypted (%s)", d.MediaType)
		return fault.New(fault.Unsupported, err, "decrypt the image with skopeo copy --decryption-key")
	case !foreign && len(d.URLs) == 0:
		return nil
	case len(d.URLs) == 0:
		err := fmt.Errorf("it is foreign: its owner does not let registries distribute it (%s)", d.MediaType)
		return fault.New(fault.Unsupported, err, "banger does not fetch such layers; use an image without them")
	}
	err := fmt.Errorf("it is foreign: its owner distributes it alone, at %s", strings.Join(d.URLs, ", "))
	return fault.New(fault.Unsupported, err, "banger does not fetch such layers; use an image without them")
}
