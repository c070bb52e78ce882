package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/distribution/reference"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/oci/credential"
)

// Login is the result of logging in to a registry or out of it.
type Login struct {
	Registry string   `json:"registry"`           // HOST[:PORT], "docker.io" for Docker Hub
	Username string   `json:"username,omitempty"` // as whom
	Places   []string `json:"places"`             // the files and helpers that the credentials are in, or were removed from
	// Unchecked says that the registry has not asked who is there, so that the password may be wrong.
	Unchecked bool `json:"unchecked,omitempty"`
	// Remaining are the places where there are other credentials for the registry after logging out.
	Remaining []string `json:"remaining,omitempty"`
}

// CheckRegistry returns the HOST[:PORT] of the registry that a user means, "docker.io" for Docker Hub and for "".
func CheckRegistry(name string) (string, error) {
	if name == "" {
		name = "docker.io"
	}
	host, ok := credential.Registry(name)
	if ok {
		_, err := reference.ParseNormalizedNamed(host + "/x")
		ok = err == nil
	}
	if !ok {
		err := fmt.Errorf("%q is not the name of a registry", name)
		return "", fault.New(fault.Usage, err, "write it as in ghcr.io or localhost:5000")
	}
	return host, nil
}

// LogIn has the registry check a user and a password, and stores them where pulls find them if it accepts them.
func LogIn(ctx context.Context, registry, username, password string, access Access) (Login, error) {
	host, err := CheckRegistry(registry)
	if err != nil {
		return Login{}, err
	}
	if access, err = access.withDefaults(); err != nil {
		return Login{}, err
	}
	store := access.Credentials
	c := credential.Credential{Username: username, Password: password, Source: "this login"}
	access.Credentials = credential.Given(c)
	asked, err := askWhoIsThere(ctx, host, access)
	if err != nil {
		return Login{}, fmt.Errorf("logging in to %q: %w", host, err)
	}
	place, err := store.Save(ctx, host, c)
	if err != nil {
		return Login{}, fmt.Errorf("logging in to %q: %w", host, err)
	}
	return Login{Registry: host, Username: username, Places: []string{place}, Unchecked: !asked}, nil
}

// askWhoIsThere makes the request that a registry answers only to those whom it knows (distribution-spec, "Determining
// Support"), and reports whether it has asked for the credentials.
func askWhoIsThere(ctx context.Context, host string, access Access) (asked bool, err error) {
	if err := access.checkFiles(); err != nil {
		return false, err
	}
	insecure, err := access.Configuration.insecure(host)
	if err != nil {
		return false, err
	}
	named, err := reference.ParseNormalizedNamed(host + "/x")
	if err != nil {
		return false, err
	}
	if reference.Domain(named) != host { // whom the password is not for
		err := fmt.Errorf("%q is no registry in the name of an image: the images %s/… are on Docker Hub", host, host)
		return false, fault.New(fault.Usage, err, fmt.Sprintf("for a registry of that name write %s:443; for Docker Hub leave it out", host))
	}
	e := newEndpoint(place{named: named, insecure: insecure}, access)
	e.repository = ""
	defer func() { _ = e.Close() }()
	response, err := e.get(ctx, "", http.Header{}, http.StatusOK)
	if err != nil {
		return false, e.withoutRegistry(err)
	}
	_ = response.Body.Close()
	return e.asked, nil
}

// withoutRegistry says what a 404 for the registry itself means.
func (e *endpoint) withoutRegistry(err error) error {
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusNotFound {
		return fault.New(fault.NotFound, err, fmt.Sprintf("there is no registry at %s: check the name", e.host))
	}
	return err
}

// LogOut removes the credentials of a registry from where LogIn stores them.
func LogOut(ctx context.Context, registry string, access Access) (Login, error) {
	host, err := CheckRegistry(registry)
	if err != nil {
		return Login{}, err
	}
	if access, err = access.withDefaults(); err != nil {
		return Login{}, err
	}
	places, err := access.Credentials.Erase(ctx, host)
	if err != nil {
		return Login{}, fmt.Errorf("logging out of %q: %w", host, err)
	}
	remaining := access.Credentials.Remaining(ctx, host)
	if len(places) > 0 {
		return Login{Registry: host, Places: places, Remaining: remaining}, nil
	}
	err = fmt.Errorf("logging out of %q: nobody is logged in to it", host)
	hint := "`banger login` stores credentials in " + access.Credentials.Target()
	if len(remaining) > 0 {
		err = fmt.Errorf("logging out of %q: its credentials are not where `banger login` stores them", host)
		hint = fmt.Sprintf("remove them with the tool that has stored them: %q", remaining)
	}
	return Login{}, fault.New(fault.NotFound, err, hint)
}
