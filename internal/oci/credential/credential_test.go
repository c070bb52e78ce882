package credential

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// world is a user's home, with a credential helper "test" on PATH, which keeps a file per server in a directory.
type world struct {
	*testing.T
	home    string
	env     map[string]string
	helpers []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, home: t.TempDir(), env: map[string]string{}}
	w.env["HOME"], w.env["XDG_RUNTIME_DIR"] = w.home, filepath.Join(w.home, "run")
	w.program("docker-credential-test", `
dir=`+filepath.Join(w.home, "kept")+`
mkdir -p "$dir"
input=$(cat)
case "$1" in
get) cat "$dir/$(echo "$input" | tr / _)" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
store) echo "$input" >"$dir/$(echo "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/' | tr / _)" ;;
erase) rm -f "$dir/$(echo "$input" | tr / _)" ;;
esac`)
	w.program("docker-credential-broken", `cat >&2 <&0; cat; echo "the keychain is locked"; exit 1`)
	t.Setenv("PATH", filepath.Join(w.home, "bin")+":"+os.Getenv("PATH"))
	return w
}

func (w *world) program(name, script string) {
	w.write("bin/"+name, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(filepath.Join(w.home, "bin", name), 0o700); err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(name, text string) string {
	w.Helper()
	path := filepath.Join(w.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *world) read(name string) string {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.home, name))
	if err != nil {
		w.Fatal(err)
	}
	return string(data)
}

func (w *world) store() *Store {
	return Open(func(name string) string { return w.env[name] }, 1000, w.helpers)
}

// auth is the entry of a user, whose password is the user's name backwards.
func auth(user string) string {
	password := []byte(user)
	slices.Reverse(password)
	return fmt.Sprintf(`{"auth": %q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+string(password))))
}

// TestFind: who is found for a repository, in which file, and in which order.
func TestFind(t *testing.T) {
	docker := ".docker/config.json"
	for _, test := range []struct {
		name                 string
		files                map[string]string
		env                  map[string]string // ~ is the home
		registry, repository string
		user, source         string // source is the end of a path
	}{
		{"docker's", map[string]string{docker: `{"auths": {"a.example": ` + auth("one") + `}}`}, nil, "a.example", "x", "one", docker},
		{"nothing", map[string]string{docker: `{"auths": {"a.example": ` + auth("one") + `}}`}, nil, "b.example", "x", "", ""},
		{"another port", map[string]string{docker: `{"auths": {"a.example": ` + auth("one") + `}}`}, nil, "a.example:5000", "x", "", ""},
		{"podman's, of the session", map[string]string{"run/containers/auth.json": `{"auths": {"a.example": ` + auth("two") + `}}`},
			nil, "a.example", "x", "two", "run/containers/auth.json"},
		{"podman's, of the user", map[string]string{".config/containers/auth.json": `{"auths": {"a.example": ` + auth("three") + `}}`},
			nil, "a.example", "x", "three", ".config/containers/auth.json"},
		{"docker's first", map[string]string{docker: `{"auths": {"a.example": ` + auth("one") + `}}`,
			"run/containers/auth.json": `{"auths": {"a.example": ` + auth("two") + `}}`}, nil, "a.example", "x", "one", docker},
		{"of the repository", map[string]string{docker: `{"auths": {"a.example": ` + auth("all") + `, "a.example/team": ` + auth("team") +
			`, "a.example/team/tool": ` + auth("tool") + `}}`}, nil, "a.example", "team/tool", "tool", docker},
		{"of its team", map[string]string{docker: `{"auths": {"a.example": ` + auth("all") + `, "a.example/team": ` + auth("team") +
			`, "a.example/team/tool": ` + auth("tool") + `}}`}, nil, "a.example", "team/other", "team", docker},
		{"of neither", map[string]string{docker: `{"auths": {"a.example": ` + auth("all") + `, "a.example/team": ` + auth("team") + `}}`},
			nil, "a.example", "teams/tool", "all", docker},
		{"an old key", map[string]string{docker: `{"auths": {"https://a.example/v1/": ` + auth("old") + `}}`}, nil, "a.example", "x", "old", docker},
		{"Docker Hub", map[string]string{docker: `{"auths": {"https://index.docker.io/v1/": ` + auth("hub") + `}}`},
			nil, "docker.io", "library/debian", "hub", docker},
		{"Docker Hub by its host", map[string]string{docker: `{"auths": {"https://index.docker.io/v1/": ` + auth("hub") + `}}`},
			nil, "registry-1.docker.io", "library/debian", "hub", docker},
		{"Docker Hub's helper by its host", map[string]string{docker: `{"credsStore": "test"}`,
			"kept/https:__index.docker.io_v1_": `{"ServerURL":"https://index.docker.io/v1/","Username":"helped","Secret":"depleh"}`},
			nil, "index.docker.io", "x", "helped", "docker-credential-test (~/" + docker + ")"},
		{"Docker Hub by podman", map[string]string{docker: `{"auths": {"docker.io": ` + auth("hub") + `}}`}, nil, "docker.io", "x", "hub", docker},
		{"DOCKER_CONFIG", map[string]string{"d/config.json": `{"auths": {"a.example": ` + auth("d") + `}}`,
			docker: `{"auths": {"a.example": ` + auth("one") + `}}`}, map[string]string{"DOCKER_CONFIG": "~/d"}, "a.example", "x", "d", "d/config.json"},
		{"REGISTRY_AUTH_FILE, alone", map[string]string{"f": `{"auths": {"b.example": ` + auth("f") + `}}`,
			docker: `{"auths": {"a.example": ` + auth("one") + `}}`}, map[string]string{"REGISTRY_AUTH_FILE": "~/f"}, "a.example", "x", "", ""},
		{"REGISTRY_AUTH_FILE", map[string]string{"f": `{"auths": {"a.example": ` + auth("f") + `}}`},
			map[string]string{"REGISTRY_AUTH_FILE": "~/f"}, "a.example", "x", "f", "/f"},
		{"XDG_CONFIG_HOME", map[string]string{"c/containers/auth.json": `{"auths": {"a.example": ` + auth("c") + `}}`},
			map[string]string{"XDG_CONFIG_HOME": "~/c"}, "a.example", "x", "c", "c/containers/auth.json"},
		{"DOCKER_AUTH_CONFIG", map[string]string{docker: `{"auths": {"a.example": ` + auth("one") + `}}`},
			map[string]string{"DOCKER_AUTH_CONFIG": `{"auths": {"a.example": ` + auth("env") + `}}`}, "a.example", "x", "env", "$DOCKER_AUTH_CONFIG"},
		{"user and password apart", map[string]string{docker: `{"auths": {"a.example": {"username": "apart", "password": "trapa"}}}`},
			nil, "a.example", "x", "apart", docker},
		{"a registry's helper", map[string]string{docker: `{"credHelpers": {"a.example": "test"}, "auths": {"a.example": {}}}`,
			"kept/a.example": `{"ServerURL":"a.example","Username":"helped","Secret":"depleh"}`}, nil, "a.example", "x", "helped",
			"docker-credential-test (~/" + docker + ")"},
		{"the helper of all", map[string]string{docker: `{"credsStore": "test"}`,
			"kept/https:__index.docker.io_v1_": `{"ServerURL":"https://index.docker.io/v1/","Username":"helped","Secret":"depleh"}`},
			nil, "docker.io", "x", "helped", "docker-credential-test (~/" + docker + ")"},
		{"a helper without an answer", map[string]string{docker: `{"credsStore": "test", "auths": {"a.example": ` + auth("one") + `}}`},
			nil, "a.example", "x", "one", docker},
		{"a helper that fails", map[string]string{docker: `{"credsStore": "broken"}`,
			"run/containers/auth.json": `{"auths": {"a.example": ` + auth("two") + `}}`}, nil, "a.example", "x", "two", "run/containers/auth.json"},
		{"damage before it", map[string]string{docker: `{"auths`,
			"run/containers/auth.json": `{"auths": {"a.example": ` + auth("two") + `}}`}, nil, "a.example", "x", "two", "run/containers/auth.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			for name, text := range test.files {
				w.write(name, text)
			}
			for name, value := range test.env {
				w.env[name] = strings.ReplaceAll(value, "~", w.home)
			}
			got := w.store().Find(t.Context(), test.registry, test.repository)
			password := []byte(test.user)
			slices.Reverse(password)
			source := strings.ReplaceAll(test.source, "~", w.home)
			if got.Username != test.user || got.Password != string(password) || !strings.HasSuffix(got.Source, source) {
				t.Errorf("got %v with the password %q (problems: %v), want user %q of %s", got.Credential, got.Password, got.Problems, test.user, source)
			}
		})
	}
}

