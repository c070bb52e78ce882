package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/fault"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestNames(t *testing.T) {
	tests := []struct{ ref, full, short string }{
		{"debian", "docker.io/library/debian:latest", "debian:latest"},
		{"debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"},
		{"docker://debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"},
		{"docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"},
		{"owner/image", "docker.io/owner/image:latest", "owner/image:latest"},
		{"ghcr.io/o/i:v1", "ghcr.io/o/i:v1", "ghcr.io/o/i:v1"},
		{"localhost/x", "localhost/x:latest", "localhost/x:latest"},
		{"localhost:5000/debian:bookworm", "localhost:5000/debian:bookworm", "localhost:5000/debian:bookworm"},
		{"debian@" + someDigest, "docker.io/library/debian@" + someDigest, "debian@" + someDigest},
		{"debian:12@" + someDigest, "docker.io/library/debian:12@" + someDigest, "debian:12"},
	}
	for _, test := range tests {
		if named, err := parseNamed(test.ref); err != nil || named.String() != test.full {
			t.Errorf("parseNamed(%q) = %v, %v; want %q", test.ref, named, err, test.full)
		}
		if got, ok := FamiliarName(test.ref); got != test.short || !ok {
			t.Errorf("FamiliarName(%q) = %q, %t; want %q", test.ref, got, ok, test.short)
		}
	}
}

func TestBadNames(t *testing.T) {
	for _, ref := range []string{"", "Debian", "debian:", "a b", "debian@sha256:12", "http://x/y", "-x", someDigest[7:]} {
		if got, ok := FamiliarName(ref); got != "" || ok {
			t.Errorf("FamiliarName(%q) = %q, %t; want none", ref, got, ok)
		}
		if _, err := Resolve(t.Context(), ref, Options{}); fault.KindOf(err) != fault.Usage {
			t.Errorf("Resolve(%q): got %v, want a usage fault", ref, err)
		}
	}
	for _, ref := range []string{"oci:dir", "oci:dir:debian", "docker-archive:debian", "docker-archive:x.tar:debian:12"} {
		if got, ok := FamiliarName(ref); got != "" || ok {
			t.Errorf("FamiliarName(%q) = %q, %t; want none, as it is not in a registry", ref, got, ok)
		}
	}
}

// TestNamesOfFiles checks what images of layouts and archives are called, and by which reference they are known.
func TestNamesOfFiles(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := newContent(t)
	entry := c.image("linux/amd64", "x")
	c.writeLayout(filepath.Join(dir, "my Layout"), named(entry, "v1"), named(entry, "docker.io/library/debian:12"))
	c.writeLayout(filepath.Join(dir, "single"), entry)
	for file, tags := range map[string][]string{
		"My Image.tar": nil, "tagged.tar": {"alpine:3.10", "b:2"}, "odd.tar": {"<none>:<none>", "b:2"},
	} {
		members := make(map[string]string)
		plain, err := os.ReadFile(writeArchive(t, members, savedImage(t, members, tags, "x")))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, file, plain)
		writeFile(t, file+".gz", gzipped(t, plain))
	}
	tests := []struct{ prefix, path, ref, name string }{
		{layoutPrefix, "single", "", "single:latest"},
		{layoutPrefix, "my Layout", ":v1", "my-layout:v1"},
		{layoutPrefix, "my Layout", ":docker.io/library/debian:12", "debian:12"},
		{archivePrefix, "My Image.tar", "", "my-image:latest"},
		{archivePrefix, "My Image.tar.gz", "", "my-image:latest"},
		{archivePrefix, "tagged.tar", "", "alpine:3.10"},
		{archivePrefix, "tagged.tar.gz", "", "alpine:3.10"},
		{archivePrefix, "tagged.tar", ":@0", "alpine:3.10"},
		{archivePrefix, "tagged.tar", ":docker.io/library/b:2", "b:2"},
		{archivePrefix, "odd.tar", "", "b:2"},
	}
	for _, test := range tests {
		full := test.prefix + filepath.Join(dir, test.path) + test.ref
		for _, path := range []string{test.path, "./" + test.path, filepath.Join(dir, test.path)} {
			image := resolveOK(t, test.prefix+path+test.ref, "linux/amd64")
			if image.Name != test.name || image.Reference != full {
				t.Errorf("Resolve(%q): got the name %q and the reference %q, want %q and %q",
					test.prefix+path+test.ref, image.Name, image.Reference, test.name, full)
			}
		}
	}
	for _, ref := range []string{"oci:", "oci::v1", "docker-archive:"} {
		if _, err := Resolve(t.Context(), ref, Options{}); fault.KindOf(err) != fault.Usage {
			t.Errorf("Resolve(%q): got %v, want a usage fault", ref, err)
		}
	}
}

