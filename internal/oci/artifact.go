package oci

import (
	"fmt"
	"slices"
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
		{"application/vnd.acme.rocket.", anyArtifact},
		{"application/vnd.oci.artifact.manifest.", anyArtifact},
		{"application/vnd.cncf.oras.artifact.manifest.", anyArtifact},
		{"application/vnd.unknown.", anyArtifact},
		{emptyType, anyArtifact},
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

// anyArtifact is what something is called whose types only say that it is no image.
const anyArtifact = "an OCI artifact"

// notImage is the error for an artifact that is no container image. Its types are the artifactType and that of the
// configuration; those of the layers are asked as well.
func notImage(types, layers []string) error {
	err := fmt.Errorf("reading the manifest: this is not a container image but %s", nameArtifact(types, layers))
	return fault.New(fault.Unsupported, err, "check that the reference names a container image")
}

func nameArtifact(types, layers []string) string {
	for _, t := range slices.Concat(types, layers) {
		if kind := artifactKind(t); kind != "" && kind != anyArtifact {
			return kind + " (" + printable(t) + ")"
		}
	}
	for _, t := range types {
		if t != "" && artifactKind(t) == "" {
			return "an artifact of the type " + printable(t)
		}
	}
	for _, t := range types {
		if t != "" {
			return anyArtifact + " (" + printable(t) + ")"
		}
	}
	return "something of no known type"
}

// checkIsImage refuses Helm charts, signatures and other artifacts. Signatures and attestations have the configuration of
// an image; only their layers say what they are.
func (d *document) checkIsImage() error {
	types := []string{d.ArtifactType, d.Config.MediaType}
	var layers []string
	for _, layer := range d.Layers {
		layers = append(layers, layer.MediaType)
	}
	isArtifact := func(mediaType string) bool { return artifactKind(mediaType) != "" }
	if !slices.Contains(d.configTypes(), d.Config.MediaType) || slices.ContainsFunc(slices.Concat(types, layers), isArtifact) {
		return notImage(types, layers)
	}
	return nil
}

// configTypes are the media types that the configuration of an image has in such a manifest. Registries have changed them
// in docker's own manifests (distribution/distribution, issue 1621), where docker takes these for images as well.
func (d *document) configTypes() []string {
	types := []string{ocispec.MediaTypeImageConfig, dockerConfig}
	if d.MediaType == dockerManifest {
		types = append(types, "application/octet-stream", "application/json", "text/html", "")
	}
	return types
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
		err := fmt.Errorf("it is encrypted (%s)", printable(d.MediaType))
		return fault.New(fault.Unsupported, err, "decrypt the image with skopeo copy --decryption-key")
	case !foreign && len(d.URLs) == 0:
		return nil
	case len(d.URLs) == 0:
		err := fmt.Errorf("it is foreign: its owner does not let registries distribute it (%s)", printable(d.MediaType))
		return fault.New(fault.Unsupported, err, "banger does not fetch such layers; use an image without them")
	}
	err := fmt.Errorf("it is foreign: its owner distributes it alone, at %s", printable(strings.Join(d.URLs, ", ")))
	return fault.New(fault.Unsupported, err, "banger does not fetch such layers; use an image without them")
}