// TestProblems: what cannot be read is said, and ends no search. No secret is in what is said.
func TestProblems(t *testing.T) {
	for text, want := range map[string]string{
		`{"auths": {"a.example": {"auth": "c2VjcmV0"}}}`:   "USER:PASSWORD",
		`{"auths": {"a.example": {"auth": "se:c:r:e:t"}}}`: "base64",
		`{"auths": [`:                      "config.json",
		`{"credsStore": "broken"}`:         "the keychain is locked",
		`{"credsStore": "not-there"}`:      "docker-credential-not-there",
		`{"credsStore": "../../bin/evil"}`: "not the name of a credential helper",
	} {
		w := newWorld(t)
		w.write(".docker/config.json", text)
		found := w.store().Find(t.Context(), "a.example", "x")
		said := fmt.Sprint(found.Problems)
		if !found.None() || !strings.Contains(said, want) || strings.Contains(said, "secret") || strings.Contains(said, "se:c") {
			t.Errorf("%s: got %v and the problems %s, want nothing and %q", text, found.Credential, said, want)
		}
	}
}

// TestStringHasNoSecret: credentials can be printed.
func TestStringHasNoSecret(t *testing.T) {
	c := Credential{Username: "me", Password: "secret", IdentityToken: "secret", RegistryToken: "secret", Source: "a file"}
	token := Credential{IdentityToken: "secret", Source: "a file"}
	for _, v := range []any{c, token, Found{Credential: c}, &c, []Credential{c}} {
		for _, verb := range []string{"%v", "%+v", "%s", "%#v"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "secret") || !strings.Contains(got, "a file") {
				t.Errorf("%s of %T: got %s, want the source and no secret", verb, v, got)
			}
		}
	}
}

