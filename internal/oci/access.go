package oci

import (
	"os"
	"time"

	"github.com/banger-vm/banger/internal/oci/credential"
)

// Access is how registries are reached, and as whom. The zero value does as the user's and the host's configuration
// says: registries.conf, the credentials and the certificates of docker and podman, and the environment's proxies.
type Access struct {
	// Insecure has TLS certificates go unchecked, and plain HTTP used where there is no TLS.
	Insecure bool
	// CAFile is a file of PEM certificates of CAs to trust besides the host's, or "".
	CAFile string
	// CertDir is a directory like one of certs.d (NAME.crt, NAME.cert with NAME.key), in their place; or "".
	CertDir string
	// Report is told what is done about a registry that cannot be used at once: another one asked, a wait. nil is allowed.
	Report func(string)

	// What follows is for tests, which keep away from the user's configuration and have less time.

	Configuration *Configuration    // nil is registries.conf of the user and the host
	Credentials   *credential.Store // nil are the user's
	CertsD        []string          // the directories of a directory per registry; nil are docker's and podman's
	Limits        Limits
}

// Limits are the limits of patience with a registry. Zero values are the defaults.
type Limits struct {
	Connect time.Duration // for connecting, and again for TLS: 30 s
	Silence time.Duration // how long nothing may arrive, before an answer or within it: a minute
	Pause   time.Duration // before the first repetition; each further one waits twice as long: 250 ms
	Repeat  int           // how often a request is repeated, and a download taken up without a byte: 5 times
	Wait    time.Duration // the longest wait that a registry may ask for (Retry-After): 2 minutes
}

func (l Limits) withDefaults() Limits {
	for limit, value := range map[*time.Duration]time.Duration{
		&l.Connect: 30 * time.Second, &l.Silence: time.Minute, &l.Pause: 250 * time.Millisecond, &l.Wait: 2 * time.Minute,
	} {
		if *limit == 0 {
			*limit = value
		}
	}
	if l.Repeat == 0 {
		l.Repeat = 5
	}
	return l
}

// ofMirror is the patience with a mirror: there is somebody else to ask.
func (l Limits) ofMirror() Limits {
	l.Connect, l.Wait, l.Repeat = min(l.Connect, 10*time.Second), min(l.Wait, 5*time.Second), min(l.Repeat, 1)
	return l
}

// withDefaults reads the configuration.
func (a Access) withDefaults() (Access, error) {
	a.Limits = a.Limits.withDefaults()
	if a.Report == nil {
		a.Report = func(string) {}
	}
	if a.Configuration == nil {
		a.Configuration = userConfiguration()
	}
	if a.CertsD == nil {
		a.CertsD = certificateDirs(os.Getenv)
	}
	if a.Credentials == nil {
		helpers, err := a.Configuration.helpers()
		if err != nil {
			return Access{}, err
		}
		a.Credentials = credential.Open(os.Getenv, os.Getuid(), helpers)
	}
	return a, nil
}
