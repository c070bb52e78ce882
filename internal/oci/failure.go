package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/banger-vm/banger/internal/fault"
)

// registryError gives an error of a request its kind and a hint.
func registryError(named reference.Named, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || fault.KindOf(err) != fault.Failure {
		return err
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answerError(named, answer)
	}
	var request *url.Error
	if errors.As(err, &request) { // for a local registry, TLS and plain HTTP have failed: one of them will do
		err = request
	}
	host := reference.Domain(named)
	hint := fmt.Sprintf("check the name %q and the network; a registry that needs no network can be given as oci:DIR", host)
	if strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		hint = "registries without TLS are only used on localhost and in private networks given by their address"
	}
	return fault.New(fault.Unreachable, err, hint)
}

// answerError is the error for what a registry answered.
func answerError(named reference.Named, answer *transport.Error) error {
	host := reference.Domain(named)
	login := "docker login " + host
	if host == "docker.io" {
		login = "docker login"
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint := fmt.Sprintf("check the name; if the image is private, log in: %s (or podman login %s)", login, host)
		return fault.New(fault.Unreachable, answer, hint)
	case http.StatusNotFound:
		return fault.New(fault.NotFound, answer, notFoundHint(named, answer))
	case http.StatusTooManyRequests:
		return fault.New(fault.Unreachable, answer, "the registry limits your pulls: wait, or log in: "+login)
	}
	return fault.New(fault.Unreachable, answer, "the registry has a problem: try again later")
}

func notFoundHint(named reference.Named, answer *transport.Error) string {
	for _, d := range answer.Errors {
		if d.Code == transport.NameUnknownErrorCode {
			return fmt.Sprintf("%s has no repository %q: check the name", reference.Domain(named), reference.Path(named))
		}
	}
	return fmt.Sprintf("check the tag: is there such an image in %s?", reference.FamiliarName(named))
}
