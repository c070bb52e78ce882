package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/banger-vm/banger/internal/fault"
)

// When a VM's image is pulled.
const (
	PullMissing = "missing" // if it is not here
	PullAlways  = "always"
	PullNever   = "never"
)

// DefaultVMOptions returns what a VM is made of where nobody says otherwise.
func DefaultVMOptions() VMOptions {
	return VMOptions{
		CPUs: 2, Memory: 512 * mib, Pull: PullMissing, Network: NetworkUser, Init: InitAuto, Timeout: 2 * time.Minute,
	}
}

// Check refuses, as a fault.Usage, options that cannot be right whatever the image is.
func (o VMOptions) Check() error {
	refuse := func(format string, value any, hint string) error {
		return fault.New(fault.Usage, fmt.Errorf(format, value), hint)
	}
	switch {
	case o.Network != NetworkUser && o.Network != NetworkNone:
		return refuse("--network %q is not known", o.Network, "pass user or none")
	case o.Pull != PullMissing && o.Pull != PullAlways && o.Pull != PullNever:
		return refuse("--pull %q is not known", o.Pull, "pass missing, always or never")
	case o.CPUs < 1:
		return refuse("--cpus %d is too few", o.CPUs, "pass 1 or more")
	case o.Memory < MinMemory:
		least := fmt.Sprintf("pass %dMiB or more", MinMemory/mib)
		return refuse("--memory %s is too little to boot", units.BytesSize(float64(o.Memory)), least)
	case o.Timeout <= 0:
		return refuse("--boot-timeout %v is no time", o.Timeout, "pass a duration such as 2m")
	case o.Hostname != "" && !validHostname(o.Hostname):
		return refuse("--hostname %q is not a host name", o.Hostname, "use up to 64 letters, digits, - and .")
	case !validVMName(o.Name):
		return refuse("--name %q is not a host name", o.Name, "use up to 63 of a-z, 0-9 and -")
	}
	return nil
}

// validVMName accepts what is both a file name and a host name (RFC 1123, section 2.1), and "".
func validVMName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(name)-1) {
			return false
		}
	}
	return len(name) <= 63
}

// validHostname accepts names with dots (RFC 1123, section 2.1) of up to 64 bytes, which is what the kernel takes.
func validHostname(name string) bool {
	// Not strings.ToLower, which makes ASCII letters of others, too.
	lower := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r - 'A' + 'a'
		}
		return r
	}, name)
	for label := range strings.SplitSeq(lower, ".") {
		if label == "" || !validVMName(label) {
			return false
		}
	}
	return len(name) <= 64
}
