package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/fsync"
	"github.com/banger-vm/banger/internal/symlink"
)

// contents are the parts of a config.json or auth.json that credentials are in (docker/cli, cli/config/configfile;
// containers-auth.json(5)).
type contents struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"` // a registry's helper
	CredsStore  string            `json:"credsStore"`  // the helper of every other registry
}

// entry is what a file has for a registry.
type entry struct {
	Auth          string `json:"auth,omitempty"` // base64 of USER:PASSWORD
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

func (e entry) credential() (Credential, error) {
	c := Credential{
		Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}
	if e.Auth == "" {
		return c, nil
	}
	decoded, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil { // its text would quote the secret
		return Credential{}, errors.New("the field auth is not base64")
	}
	user, password, found := strings.Cut(string(decoded), ":")
	if !found {
		return Credential{}, errors.New("the field auth is not USER:PASSWORD")
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00")
	return c, nil
}

// newEntry is entry's inverse.
func newEntry(c Credential) entry {
	if c.IdentityToken != "" {
		user := base64.StdEncoding.EncodeToString([]byte(c.Username + ":"))
		return entry{Auth: user, IdentityToken: c.IdentityToken}
	}
	return entry{Auth: base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))}
}

// helperFor returns the helper that the file has a registry's credentials in, or "".
func (c *contents) helperFor(registry string) string {
	for key, helper := range c.CredHelpers {
		if canonicalKey(key) == registry {
			return helper
		}
	}
	return c.CredsStore
}

// has reports whether the file has an entry of the registry as a whole.
func (c *contents) has(registry string) bool {
	for key := range c.Auths {
		if canonicalKey(key) == registry {
			return true
		}
	}
	return false
}

// find returns the entry of the file that fits a repository best.
func (c *contents) find(registry, repository string) (Credential, error) {
	for _, want := range keysOf(registry, repository) {
		for _, key := range slices.Sorted(maps.Keys(c.Auths)) {
			if canonicalKey(key) != want {
				continue
			}
			if found, err := c.Auths[key].credential(); err != nil || !found.None() {
				return found, err
			}
		}
	}
	return Credential{}, nil
}

// readContents reads a file; one that does not exist has nothing.
func readContents(path string) (*contents, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &contents{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	return parseContents(path, data)
}

func parseContents(path string, data []byte) (*contents, error) {
	var c contents
	if len(strings.TrimSpace(string(data))) == 0 {
		return &c, nil
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("reading credentials from %q: %w", path, err)
	}
	return &c, nil
}

// edit changes the entries of a file, with everything else in it as it was, and replaces the file at once. The file is
// made if it does not exist. It is the user's alone afterwards.
func edit(path string, change func(auths map[string]json.RawMessage) error) error {
	var whole, auths map[string]json.RawMessage
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading credentials: %w", err)
	}
	if len(strings.TrimSpace(string(data))) > 0 {
		if err := json.Unmarshal(data, &whole); err != nil {
			return fmt.Errorf("reading credentials from %q: %w", path, err)
		}
	}
	if raw := whole["auths"]; raw != nil {
		if err := json.Unmarshal(raw, &auths); err != nil {
			return fmt.Errorf("reading credentials from %q: %w", path, err)
		}
	}
	if whole == nil { // also of null, as Go writes what it has not got
		whole = make(map[string]json.RawMessage)
	}
	if auths == nil {
		auths = make(map[string]json.RawMessage)
	}
	if err := change(auths); err != nil {
		return err
	}
	if whole["auths"], err = json.Marshal(auths); err != nil {
		return fmt.Errorf("writing credentials to %q: %w", path, err)
	}
	if data, err = json.MarshalIndent(whole, "", "\t"); err != nil {
		return fmt.Errorf("writing credentials to %q: %w", path, err)
	}
	if err := replace(path, append(data, '\n')); err != nil {
		return fmt.Errorf("writing credentials to %q: %w", path, err)
	}
	return nil
}

// replace writes a file beside the one at path, which only its owner can read, and renames it. Where path is a symbolic
// link, as with collections of dotfiles, its target is replaced.
func replace(path string, data []byte) error {
	path, err := symlink.Target(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // a failed write leaves no secret about
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return fsync.Path(dir)
}
