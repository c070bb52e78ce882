package credential

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// tokenUser is the user name by which helpers say that the secret is an identity token (docker-credential-helpers).
const tokenUser = "<token>"

// helper is a program docker-credential-NAME on PATH.
type helper string

func (h helper) program() string { return "docker-credential-" + string(h) }

func (h helper) run() (client.ProgramFunc, error) {
	if h == "" || strings.ContainsAny(string(h), "/\x00") {
		return nil, fmt.Errorf("%q is not the name of a credential helper", string(h))
	}
	return client.NewShellProgramFunc(h.program()), nil
}

// get returns the registry's credentials, or none.
func (h helper) get(ctx context.Context, registry string) (Credential, error) {
	program, err := h.run()
	if err != nil {
		return Credential{}, err
	}
	for _, server := range serversOf(registry) {
		got, err := await(ctx, func() (*credentials.Credentials, error) { return client.Get(program, server) })
		if credentials.IsErrCredentialsNotFound(err) {
			continue
		}
		if err != nil {
			return Credential{}, fmt.Errorf("asking %s: %w", h.program(), err)
		}
		if got.Username == tokenUser {
			return Credential{IdentityToken: got.Secret}, nil
		}
		if got.Username != "" || got.Secret != "" {
			return Credential{Username: got.Username, Password: got.Secret}, nil
		}
	}
	return Credential{}, nil
}

func (h helper) store(ctx context.Context, registry string, c Credential) error {
	program, err := h.run()
	if err != nil {
		return err
	}
	stored := &credentials.Credentials{ServerURL: serverOf(registry), Username: c.Username, Secret: c.Password}
	if c.IdentityToken != "" {
		stored.Username, stored.Secret = tokenUser, c.IdentityToken
	}
	_, err = await(ctx, func() (struct{}, error) { return struct{}{}, client.Store(program, stored) })
	if err != nil {
		return fmt.Errorf("storing credentials by %s: %w", h.program(), withoutSecret(err, stored.Secret))
	}
	return nil
}

// withoutSecret guards against a helper that repeats what it was given.
func withoutSecret(err error, secret string) error {
	if secret != "" && strings.Contains(err.Error(), secret) {
		return errors.New("it failed, and its answer has the secret in it")
	}
	return err
}

// erase removes the registry's credentials and reports whether there were any.
func (h helper) erase(ctx context.Context, registry string) (bool, error) {
	if had, err := h.get(ctx, registry); err != nil || had.None() {
		return false, err
	}
	program, err := h.run()
	if err != nil {
		return false, err
	}
	for _, server := range serversOf(registry) {
		_, err := await(ctx, func() (struct{}, error) { return struct{}{}, client.Erase(program, server) })
		if err != nil && server == serverOf(registry) {
			return false, fmt.Errorf("removing credentials by %s: %w", h.program(), err)
		}
	}
	return true, nil
}

// await returns when what runs has ended, or ctx has. A helper that hangs is left to itself then.
func await[T any](ctx context.Context, run func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := run()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
