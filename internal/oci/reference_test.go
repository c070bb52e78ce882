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
	tests := []struct{ ref, normalized, short string }{
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
		if got, err := Normalize(test.ref); got != test.normalized || err != nil {
			t.Errorf("Normalize(%q) = %q, %v; want %q", test.ref, got, err, test.normalized)
		}
		if got, err := DefaultName(test.ref); got != test.short || err != nil {
			t.Errorf("DefaultName(%q) = %q, %v; want %q", test.ref, got, err, test.short)
		}
	}
}

func TestBadNames(t *testing.T) {
	for _, ref := range []string{"", "Debian", "debian:", "a b", "debian@sha256:12", "http://x/y", "-x", someDigest[7:]} {
		if got, err := Normalize(ref); fault.KindOf(err) != fault.Usage {
			t.Errorf("Normalize(%q) = %q, %v; want a usage fault", ref, got, err)
		}
		if got, err := DefaultName(ref); fault.KindOf(err) != fault.Usage {
			t.Errorf("DefaultName(%q) = %q, %v; want a usage fault", ref, got, err)
		}
	}
}

func TestDefaultNameOfFiles(t *testing.T) {
	dir := t.TempDir()
	untagged := filepath.Join(dir, "My Image.tar")
	writeFile(t, untagged, tarOf(t, map[string]string{"manifest.json": `[{"Config":"c","Layers":[]}]`}))
	tagged := filepath.Join(dir, "x.tar")
	writeFile(t, tagged, tarOf(t, map[string]string{"manifest.json": `[{"Config":"c","RepoTags":["alpine:3.10"]}]`}))
	tests := []struct{ ref, want string }{
		{"oci:/some/Layout", "layout:latest"},
		{"oci:/some/my dir/:v1", "my-dir:v1"},
		{"oci:/some/layout:docker.io/library/debian:12", "debian:12"},
		{archivePrefix + tagged, "alpine:3.10"},
		{archivePrefix + tagged + ":@0", "alpine:3.10"},
		{archivePrefix + "/missing.tar:debian", "debian:latest"},
		{archivePrefix + untagged, "my-image:latest"},
	}
	for _, test := range tests {
		if got, err := DefaultName(test.ref); got != test.want || err != nil {
			t.Errorf("DefaultName(%q) = %q, %v; want %q", test.ref, got, err, test.want)
		}
	}
	for _, ref := range []string{"oci:", "oci::v1", "docker-archive:"} {
		if _, err := DefaultName(ref); fault.KindOf(err) != fault.Usage {
			t.Errorf("DefaultName(%q): got %v, want a usage fault", ref, err)
		}
		if _, err := Resolve(t.Context(), ref, Options{}); fault.KindOf(err) != fault.Usage {
			t.Errorf("Resolve(%q): got %v, want a usage fault", ref, err)
		}
	}
	if _, err := DefaultName("docker-archive:/missing.tar"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("DefaultName of a missing archive: got %v, want a not-found fault", err)
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

// FuzzNormalize checks that a full name is its own full name, and that the short form means the same.
func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"debian", "localhost:5000/a/b:c", "docker://a.b/c@" + someDigest, "library/x", "A/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		full, err := Normalize(ref)
		if err != nil {
			return
		}
		if again, err := Normalize(full); again != full || err != nil {
			t.Errorf("Normalize(%q) = %q, %v; want the same", full, again, err)
		}
		short, err := DefaultName(full)
		if err != nil {
			t.Fatalf("DefaultName(%q): %v", full, err)
		}
		back, err := Normalize(short)
		if err != nil || !strings.HasPrefix(full, back) {
			t.Errorf("Normalize(%q) = %q, %v; want a beginning of %q", short, back, err, full)
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
