package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/banger-vm/banger/internal/fault"
	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/lock"
)

// The files of an Identity.
const (
	keyFile        = "host_ed25519_key"
	knownHostsFile = "known_hosts"
	lockFile       = ".lock"
)

// Identity is how the server proves to clients who it is: a host key, the same for every VM of one home, as SSH ends in
// processes of its owner and never in the VM.
type Identity struct {
	HostKey    ssh.Signer
	KnownHosts string // path of a file that names the key to OpenSSH (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT")
}

// LoadIdentity reads the identity from a directory, and makes what is missing; the directory too. Processes that do so at
// the same time get the same. pattern is the host names that known_hosts is for. A key that cannot be read is a fault: a new
// one would be taken by clients for an attack.
func LoadIdentity(ctx context.Context, dir, pattern string) (Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("making the directory of the SSH host key: %w", err)
	}
	held, err := lock.Acquire(ctx, filepath.Join(dir, lockFile))
	if err != nil {
		return Identity{}, err
	}
	defer held.Release()
	key, err := loadKey(filepath.Join(dir, keyFile))
	if err != nil {
		return Identity{}, err
	}
	known := filepath.Join(dir, knownHostsFile)
	line := append([]byte(pattern+" "), ssh.MarshalAuthorizedKey(key.PublicKey())...)
	if have, err := os.ReadFile(known); err != nil || !bytes.Equal(have, line) {
		if err := publish(known, line); err != nil {
			return Identity{}, err
		}
	}
	return Identity{HostKey: key, KnownHosts: known}, nil
}

// loadKey reads the key, or makes one.
func loadKey(path string) (ssh.Signer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the SSH host key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		err = fmt.Errorf("reading the SSH host key %q: %w", path, err)
		return nil, fault.New(fault.Corrupt, err, "remove it, and the next connection makes another")
	}
	return key, nil
}

func makeKey(path string) (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an SSH host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "banger")
	if err != nil {
		return nil, fmt.Errorf("making an SSH host key: %w", err)
	}
	if err := publish(path, pem.EncodeToMemory(block)); err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

// publish replaces a file, which is its owner's alone, so that others see the old one or all of the new one.
func publish(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %q: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("publishing %q: %w", path, err)
	}
	return fsync.Path(filepath.Dir(path))
}