// TestSave: what is saved is found, in a file that its owner alone can read, and nothing else in the file is lost.
func TestSave(t *testing.T) {
	for _, test := range []struct {
		name, config string
		helpers      []string
		registry     string
		place        string
		inFile       bool // whether the password is
	}{
		{"new file", "", nil, "a.example", ".docker/config.json", true},
		{"old file", `{"auths": {"b.example": ` + auth("b") + `}, "psFormat": "x", "n": 1e300}`, nil, "a.example", ".docker/config.json", true},
		{"no list", `{"auths": null}`, nil, "a.example", ".docker/config.json", true},
		{"nothing", "null", nil, "a.example", ".docker/config.json", true},
		{"another password", `{"auths": {"https://a.example/v1/": ` + auth("old") + `}}`, nil, "a.example", ".docker/config.json", true},
		{"Docker Hub", "", nil, "docker.io", ".docker/config.json", true},
		{"helper of all", `{"credsStore": "test"}`, nil, "docker.io", "docker-credential-test (", false},
		{"a registry's helper", `{"credHelpers": {"a.example": "test"}}`, nil, "a.example", "docker-credential-test (", false},
		{"another registry's helper", `{"credHelpers": {"b.example": "test"}}`, nil, "a.example", ".docker/config.json", true},
		{"registries.conf's helper", "", []string{"test", Files}, "a.example", "docker-credential-test", false},
		{"registries.conf's order", "", []string{Files, "test"}, "a.example", ".docker/config.json", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.helpers = test.helpers
			if test.config != "" {
				w.write(".docker/config.json", test.config)
			}
			place, err := w.store().Save(t.Context(), test.registry, Credential{Username: "me", Password: "pass:word"})
			if err != nil || !strings.Contains(place, test.place) {
				t.Fatalf("Save: got %q and the error %v, want it in %s", place, err, test.place)
			}
			found := w.store().Find(t.Context(), test.registry, "x")
			if found.Username != "me" || found.Password != "pass:word" {
				t.Errorf("Find: got %v with %q (problems: %v), want what was saved", found.Credential, found.Password, found.Problems)
			}
			w.checkFile(test.config, test.inFile)
			places, err := w.store().Erase(t.Context(), test.registry)
			if err != nil || len(places) != 1 {
				t.Errorf("Erase: got %q and the error %v, want one place", places, err)
			}
			if found := w.store().Find(t.Context(), test.registry, "x"); !found.None() {
				t.Errorf("after Erase: found %v, want nothing", found.Credential)
			}
			if places, err := w.store().Erase(t.Context(), test.registry); err != nil || len(places) != 0 {
				t.Errorf("Erase again: got %q and the error %v, want nothing", places, err)
			}
		})
	}
}

