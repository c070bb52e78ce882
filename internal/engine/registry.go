package engine

import (
	"context"
	"errors"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/imagepull"
	"github.com/banger-vm/banger/internal/oci"
)

// RegistryOptions say how a registry is reached, in the place of what registries.conf and certs.d say. The paths are
// absolute where a daemon reads them.
type RegistryOptions struct {
	Insecure bool   `json:"insecure,omitempty"` // TLS goes unchecked, and where there is none, plain HTTP will do
	CAFile   string `json:"tls_ca,omitempty"`   // certificates of CAs to trust besides the host's, in PEM
	CertDir  string `json:"cert_dir,omitempty"` // directory with *.crt of CAs, and *.cert with *.key of clients
}

func (o RegistryOptions) access(report func(string)) oci.Access {
	return oci.Access{Insecure: o.Insecure, CAFile: o.CAFile, CertDir: o.CertDir, Report: report}
}

// reportRegistry reports what is done about a registry that cannot be used at once.
func (e *Engine) reportRegistry(text string) {
	e.config.Report(imagepull.Step{Name: "Registry", Detail: text, Done: true})
}

// LoginOptions are who logs in to which registry.
type LoginOptions struct {
	Registry string // HOST[:PORT]; "" is Docker Hub
	Username string
	Password string
	RegistryOptions
}

// Login has a registry check a user and a password, and stores them with docker's or podman's credentials if it accepts
// them. It needs no engine: credentials are the user's, whoever pulls.
func Login(ctx context.Context, options LoginOptions) (oci.Login, error) {
	if options.Username == "" || options.Password == "" {
		err := errors.New("logging in: a user name and a password are needed")
		return oci.Login{}, fault.New(fault.Usage, err, "")
	}
	return oci.LogIn(ctx, options.Registry, options.Username, options.Password, options.access(nil))
}

// Logout removes the credentials of a registry, "" for Docker Hub's.
func Logout(ctx context.Context, registry string) (oci.Login, error) {
	return oci.LogOut(ctx, registry, oci.Access{})
}