// TestSamePathElsewhere checks that a relative path does not count as the same reference in another directory.
func TestSamePathElsewhere(t *testing.T) {
	c := newContent(t)
	entry := c.image("linux/amd64", "x")
	members := make(map[string]string)
	plain, err := os.ReadFile(writeArchive(t, members, savedImage(t, members, nil, "x")))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]string)
	for _, dir := range []string{t.TempDir(), t.TempDir()} {
		c.writeLayout(filepath.Join(dir, "l"), entry)
		writeFile(t, filepath.Join(dir, "i.tar"), plain)
		t.Chdir(dir)
		for _, ref := range []string{"oci:l", "docker-archive:i.tar"} {
			got := resolveOK(t, ref, "linux/amd64").Reference
			if before, ok := seen[got]; ok {
				t.Errorf("Resolve(%q) in %s: got the reference %q, which it had in %s", ref, dir, got, before)
			}
			seen[got] = dir
		}
	}
}

func TestParsePlatform(t *testing.T) {
	tests := []struct{ text, want string }{
		{"linux/amd64", "linux/amd64"},
		{"linux/x86_64", "linux/amd64"},
		{"Linux/aarch64", "linux/arm64"},
		{"linux/arm64/v8", "linux/arm64"},
		{"linux/arm/v7", "linux/arm/v7"},
		{"linux/amd64/v3", "linux/amd64/v3"},
		{"linux", ""},
		{"linux/", ""},
		{"/amd64", ""},
		{"linux/arm/v7/x", ""},
		{"windows", ""},
		{"", ""},
	}
	for _, test := range tests {
		got, err := ParsePlatform(test.text)
		if test.want == "" {
			if fault.KindOf(err) != fault.Usage {
				t.Errorf("ParsePlatform(%q) = %v, %v; want a usage fault", test.text, got, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("ParsePlatform(%q) = %v, %v; want %s", test.text, got, err, test.want)
		}
	}
}

func TestParsePlatformOfOtherSystems(t *testing.T) {
	for _, text := range []string{"windows/amd64", "Darwin/arm64", "linus/amd64", "amd64/linux"} {
		_, err := ParsePlatform(text)
		checkFault(t, err, fault.Platform, text, "only runs images for linux", "linux/amd64")
	}
}

// FuzzFamiliarName checks that a full name is its own full name, and that the short form means the same.
func FuzzFamiliarName(f *testing.F) {
	for _, seed := range []string{"debian", "localhost:5000/a/b:c", "docker://a.b/c@" + someDigest, "library/x", "A/b", "oci:x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		named, err := parseNamed(ref)
		if _, ok := FamiliarName(ref); ok && err != nil {
			t.Errorf("FamiliarName(%q): got a name, want none, as with parseNamed: %v", ref, err)
		}
		if err != nil {
			return
		}
		full := named.String()
		if again, err := parseNamed(full); err != nil || again.String() != full {
			t.Errorf("parseNamed(%q) = %v, %v; want the same", full, again, err)
		}
		short := shortName(named)
		back, err := parseNamed(short)
		if err != nil || !strings.HasPrefix(full, back.String()) {
			t.Errorf("parseNamed(%q) = %v, %v; want a beginning of %q", short, back, err, full)
		}
	})
}

// fixture is Alpine 3.10 as docker saved it. scripts/test.sh says where it is.
func fixture(t *testing.T) string {
	t.Helper()
	file := os.Getenv("BANGER_TEST_ALPINE")
	if file == "" {
		excuse(t, "alpine", "BANGER_TEST_ALPINE is not set")
	}
	return file
}

// excuse skips the test if the environment excuses the reason by its name, and fails it otherwise.
func excuse(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("BANGER_TEST_EXCUSE"), ","), name) {
		t.Skipf("excused %q: %s", name, reason)
	}
	t.Fatalf("%s (set BANGER_TEST_EXCUSE=%s to go on without)", reason, name)
}