// checkFile checks docker's file after a login: its mode, and that what was in it is still there.
func (w *world) checkFile(before string, inFile bool) {
	w.Helper()
	path := filepath.Join(w.home, ".docker/config.json")
	info, err := os.Stat(path)
	if err != nil {
		if !inFile {
			return
		}
		w.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		w.Errorf("%s has the mode %o, want 600", path, mode)
	}
	text := w.read(".docker/config.json")
	if got := strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("me:pass:word"))); got != inFile {
		w.Errorf("the password is in the file: %t, want %t:\n%s", got, inFile, text)
	}
	var was, is map[string]json.RawMessage
	if before != "" && json.Unmarshal([]byte(before), &was) != nil || json.Unmarshal([]byte(text), &is) != nil {
		w.Fatalf("no JSON: %s", text)
	}
	for key, value := range was {
		var plain any
		_ = json.Unmarshal(value, &plain)
		want, _ := json.Marshal(plain)
		_ = json.Unmarshal(is[key], &plain)
		if got, _ := json.Marshal(plain); key != "auths" && string(got) != string(want) {
			w.Errorf("%s of the file: got %s, want %s", key, is[key], value)
		}
	}
	if strings.Contains(before, "b.example\": {\"auth") && w.store().Find(w.Context(), "b.example", "x").Username != "b" {
		w.Errorf("the other registry's credentials are gone:\n%s", text)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		w.Errorf("%s has %v, want the file alone", filepath.Dir(path), entries)
	}
}

// TestSaveFails: a login that cannot be stored leaves the file as it was, and says no secret.
func TestSaveFails(t *testing.T) {
	for name, config := range map[string]string{
		"damaged": `{"auths": [`, "of another form": `{"auths": "x"}`, "broken helper": `{"credsStore": "broken"}`,
	} {
		w := newWorld(t)
		w.write(".docker/config.json", config)
		place, err := w.store().Save(t.Context(), "a.example", Credential{Username: "me", Password: "secret"})
		if err == nil || strings.Contains(err.Error(), "secret\"") {
			t.Errorf("%s: got %q and the error %v, want an error without the secret", name, place, err)
		}
		if got := w.read(".docker/config.json"); got != config {
			t.Errorf("%s: the file is %q now", name, got)
		}
	}
}

// TestSaveThroughLink: a link to a file elsewhere stays one, also where that file is not there yet.
func TestSaveThroughLink(t *testing.T) {
	for _, target := range []string{"../dotfiles/config.json", "../dotfiles/new.json"} {
		w := newWorld(t)
		w.write("dotfiles/config.json", "{}")
		if err := os.Mkdir(filepath.Join(w.home, ".docker"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(w.home, ".docker/config.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store().Save(t.Context(), "a.example", Credential{Username: "me", Password: "x"}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(w.home, ".docker/config.json")); err != nil || got != target {
			t.Errorf("the link to %s: got %q and %v", target, got, err)
		}
		if !strings.Contains(w.read(filepath.Join(".docker", target)), "a.example") {
			t.Errorf("the file %s that the link names has not got the login", target)
		}
	}
}

// TestLoginsAtOnce: none is lost.
func TestLoginsAtOnce(t *testing.T) {
	w := newWorld(t)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			registry := fmt.Sprintf("r%d.example", i)
			if _, err := w.store().Save(t.Context(), registry, Credential{Username: "me", Password: "x"}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i := range 20 {
		if found := w.store().Find(t.Context(), fmt.Sprintf("r%d.example", i), "x"); found.None() {
			t.Errorf("the login to r%d.example is lost", i)
		}
	}
}

// TestRemaining: what logging out leaves is known.
func TestRemaining(t *testing.T) {
	w := newWorld(t)
	w.write(".docker/config.json", `{"auths": {"a.example/team": `+auth("team")+`}}`)
	w.write("run/containers/auth.json", `{"auths": {"a.example": `+auth("two")+`}}`)
	got := w.store().Remaining(t.Context(), "a.example")
	if len(got) != 2 || !strings.HasSuffix(got[0], "run/containers/auth.json") || !strings.Contains(got[1], "for a.example/team") {
		t.Errorf("got %q, want podman's file, and docker's for the team", got)
	}
}

// TestHelperThatHangs: whoever waits for it can stop.
func TestHelperThatHangs(t *testing.T) {
	w := newWorld(t)
	w.program("docker-credential-slow", "sleep 2")
	w.write(".docker/config.json", `{"credsStore": "slow"}`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if found := w.store().Find(ctx, "a.example", "x"); len(found.Problems) == 0 {
		t.Errorf("got %v, want the end of the wait", found)
	}
}

func TestRegistry(t *testing.T) {
	for name, want := range map[string]string{
		"a.example": "a.example", "localhost:5000": "localhost:5000", "https://a.example/": "a.example", "https://a.example/v2/": "a.example",
		"docker.io": "docker.io", "index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io",
		"a.example/team": "", "": "", "https://": "", "user@a.example": "", "a b": "",
	} {
		got, ok := Registry(name)
		if got != want || ok != (want != "") {
			t.Errorf("Registry(%q) = %q, %t, want %q", name, got, ok, want)
		}
	}
}
